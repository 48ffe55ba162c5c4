"""From run directories to the files of a report: summary.json, report.md, report.csv, report.html and its images."""

from collections.abc import Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import TypeVar

from ine_jax.errors import InputError
from ine_jax.evaluation.detectors.presets import Preset
from ine_jax.evaluation.records import Curve, ImageCounts, OtherDetector, PlacedRate, Summary
from ine_jax.evaluation.summary import add_times, summarise
from ine_jax.report.csvfile import write_csv
from ine_jax.report.page import page
from ine_jax.report.sheets import Sheet, sheets
from ine_jax.report.text import markdown
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.runs import open_run
from ine_jax.storage.sealed import pretty, read_log, require_sums, write_sums

LIMIT = 20 * 2**20  # bytes of images in a page; more go into a folder beside it
FOLDER = "report-images"
DERIVED = ("summary.json", "report.md", "report.csv", "report.html")
flat = chain.from_iterable
Placed = TypeVar("Placed", Curve, PlacedRate)


def build(
    roots: Sequence[str | Path],
    out: str | Path | None = None,
    preset: Preset | None = None,
    limit: int = LIMIT,
    *,
    detector: str | None = None,
    threshold: float | None = None,
) -> Path:
    """Count the scores of runs, write summary.json, report.md, report.csv and report.html; return the page's path.

    `roots` are run directories, or those of `ine demo`, which hold one; `out` is by default the first. More than
    `limit` bytes of images go to `report-images/` beside the page. `preset`, `detector`, `threshold` as in `summarise`.
    """
    folders = [Path(root) for root in roots]
    if not folders:
        raise InputError("no run directory", "one or more", "name a run directory")
    target = Path(out) if out is not None else folders[0]
    inner = [root / "evaluation" for root in folders]
    runs = [open_run(a if (a / "run.json").is_file() else b) for a, b in zip(inner, folders, strict=True)]
    summaries: list[Summary] = [summarise(run, detector, preset, threshold) for run in runs]
    logs = [path for folder in folders for path in sorted(folder.glob("inversion/*/log.jsonl"))]
    for path in logs:
        require_sums(path.parent, [path.name], "take an undamaged copy, or remove the inversion and run it again")
    curves = {path.parent.name: read_log(path) for path in logs}
    names = [folder.name for folder in folders]
    timed = merge([add_times(one, run) for one, run in zip(summaries, runs, strict=True)], names)
    anchors = [f"{i}-" if len(runs) > 1 else "" for i in range(len(runs))]
    shown = [*flat(map(sheets, summaries, runs, anchors))]
    html = page(timed, shown, curves, _write_images(target, shown, limit))
    # without clock times: the same bytes however often the run was interrupted, and on any machine
    write_atomic(target / "summary.json", pretty(merge(summaries, names)))
    write_atomic(target / "report.md", markdown(timed))
    write_atomic(target / "report.csv", write_csv(timed))
    write_atomic(target / "report.html", html)
    write_sums(target, DERIVED)
    return target / "report.html"


def _write_images(target: Path, shown: Sequence[Sheet], limit: int) -> str:
    """Name of the folder that the images were written to; empty where they are few enough to be in the page."""
    images = {shot.image.file_name: shot.image.data for sheet in shown for shot in sheet.shots}
    folder = target / FOLDER
    large = sum(len(data) for data in images.values()) > limit
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.suffix in (".png", ".webp") and not (large and path.name in images):
            path.unlink()  # of an earlier page
    if large:
        for name, data in images.items():
            write_atomic(folder / name, data)
    elif folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return FOLDER if large else ""


def merge(summaries: Sequence[Summary], names: Sequence[str]) -> Summary:
    """One summary of several runs; sampler, versions and hashes that differ are under the names of the runs."""
    first = summaries[0]
    if len(summaries) == 1:
        return first
    for key in ("detector", "preset"):
        if any(summary[key] != first[key] for summary in summaries):
            raise InputError(f"runs with different {key}s", "one for all", "report them one by one")
    starts = list(accumulate((len(summary["cells"]) for summary in summaries), initial=0))
    return {
        **first,
        "images": _counts([summary["images"] for summary in summaries]),
        "complete": all(summary["complete"] for summary in summaries),
        "cells": [*flat(summary["cells"] for summary in summaries)],
        "controls": [*flat(summary["controls"] for summary in summaries)],
        "paired": [*flat(summary["paired"] for summary in summaries)],
        "differences": [*flat(summary["differences"] for summary in summaries)],
        "commands": [*flat(summary["commands"] for summary in summaries)],
        "sensitivity": _shifted([summary["sensitivity"] for summary in summaries], starts),
        "others": _others(summaries, starts),
        "detectors": dict(flat(summary["detectors"].items() for summary in summaries)),
        "metrics": dict(flat(summary["metrics"].items() for summary in summaries)),
        "lists": dict(flat(summary["lists"].items() for summary in summaries)),
        "sampler": _by_run([summary["sampler"] for summary in summaries], names),
        "versions": _by_run([summary["versions"] for summary in summaries], names),
        "hashes": _by_run([summary["hashes"] for summary in summaries], names),
    }


def _counts(parts: Sequence[ImageCounts]) -> ImageCounts:
    return {
        "total": sum(part["total"] for part in parts),
        "processed": sum(part["processed"] for part in parts),
        "unscored": sum(part["unscored"] for part in parts),
        "degenerate": sum(part["degenerate"] for part in parts),
    }


def _by_run(parts: Sequence[dict[str, object]], names: Sequence[str]) -> dict[str, object]:
    if all(part == parts[0] for part in parts):
        return parts[0]
    return {f"{i} {name}": part for i, (name, part) in enumerate(zip(names, parts, strict=True), 1)}


def _shifted(parts: Sequence[Sequence[Placed]], starts: Sequence[int]) -> list[Placed]:
    """Entries of several summaries that name their cell by its place in a table, which now begins later."""
    pairs = zip(parts, starts, strict=False)
    return [{**entry, "cell": entry["cell"] + start} for part, start in pairs for entry in part]


def _others(summaries: Sequence[Summary], starts: Sequence[int]) -> dict[str, OtherDetector]:
    """The further detectors that scored every run."""
    found: dict[str, OtherDetector] = {}
    for name in sorted(set.intersection(*(set(summary["others"]) for summary in summaries))):
        entries = [summary["others"][name] for summary in summaries]
        found[name] = {
            "preset": entries[0]["preset"],
            "images": _counts([entry["images"] for entry in entries]),
            "rates": _shifted([entry["rates"] for entry in entries], starts),
            "sensitivity": _shifted([entry["sensitivity"] for entry in entries], starts),
        }
    return found
