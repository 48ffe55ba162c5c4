"""The page: one HTML file that needs no network and no script, and treats every text in it as hostile."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ine_jax.errors import InputError, clean
from ine_jax.evaluate.summary import Preset, add_times, summarise
from ine_jax.report import charts, tables
from ine_jax.report.sheets import sheets
from ine_jax.runs import open_run
from ine_jax.storage import parse_jsonl, pretty, write_atomic

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"


def build(roots: Sequence[str | Path], out: str | Path | None = None, preset: Preset | None = None) -> Path:
    """Count the scores of runs and write summary.json, report.md and report.html; return the page's path.

    A root is a run directory, or a demo's directory, which holds one; `preset` says from which score on a label counts.
    Written into `out`, by default the first root. InputError where a root is no run or not scored, CorruptRunError
    where a stored file is damaged.
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
        summaries.append(add_times(summarise(run, preset=preset), run))
        curves |= {p.parent.name: parse_jsonl(p.read_bytes(), p) for p in sorted(folder.glob("inversion/*/log.jsonl"))}
    summary = merge(summaries, [folder.name for folder in folders])
    pictures = [sheet for one, run in zip(summaries, runs, strict=True) for sheet in sheets(one, run)]
    html = page(summary, pictures, curves)
    write_atomic(target / "summary.json", pretty(summary))
    write_atomic(target / "report.md", tables.markdown(summary))
    write_atomic(target / "report.html", html)
    return target / "report.html"


def merge(summaries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """One summary of several: their tables one after the other. Provenance is that of each run, under its name."""
    first = dict(summaries[0])
    if len(summaries) == 1:
        return first
    for key in ("detector", "preset"):
        if any(summary[key] != first[key] for summary in summaries):
            raise InputError(f"runs with different {key}s", "one for all", "report them one by one")
    for key in ("cells", "controls", "paired", "commands"):
        first[key] = [entry for summary in summaries for entry in summary[key]]
    first["images"] = {key: sum(summary["images"][key] for summary in summaries) for key in first["images"]}
    first["complete"] = all(summary["complete"] for summary in summaries)
    for key in ("hashes", "versions", "sampler"):
        if any(summary[key] != first[key] for summary in summaries):
            first[key] = {f"{i + 1} {n}": s[key] for i, (n, s) in enumerate(zip(names, summaries, strict=True))}
    return first


def page(
    summary: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any]] = (),
    curves: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> str:
    """HTML of a summary: tables, paired tests, the same seeds side by side, loss curves, provenance.

    `pictures` are what `sheets` makes of a run; `curves`: name -> log lines {"step": n, <loss name>: value}.
    """
    style = (TEMPLATES / "report.css").read_text()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"oneline": clean, "signed": lambda x: f"{x:+.3f}"}
    environment.globals |= {
        name: getattr(tables, name) for name in ("negative_text", "guard_text", "rate_of", "p_text")
    }
    groups = [{"title": title, "cells": cells, **_columns(cells)} for title, cells in _groups(summary) if cells]
    return environment.get_template("report.html.j2").render(
        summary=summary,
        style=Markup(style),  # noqa: S704  our own file, no data in it
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        bar=charts.bar,
        groups=groups,
        sentences=tables.sentences(summary),
        paired={"head": tables.PAIRED_HEAD, "rows": tables.paired_rows(summary)},
        swap=_swap(summary),
        pictures=pictures,
        curves=[charts.curve(lines, clean(name)) for name, lines in (curves or {}).items() if lines],
        hashes=list(_flat(summary.get("hashes", {}))),
        commands=[" ".join(clean(str(word)) for word in command) for command in summary.get("commands", ())],
    )


def _groups(summary: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    return [("Results", summary.get("cells") or []), ("Controls", summary.get("controls") or [])]


def _columns(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    lists = tables.lists_of(cells)
    return {
        "lists": lists,
        "measures": {name: tables.measure_of(cells, name) for name in lists},
        "timed": any(cell.get("seconds_per_image") is not None for cell in cells),
    }


def _swap(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    entries = tables.swap_table(summary)
    sources = sorted({(e["from"], e["seed"]) for e in entries}, key=str)
    used = sorted({e["used"] for e in entries})
    if len({source for source, _ in sources}) < 2:
        return None
    # of several scales the first: main cells come before controls, and these before a sweep
    found = {(e["from"], e["seed"], e["used"]): e["entry"] for e in reversed(entries)}
    rows = [{"from": s, "seed": seed, "entries": [found.get((s, seed, u)) for u in used]} for s, seed in sources]
    return {"used": used, "rows": rows}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix} / {key}" if prefix else str(key)
        lines += _flat(value, name) if isinstance(value, Mapping) else [(clean(name), clean(str(value)))]
    return lines
