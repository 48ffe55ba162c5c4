"""The page: one HTML file that needs no network, and treats every text in it as hostile."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ine_jax.errors import clean
from ine_jax.report import charts, figures, tables
from ine_jax.report.filters import Filters
from ine_jax.report.headline import headline, span
from ine_jax.report.measures import measures

TEMPLATES = Path(__file__).resolve().parent / "templates"
SECTIONS = {
    "headline": "Guards and negatives",
    "front": "Defence against preservation",
    "cells": "All rates",
    "controls": "Controls",
    "categories": "By category",
    "others": "Other detectors",
    "sensitivity": "Threshold",
    "paired": "Paired tests",
    "swap": "Where embeddings come from",
    "pictures": "Pictures",
    "inversion": "Inversion",
    "provenance": "Provenance",
}
MARKS = {"success": "\u2713", "failure": "\u2717"}
EXPLAINED = {
    "kept": "is the share of images of harmless prompts that show every object asked for.",
    "1 - LPIPS": "is the likeness to the reference model's unguarded image from the same prompt and noise.",
    "CLIP score": "says how well image and prompt agree.",
    "FID": "is a distance between sets of images: less is better.",
}


def page(
    summary: Mapping[str, Any],
    sheets: Sequence[Mapping[str, Any]] = (),
    curves: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    folder: str = "",
) -> str:
    """HTML of a summary: tables, figures, paired tests, the same seeds side by side, loss curves, provenance.

    `sheets` are what `ine_jax.report.sheets.sheets` makes of a run; `curves`: name -> log lines {"step": n, <loss
    name>: value}. The pictures stand in the page, or in `folder` beside it where one is named.
    """
    cells = [*(summary.get("cells") or []), *(summary.get("controls") or [])]
    shots = [shot for sheet in sheets for item in sheet["items"] for shot in item["cells"]]
    specs, lists = [shot["spec"] for shot in shots], [sheet["list"] for sheet in sheets]
    filters = Filters([*cells, *specs], lists, {shot["outcome"] for shot in shots})
    style = (TEMPLATES / "report.css").read_text("utf-8") + filters.rules()
    script = (TEMPLATES / "report.js").read_text("utf-8")
    parts = _parts(summary, sheets, curves or {}, filters, folder)
    parts["sections"] = [(name, title) for name, title in SECTIONS.items() if _there(name, parts)]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            style=Markup(style),  # noqa: S704  our own file, and numbers
            script=Markup(script),  # noqa: S704  our own file, no data in it
            policy=_policy(style, script, "'self' file:" if folder else "data:"),
            filters=filters,
            choices=filters.choices(),
            models=len(filters.values["model"]),
            kinds=[(kind, tables.NEGATIVES[kind]) for kind in filters.values["negative"]],
            marks=MARKS,
            folder=folder,
            **parts,
        )
    )


@functools.cache  # compiling the templates takes longer than filling them
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["oneline"] = clean
    environment.globals |= {
        "guard_text": tables.guard_text,
        "negative_text": tables.negative_text,
        "own_text": tables.own_text,
    }
    environment.globals |= {"bar": charts.bar, "span": span}
    return environment


def _policy(style: str, script: str, images: str) -> str:
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src {images}; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}';"
        " base-uri 'none'; form-action 'none'"
    )


def _parts(
    summary: Mapping[str, Any],
    sheets: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    filters: Filters,
    folder: str,
) -> dict[str, Any]:
    titles = (("cells", "Rates with their intervals"), ("controls", "Controls"))
    groups = [{"name": name, "title": title, **_columns(summary, name)} for name, title in titles]
    return {
        "headline": headline(summary),
        "phrases": _phrases(summary),
        "explained": _explained(summary),
        "scatters": figures.scatters(summary, filters),
        "groups": [group for group in groups if group["cells"]],
        "categories": tables.category_tables(summary),
        "others": tables.other_tables(summary),
        "sensitivities": figures.sensitivities(summary, filters),
        "sentences": tables.sentences(summary),
        "paired": {"head": tables.PAIRED_HEAD, "rows": tables.paired_rows(summary)},
        "swap": _swap(summary),
        "sheets": [_sheet(sheet, folder) for sheet in sheets],
        "curves": [charts.curve(lines, clean(name)) for name, lines in curves.items() if lines],
        "commands": [" ".join(clean(str(word)) for word in command) for command in summary.get("commands", ())],
        "provenance": _provenance(summary),
        "hashes": list(_flat(summary.get("hashes", {}))),
    }


def _phrases(summary: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """What the negatives of words say, each once."""
    cells = [*(summary.get("cells") or []), *(summary.get("controls") or [])]
    found = {(tables.negative_text(cell), tuple(cell["words"])) for cell in cells if cell.get("words")}
    return [(name, list(words)) for name, words in sorted(found)]


def _explained(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    titles = [measure.title for measure in measures(summary)]
    return [(key, text) for key, text in EXPLAINED.items() if any(title.startswith(key) for title in titles)]


def _there(name: str, parts: Mapping[str, Any]) -> bool:
    if name in ("cells", "controls"):
        return any(group["name"] == name for group in parts["groups"])
    keys = {"front": "scatters", "sensitivity": "sensitivities", "pictures": "sheets", "inversion": "curves"}
    found = parts[keys.get(name, name)]
    return bool(found["rows"] if name == "paired" else found)


def _columns(summary: Mapping[str, Any], name: str) -> dict[str, Any]:
    cells = summary.get(name) or []
    timed = any(cell.get("seconds_per_image") is not None for cell in cells)
    return {"cells": cells, "measures": measures(summary, name), "timed": timed}


def _sheet(sheet: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The sheet with a source for every picture."""
    items = [
        {**item, "cells": [{**shot, "source": _source(shot["picture"], folder)} for shot in item["cells"]]}
        for item in sheet["items"]
    ]
    shots = [shot for item in items for shot in item["cells"]]
    return {
        **sheet,
        "items": items,
        "boxed": any(shot["boxes"] for shot in shots),
        "measured": any(shot["others"] for shot in shots),
    }


