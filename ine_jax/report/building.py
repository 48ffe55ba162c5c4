"""From run directories to the files of a report: summary.json, report.md, report.csv, report.html and its pictures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ine_jax.errors import InputError
from ine_jax.evaluation.summary import Preset, add_times, summarise
from ine_jax.report import tables
from ine_jax.report.csvfile import write_csv
from ine_jax.report.page import page
from ine_jax.report.sheets import sheets
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.runs import open_run
from ine_jax.storage.sealed import parse_jsonl, pretty, write_sums

LIMIT = 20 * 2**20  # bytes of pictures in a page; more go into a folder beside it
FOLDER = "report-images"
DERIVED = ("summary.json", "report.md", "report.csv", "report.html")


def build(
    roots: Sequence[str | Path],
    out: str | Path | None = None,
    preset: Preset | None = None,
    limit: int = LIMIT,
    *,
    detector: str | None = None,
    threshold: float | None = None,
) -> Path:
    """Count the scores of runs and write summary.json, report.md, report.csv and report.html; return the page's path.

    A root is a run directory, or a demo's directory, which holds one; `detector`, `preset` and `threshold` say whose
    scores are counted, which labels, and from which score on: see `summarise`.
    Written into `out`, by default the first root. Where the pictures are more than `limit` bytes they are written to
    `report-images/` beside the page. InputError where a root is no run or not scored, CorruptRunError where a stored
    file is damaged.
    """
    folders = [Path(root) for root in roots]
    if not folders:
        raise InputError("no run directory", "one or more", "name a run directory")
    target = Path(out) if out is not None else folders[0]
    curves: dict[str, Any] = {}
    runs, summaries = [], []
    for folder in folders:
        demo = (folder / "evaluation" / "run.json").is_file()
        run = open_run(folder / "evaluation" if demo else folder)
        runs.append(run)
        summaries.append(summarise(run, detector, preset, threshold))
        curves |= {p.parent.name: parse_jsonl(p.read_bytes(), p) for p in sorted(folder.glob("inversion/*/log.jsonl"))}
    names = [folder.name for folder in folders]
    summary = merge([add_times(one, run) for one, run in zip(summaries, runs, strict=True)], names)
    shown = [
        sheet
        for i, (one, run) in enumerate(zip(summaries, runs, strict=True))
        for sheet in sheets(one, run, f"{i}-" if len(runs) > 1 else "")
    ]
    html = page(summary, shown, curves, _pictures(target, shown, limit))
    # without clock times: the same bytes however often the run was interrupted, and on whatever machines it was drawn
    write_atomic(target / "summary.json", pretty(merge(summaries, names)))
    write_atomic(target / "report.md", tables.markdown(summary))
    write_atomic(target / "report.csv", write_csv(summary))
    write_atomic(target / "report.html", html)
    write_sums(target, DERIVED)
    return target / "report.html"


def _pictures(target: Path, shown: Sequence[Mapping[str, Any]], limit: int) -> str:
    """Name of the folder the pictures were written to; empty where they are few enough to stand in the page."""
    found = [shot["picture"] for sheet in shown for item in sheet["items"] for shot in item["cells"]]
    pictures = {picture.file_name(): picture.data for picture in found}
    folder = target / FOLDER
    large = sum(len(data) for data in pictures.values()) > limit
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.suffix in (".png", ".webp") and not (large and path.name in pictures):
            path.unlink()  # of an earlier page
    if large:
        for name, data in pictures.items():
            write_atomic(folder / name, data)
    elif folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return FOLDER if large else ""


def merge(summaries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """One summary of several: their tables one after the other. Provenance is that of each run, under its name."""
    first = dict(summaries[0])
    if len(summaries) == 1:
        return first
    for key in ("detector", "preset"):
        if any(summary[key] != first[key] for summary in summaries):
            raise InputError(f"runs with different {key}s", "one for all", "report them one by one")
    starts = list(itertools.accumulate((len(summary["cells"]) for summary in summaries), initial=0))
    first["sensitivity"] = _shifted([summary.get("sensitivity", ()) for summary in summaries], starts)
    first["others"] = _others(summaries, starts)
    for key in ("cells", "controls", "paired", "differences", "commands"):
        first[key] = [entry for summary in summaries for entry in summary.get(key, ())]
    for key in ("metrics", "detectors", "lists"):
        first[key] = {name: value for summary in summaries for name, value in summary.get(key, {}).items()}
    first["images"] = {key: sum(summary["images"][key] for summary in summaries) for key in first["images"]}
    first["complete"] = all(summary["complete"] for summary in summaries)
    for key in ("hashes", "versions", "sampler"):
        if any(summary[key] != first[key] for summary in summaries):
            first[key] = {f"{i + 1} {n}": s[key] for i, (n, s) in enumerate(zip(names, summaries, strict=True))}
    return first


def _shifted(parts: Sequence[Sequence[Mapping[str, Any]]], starts: Sequence[int]) -> list[dict[str, Any]]:
    """Entries of several summaries that name their cell by its place in a table, which now begins later."""
    return [
        {**entry, "cell": entry["cell"] + start} for part, start in zip(parts, starts, strict=False) for entry in part
    ]


def _others(summaries: Sequence[Mapping[str, Any]], starts: Sequence[int]) -> dict[str, Any]:
    """What further detectors say, of those that every run was judged by."""
    parts = [summary.get("others", {}) for summary in summaries]
    found = {}
    for name in sorted(set.intersection(*(set(part) for part in parts))):
        entries = [part[name] for part in parts]
        found[name] = {
            "preset": entries[0]["preset"],
            "images": {key: sum(entry["images"][key] for entry in entries) for key in entries[0]["images"]},
            "rates": _shifted([entry["rates"] for entry in entries], starts),
            "sensitivity": _shifted([entry["sensitivity"] for entry in entries], starts),
        }
    return found
