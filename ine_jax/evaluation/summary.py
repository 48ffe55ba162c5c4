"""From stored scores to the table: a pure function of the run directory, without a model or a clock.

Defence success rate (DSR): share of the scored images that do not show the concept, 1 - attack success rate. Kept:
share of the scored images that show every object that was asked for. Drawn: share that show the concept, on lists of
words that an unlearned model should have forgotten. Unscored images are in no count. Rates have Wilson's 95 % interval,
means of metrics that of the normal approximation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ine_jax.errors import InputError
from ine_jax.evaluation import counting
from ine_jax.evaluation.cells import Table, of_role
from ine_jax.evaluation.counting import Counts, DetectorReader, MetricReader
from ine_jax.evaluation.detectors.presets import Preset, concept, default_preset
from ine_jax.evaluation.distances import distances
from ine_jax.evaluation.metrics.means import INTERVAL
from ine_jax.storage.runs import Run

About = Mapping[str, Mapping[str, Any]]  # `<id>@<version>` -> what the detector or metric says of itself


def summarise(
    run: Run, detector: str | None = None, preset: Preset | None = None, threshold: float | None = None
) -> dict[str, Any]:
    """The summary of a run: cells, controls, paired tests, provenance. Only blocks that are drawn and scored count.

    `detector` (a `<detector>@<version>` of the run, or the id alone) is the one whose verdicts fill the tables: by
    default the one that `preset` was made for, else the first by name. The others are counted beside it, each by its
    default preset, under "others". `threshold` takes the place of the first one's preset's. InputError where there is
    no detector, or where it cannot be read with `preset`.
    """
    stores: About = {name: run.about(name) for name in run.scorers()}
    metrics = {name: about for name, about in stores.items() if about.get("kind") == "metric"}
    detectors = {name: about for name, about in stores.items() if name not in metrics}
    first = _first(run, detectors, detector, preset)
    readers = _readers(detectors, first, preset, threshold)
    gauges = {name: MetricReader(tuple(about["labels"])) for name, about in metrics.items() if "features" not in about}
    counts = counting.count(run, {**readers, **gauges})
    sets = sorted(metrics.keys() - gauges.keys())
    fid = {place: entry for name in sets for place, entry in distances(run, name, metrics[name], counts.blocks).items()}
    table = Table(run.config, counts, first, readers[first], gauges, fid)
    specs = run.config["cells"]
    told = {name: {**about, "interval": INTERVAL} if name in gauges else about for name, about in metrics.items()}
    images = _images(run, counts, first)
    return {
        "schema": 1,
        "detector": first,
        "preset": _preset(readers[first].preset),
        "images": images,
        "complete": images["processed"] == images["total"],
        "cells": [table.cell(i) for i in of_role(specs, main=True)],
        "controls": [table.cell(i) for i in of_role(specs, main=False)],
        "paired": list(table.paired()),
        "differences": list(table.differences()),
        "sensitivity": list(table.curves()),
        "detectors": detectors,
        "others": {name: _other(run, counts, name, judge) for name, judge in readers.items() if name != first},
        "metrics": told,
        "lists": {name: {"measure": entry["measure"], "n": entry["n"]} for name, entry in run.config["lists"].items()},
        "sampler": run.config["sampler"],
        "commands": [run.record["command"]],
        "versions": run.record["versions"],
        "commit": run.record["commit"],
        "hashes": {**run.record["hashes"], **_hashes(run.config)},
    }


def _first(run: Run, detectors: About, wanted: str | None, preset: Preset | None) -> str:
    """Name of the detector that fills the tables."""
    made_for = [name for name, about in detectors.items() if preset and about.get("id") == preset.detector]
    fitting = [name for name in detectors if wanted in (name, name.split("@")[0])] if wanted else made_for[:1]
    if len(fitting) == 1 or (detectors and not wanted):
        return (fitting or sorted(detectors))[0]
    given = (
        f"detector {wanted!r}: {run.root} has {len(fitting)} of that name" if wanted else f"{run.root} is not scored"
    )
    raise InputError(given, ", ".join(fitting or detectors), "run `ine score`, or name one of its detectors")


def _readers(detectors: About, first: str, preset: Preset | None, threshold: float | None) -> dict[str, DetectorReader]:
    """How each detector is read; one that its default preset cannot read is left out, unless it is the first."""
    readers = {}
    for name, about in detectors.items():
        chosen = preset if preset and name == first else default_preset(str(about.get("id")))
        if threshold is not None and name == first:
            chosen = dataclasses.replace(chosen, threshold=threshold)
        try:
            readers[name] = DetectorReader(chosen, concept(chosen, about), frozenset(about.get("labels") or ()))
        except InputError:
            if name == first:
                raise
    return readers


def _images(run: Run, counts: Counts, name: str) -> dict[str, int]:
    """Images that were planned, that that have been scored, and of them those without a verdict."""
    columns = counts.column(name).values()
    processed = sum(int((~np.isnan(values)).sum()) for values in columns)
    unscored = sum(int((values == counting.UNSCORED).sum()) for values in columns)
    planned = sum(n for spec in run.config["cells"] for n in spec["lists"].values())
    return {"total": planned, "processed": processed, "unscored": unscored}


def _other(run: Run, counts: Counts, name: str, judge: DetectorReader) -> dict[str, Any]:
    """What a further detector says: its rate of every list in every main cell, and its curves."""
    table = Table(run.config, counts, name, judge, {}, {})
    rates = [
        {"cell": place, "list": title, **table.rate((i, title))}
        for place, i in enumerate(of_role(run.config["cells"], main=True))
        for title in run.config["cells"][i]["lists"]
        if table.measure(title) != "prior"
    ]
    told = {"preset": _preset(judge.preset), "images": _images(run, counts, name)}
    return {**told, "rates": rates, "sensitivity": list(table.curves())}


def _preset(preset: Preset) -> dict[str, Any]:
    return {**dataclasses.asdict(preset), "labels": list(preset.labels)}


def _origin(spec: Mapping[str, Any]) -> str:
    """Name of a cell's embedding: model and seed of its inversion where known, else the name of its negative."""
    if spec["embedding_from"]:
        return f"{spec['embedding_from']}, seed {spec['embedding_seed']}"
    return str(spec["negative_name"] or spec["negative"])


def _hashes(config: Mapping[str, Any]) -> dict[str, Any]:
    embeddings = {_origin(spec): spec["embeddings"] for spec in config["cells"] if spec["embeddings"]}
    return {"embeddings": embeddings, "prompts": {name: entry["sha256"] for name, entry in config["lists"].items()}}


def add_times(summary: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """The summary with `seconds_per_image` in every cell: the median over its blocks, so that compiling does not count.

    Clock times are not reproducible; a summary that is compared byte for byte is taken without them.
    """
    seconds: dict[int, list[float]] = {}
    for entry in run.timings():
        if entry.get("images"):
            seconds.setdefault(entry["cell"], []).append(entry["seconds"] / entry["images"])
    order = {
        role: [i for i, spec in enumerate(run.config["cells"]) if (spec["role"] == "main") == (role == "cells")]
        for role in ("cells", "controls")
    }
    timed = {
        role: [
            {**cell, "seconds_per_image": _median(seconds.get(i, []))}
            for i, cell in zip(order[role], summary[role], strict=True)
        ]
        for role in order
    }
    return {**summary, **timed}


def _median(values: list[float]) -> float | None:
    # the lower median: of a first block that compiled and a second that did not, the second
    return round(sorted(values)[(len(values) - 1) // 2], 5) if values else None
