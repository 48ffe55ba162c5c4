"""From stored scores to summary.json: a pure function of the run directory, without a model or a clock.

Defense success rate (DSR): share of the scored images that do not show the concept, 1 - attack success rate (ASR).
Prior preservation (PP): share that show every object that was asked for. On sets of words that an unlearned model
should have forgotten: share that show the concept. Images without a verdict are in no count.
"""

import dataclasses
from collections.abc import Mapping
from typing import cast

import numpy as np

from ine_jax.errors import InputError
from ine_jax.evaluation import counting
from ine_jax.evaluation.cells import Table, of_role
from ine_jax.evaluation.counting import Counts, MetricReader
from ine_jax.evaluation.detectors.presets import Preset, concept, default_preset
from ine_jax.evaluation.distances import distances
from ine_jax.evaluation.metrics.statistics import INTERVAL
from ine_jax.evaluation.outcomes import DetectorReader
from ine_jax.evaluation.records import CellEntry, ImageCounts, OtherDetector, PlacedRate, PresetRecord, Summary
from ine_jax.storage.records import CellSpec, RunConfig, ScorerRecord
from ine_jax.storage.runs import Run

About = Mapping[str, ScorerRecord]  # `<id>@<version>` -> description of the detector or metric


def summarise(
    run: Run, detector: str | None = None, preset: Preset | None = None, threshold: float | None = None
) -> Summary:
    """The summary of a run: cells, controls, paired tests, provenance. Only finished and scored blocks count.

    Args:
        detector: the one that fills the tables, as `<id>@<version>` or the id alone; by default the one that `preset`
            was made for, else the one that the run's config names, else the only one. Others are under "others", each
            read by its default preset.
        preset: how that detector is read; by default its own.
        threshold: replaces the threshold of the preset.
    """
    stores: About = {name: run.about(name) for name in run.scorers()}
    metrics = {name: about for name, about in stores.items() if about.get("kind") == "metric"}
    detectors = {name: about for name, about in stores.items() if name not in metrics}
    first = _first(run, detectors, detector, preset)
    presets = {name: default_preset(about["id"]) for name, about in detectors.items()}
    presets[first] = preset or presets[first]
    if threshold is not None:
        presets[first] = dataclasses.replace(presets[first], threshold=threshold)
    readers = _readers(detectors, first, presets)
    means = {name: MetricReader(tuple(about["labels"])) for name, about in metrics.items() if "features" not in about}
    counts = counting.count(run, {**readers, **means})
    fid = {
        place: entry
        for name in sorted(metrics.keys() - means.keys())
        for place, entry in distances(run, name, metrics[name], counts.blocks).items()
    }
    table = Table(run.config, counts, first, readers[first], means, fid)
    images = _images(run, counts, first)
    config, record = run.config, run.record
    return {
        "schema": 1,
        "detector": first,
        "preset": _preset(presets[first]),
        "images": images,
        "complete": images["processed"] == images["total"],
        "cells": [table.cell(i) for i in of_role(config["cells"], main=True)],
        "controls": [table.cell(i) for i in of_role(config["cells"], main=False)],
        "paired": table.paired(),
        "differences": list(table.differences()),
        "sensitivity": list(table.curves()),
        "detectors": detectors,
        "others": {
            name: _other(run, counts, name, reader, presets[name]) for name, reader in readers.items() if name != first
        },
        "metrics": {n: {**about, "interval": INTERVAL} if n in means else about for n, about in metrics.items()},
        "lists": {name: {"measure": entry["measure"], "n": entry["n"]} for name, entry in config["lists"].items()},
        "sampler": {**config["sampler"]},
        "commands": [stage["command"] for stage in (*record.get("earlier", ()), record)],
        "versions": {**record["versions"]},
        "commit": record["commit"],
        "hashes": {**record["hashes"], **_hashes(config)},
    }


