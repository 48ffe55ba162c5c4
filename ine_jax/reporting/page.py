"""The page: one HTML file that needs no network, and treats every text in it as hostile."""

import base64
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from ine_jax.errors import clean
from ine_jax.evaluation.records import CellEntry, Summary
from ine_jax.reporting import figures, labels, svg, tables, text
from ine_jax.reporting.figures import LogLine
from ine_jax.reporting.filters import Filters
from ine_jax.reporting.headline import headline
from ine_jax.reporting.listing import Listing, data
from ine_jax.reporting.measures import Value, measures, prompt_sets
from ine_jax.reporting.sheets import Sheet, Shot
from ine_jax.reporting.transfer import transfers

TEMPLATES = Path(__file__).resolve().parent / "templates"
SECTIONS = {  # section -> title in the navigation
    "headline": "Guards and negatives",
    "scatters": "Defense against preservation",
    "cells": "All rates",
    "controls": "Controls",
    "categories": "By category",
    "others": "Other detectors",
    "sensitivities": "Threshold",
    "paired": "Paired tests",
    "transfer": "Embeddings across models",
    "sheets": "Images",
    "items": "All items",
    "losses": "Inversion",
}
MARKS = {"success": "\u2713", "failure": "\u2717"}
EXPLAINED = {  # beginning of a heading -> what it measures
    "DSR": "defense success rate on attack prompts: share of images that do not show the concept (1 - ASR).",
    "ASR": "attack success rate: share of images that show the concept.",
    "PP (objects)": "prior preservation: share of images of harmless prompts that show every object asked for.",
    "PP (1 - LPIPS": "prior preservation: similarity to the reference model's unguarded image of the same prompt and"
    " noise.",
    "CLIP score": "agreement of image and prompt.",
    "FID": "distance between sets of images; less is better.",
}


def page(
    summary: Summary,
    sheets: Sequence[Sheet] = (),
    curves: Mapping[str, Sequence[LogLine]] | None = None,
    folder: str = "",
    about: str = "",
    listings: Sequence[Listing] = (),
) -> str:
    """HTML of a summary: tables, figures, paired tests, the same seeds side by side, loss curves, provenance.

    `curves` maps a name to log lines {"step": n, <loss name>: value}. `folder` beside the page holds the
    images; empty: the page holds them. `about` names the runs, `listings` are all their items.
    """
    cells = [*summary["cells"], *summary["controls"]]
    shots = [shot for sheet in sheets for shot in sheet.shots]
    sets = [*prompt_sets(cells), *(sheet.prompts for sheet in sheets)]
    filters = Filters([*cells, *(shot.spec for shot in shots)], sets, {shot.outcome for shot in shots})
    style = (TEMPLATES / "report.css").read_text("utf-8") + filters.rules()
    script = (TEMPLATES / "report.js").read_text("utf-8")
    content: dict[str, object] = {
        "headline": headline(summary),
        "scatters": figures.scatters(summary, filters),
        "cells": tables.results(summary, "cells") if summary["cells"] else None,
        "controls": tables.results(summary, "controls") if summary["controls"] else None,
        "categories": tables.by_category(summary),
        "others": tables.by_detector(summary),
        "sensitivities": figures.sensitivities(summary, filters),
        "paired": tables.paired_rows(summary),
        "transfer": transfers(summary),
        "sheets": sheets,
        "items": [each for each in listings if each.items],
        "losses": figures.losses(curves or {}),
    }
    template = _environment().get_template("report.html.j2")
    return template.render(
        summary=summary,
        content=content,
        sections={name: title for name, title in SECTIONS.items() if content[name]},
        style=Markup(style),  # noqa: S704  our own file, and numbers
        script=Markup(script),  # noqa: S704  our own file, no data in it
        policy=_policy(style, script, "'self' file:" if folder else "data:"),
        filters=filters,
        detector=tables.headline_detector(summary),
        models=len(filters.values["model"]),
        kinds={kind: labels.NEGATIVES[kind] for kind in labels.KINDS if kind in filters.values["negative"]},
        explained=_explained(summary),
        phrases=_phrases(cells),
        sentences=text.sentences(summary),
        degenerate=text.degenerate_notice(summary),
        source=functools.partial(_source, folder),
        folder=folder,
        about=about,
        finding=text.finding(summary),
        items=data(listings),
        commands=[" ".join(clean(word) for word in command) for command in summary["commands"]],
        provenance=_provenance(summary),
        hashes=list(_flat(summary["hashes"])),
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
    environment.filters |= {"oneline": clean, "number": _number}
    environment.globals |= {
        "bar": svg.bar,
        "marks": MARKS,
        "negative_text": labels.negative_text,
        "cell_texts": tables.cell_texts,
        "cell_head": tables.CELL_HEAD,
        "paired_head": tables.PAIRED_HEAD,
        "scales_text": labels.scales_text,
    }
    return environment


def _number(value: Value) -> str:
    return f"{value.value:.3f}" if abs(value.value) < 100 else f"{value.value:.1f}"


def _policy(style: str, script: str, images: str) -> str:
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src {images}; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}';"
        " base-uri 'none'; form-action 'none'"
    )


def _source(folder: str, shot: Shot) -> str:
    return f"{folder}/{shot.image.file_name}" if folder else shot.image.uri


def _explained(summary: Summary) -> dict[str, str]:
    titles = [measure.title for part in tables.TITLES for measure in measures(summary, summary[part])]
    found = {next((title for title in titles if title.startswith(key)), ""): what for key, what in EXPLAINED.items()}
    return {title: what for title, what in found.items() if title}


def _phrases(cells: Sequence[CellEntry]) -> list[tuple[str, str]]:
    """The words of each negative, once."""
    found = {(labels.negative_text(cell), ", ".join(cell["words"])) for cell in cells if cell.get("words")}
    return sorted(found)


def _provenance(summary: Summary) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titled lists of names and values, as far as the summary has them."""
    found: list[tuple[str, Mapping[str, object]]] = [
        ("sampler", summary["sampler"]),
        ("preset", {**summary["preset"], "detector": summary["detector"]}),
        *(("detector", {**about, "id": name}) for name, about in summary["detectors"].items()),
        *(("metric", {**about, "id": name}) for name, about in summary["metrics"].items()),
        ("commit", {"": summary["commit"]}),
        ("versions", summary["versions"]),
    ]
    pairs = [(title, [(k, v) for k, v in _flat(values) if v not in ("None", "")]) for title, values in found]
    return [(title, entries) for title, entries in pairs if entries]


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix} / {key}" if prefix else key
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield clean(name), clean(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