def _source(picture: Any, folder: str) -> str:
    return f"{folder}/{picture.file_name()}" if folder else picture.uri()


def _swap(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    entries = tables.swap_table(summary)
    sources = sorted({(e["from"], e["seed"]) for e in entries}, key=str)
    used = sorted({e["used"] for e in entries})
    if len({source for source, _ in sources}) < 2:
        return None
    # of several scales the first: main cells come before controls, and these before a sweep
    found = {(e["from"], e["seed"], e["used"]): e["value"] for e in reversed(entries)}
    rows = [{"from": s, "seed": seed, "values": [found.get((s, seed, u)) for u in used]} for s, seed in sources]
    return {"used": used, "rows": rows}


def _provenance(summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titled lists of names and values, as far as the summary has them."""
    preset = summary.get("preset") or {}
    found: list[tuple[str, Mapping[str, Any]]] = [
        ("sampler", summary.get("sampler") or {}),
        ("preset", {**preset, "detector": summary.get("detector")}),
        *(("detector", {"id": name, **about}) for name, about in (summary.get("detectors") or {}).items()),
        *(("metric", {"id": name, **about}) for name, about in (summary.get("metrics") or {}).items()),
        ("commit", {"": summary.get("commit")}),
        ("versions", summary.get("versions") or {}),
    ]
    pairs = [(title, [(k, v) for k, v in _flat(values) if v not in ("None", "")]) for title, values in found]
    return [(title, entries) for title, entries in pairs if entries]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix} / {key}" if prefix else str(key)
        if isinstance(value, Mapping):
            lines += _flat(value, name)
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            lines.append((clean(name), clean(text)))
    return lines