def _first(run: Run, detectors: About, wanted: str | None, preset: Preset | None) -> str:
    """Name of the detector that fills the tables: never one that somebody has only added."""
    named = run.config.get("detector", "")
    made_for = [name for name, about in detectors.items() if preset and about["id"] == preset.detector]
    if wanted:
        fitting = [name for name in detectors if wanted in (name, name.split("@")[0])]
        given = f"detector {wanted!r}: {run.root} has {len(fitting)} of that name"
    elif made_for and named not in made_for:
        fitting, given = made_for, f"{run.root}: {len(made_for)} detectors of preset {preset.name if preset else ''}"
    elif named:
        fitting, given = [name for name in detectors if name == named], f"{run.root} is not scored by its {named}"
    else:
        fitting, given = [*detectors], f"{run.root} has {len(detectors)} detectors, and its config names none"
    if len(fitting) == 1:
        return fitting[0]
    given = given if detectors else f"{run.root} is not scored"
    raise InputError(given, ", ".join(fitting or detectors), "run `ine score`, or name one with --detector")


def _readers(detectors: About, first: str, presets: Mapping[str, Preset]) -> dict[str, DetectorReader]:
    """How each detector is read; one that its default preset cannot read is left out, unless it is the first."""
    readers = {}
    for name, about in detectors.items():
        preset = presets[name]
        try:
            readers[name] = DetectorReader(concept(preset, about), frozenset(about["labels"]), preset.threshold)
        except InputError:
            if name == first:
                raise
    return readers


def _images(run: Run, counts: Counts, name: str) -> ImageCounts:
    """Images planned, processed by a detector, of those the ones without a verdict, and the degenerate among them."""
    columns = counts.column(name).values()
    return {
        "total": sum(n for spec in run.config["cells"] for n in spec["lists"].values()),
        "processed": sum(int((~np.isnan(values)).sum()) for values in columns),
        "unscored": sum(int((values == counting.UNSCORED).sum()) for values in columns),
        "degenerate": sum(int(np.nansum(values)) for values in counts.column(name, counting.DEGENERATE).values()),
    }


def _other(run: Run, counts: Counts, name: str, reader: DetectorReader, preset: Preset) -> OtherDetector:
    """A further detector: its rate of every prompt set in every main cell, and its curves."""
    table = Table(run.config, counts, name, reader, {}, {})
    rates: list[PlacedRate] = []
    for place, i in enumerate(of_role(run.config["cells"], main=True)):
        for title in run.config["cells"][i]["lists"]:
            if table.measure(title) != "prior":
                entry = cast(PlacedRate, {"cell": place, "list": title, **table.rate((i, title))})
                if title in counts.categories:
                    entry["categories"] = table.category_rates((i, title))
                rates.append(entry)
    images = _images(run, counts, name)
    return {"preset": _preset(preset), "images": images, "rates": rates, "sensitivity": list(table.curves())}


def _preset(preset: Preset) -> PresetRecord:
    return cast(PresetRecord, {**dataclasses.asdict(preset), "labels": list(preset.labels)})


def _origin(spec: CellSpec) -> str:
    """Name of a cell's embedding: model and seed of its inversion where known, else the name of its negative."""
    if spec["embedding_from"]:
        seed = spec["embedding_seed"]
        return spec["embedding_from"] + ("" if seed is None else f", seed {seed}")
    return spec["negative_name"] or spec["negative"]


def _hashes(config: RunConfig) -> dict[str, object]:
    embeddings = {_origin(spec): spec["embeddings"] for spec in config["cells"] if spec["embeddings"]}
    return {"embeddings": embeddings, "prompts": {name: entry["sha256"] for name, entry in config["lists"].items()}}


def add_times(summary: Summary, run: Run) -> Summary:
    """Add the median `seconds_per_image` of every cell; without it, summaries are reproducible byte for byte."""
    seconds: dict[int, list[float]] = {}
    for entry in run.timings():
        if entry.get("images"):
            seconds.setdefault(entry["cell"], []).append(entry["seconds"] / entry["images"])

    def timed(cells: list[CellEntry], main: bool) -> list[CellEntry]:
        places = of_role(run.config["cells"], main)
        pairs = zip(places, cells, strict=True)
        return [cast(CellEntry, {**cell, "seconds_per_image": _median(seconds.get(i, []))}) for i, cell in pairs]

    return {**summary, "cells": timed(summary["cells"], True), "controls": timed(summary["controls"], False)}


def _median(values: list[float]) -> float | None:
    # the lower median: of a first block that compiled and a second that did not, the second
    return round(sorted(values)[(len(values) - 1) // 2], 5) if values else None
