"""From run directories to the files of a report: summary.json, report.md, report.csv, report.html and its images."""

import contextlib
import datetime
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import TypeVar

from ine_jax.errors import InputError
from ine_jax.evaluation.detectors.presets import Preset
from ine_jax.evaluation.records import Curve, ImageCounts, OtherDetector, PlacedRate, Summary
from ine_jax.evaluation.summary import add_times, summarise
from ine_jax.reporting.csvfile import write_csv
from ine_jax.reporting.grids import table_files
from ine_jax.reporting.listing import listing
from ine_jax.reporting.page import page
from ine_jax.reporting.sheets import sheets
from ine_jax.reporting.text import markdown
from ine_jax.storage.atomic import clear, lock, remove, write_atomic
from ine_jax.storage.runs import Run, open_run
from ine_jax.storage.sealed import pretty, read_log, require_sums, write_sums

LIMIT = 20 * 2**20  # bytes of images in a page; more go into a folder beside it
FOLDER, TABLES = "report-images", "report-tables"
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
    """Count the scores of runs, write summary.json, the page, Markdown, CSV and LaTeX; return the page's path.

    `roots` are run directories, or those of `ine demo`, which hold one; `out` is by default the first. More than
    `limit` bytes of images go to `report-images/` beside the page. `preset`, `detector`, `threshold` as in `summarise`.
    """
    folders = [Path(root) for root in roots]
    if not folders:
        raise InputError("no run directory", "one or more", "name a run directory")
    target = Path(out) if out is not None else folders[0]
    with contextlib.ExitStack() as stack:
        for folder in dict.fromkeys(folders):
            if folder.is_dir() and folder.resolve() != target.resolve():
                stack.enter_context(lock(folder, reading=True))
        if target.is_dir():
            stack.enter_context(lock(target))
        return _build(folders, target, preset, limit, detector, threshold)


def _build(
    folders: Sequence[Path],
    target: Path,
    preset: Preset | None,
    limit: int,
    detector: str | None,
    threshold: float | None,
) -> Path:
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
    each = [*map(sheets, summaries, runs, anchors)]
    shown = [*flat(each)]
    images = {shot.image.file_name: shot.image.data for sheet in shown for shot in sheet.shots}
    large = sum(len(data) for data in images.values()) > limit
    listed = [*map(listing, summaries, runs, each)]
    html = page(timed, shown, curves, FOLDER if large else "", _about(folders, runs), listed)
    # without clock times: the same bytes however often the run was interrupted, and on any machine
    summary = pretty(merge(summaries, names))
    texts = dict(zip(DERIVED, (summary, markdown(timed), write_csv(timed), html), strict=True))
    clear(target, alone=True)
    _write_folder(target / FOLDER, images if large else {}, (".png", ".webp"))
    files = table_files(timed)
    _write_folder(target / TABLES, files, (".tex", ".csv"))
    for name, text in texts.items():
        write_atomic(target / name, text)
    write_sums(target, [*DERIVED, *(f"{TABLES}/{name}" for name in files)])
    return target / "report.html"


def _about(folders: Sequence[Path], runs: Sequence[Run]) -> str:
    """The names of the runs, and the days on which they were started: the file times of their run.json."""
    names = ", ".join(folder.resolve().name for folder in folders)
    times = [(run.root / "run.json").stat().st_mtime for run in runs]
    days = sorted({datetime.datetime.fromtimestamp(time, datetime.UTC).date().isoformat() for time in times})
    return f"{names}, started {' to '.join(dict.fromkeys((days[0], days[-1])))}"


def _write_folder(folder: Path, files: Mapping[str, bytes | str], suffixes: tuple[str, ...]) -> None:
    """Write files into a folder of the report; those of an earlier report are removed."""
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.suffix in suffixes and path.name not in files:
            remove(path)
    for name, data in files.items():
        write_atomic(folder / name, data)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


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
