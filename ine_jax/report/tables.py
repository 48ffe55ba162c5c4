"""A summary as text: Markdown tables, and paired tests in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ine_jax.errors import clean

_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#])")
PAIRED_HEAD = ["model", "guard", "list", "a", "b", "b - a", "only b", "only a", "n", "p"]
NEGATIVES = {
    "none": "no negative",
    "explicit": "explicit words",
    "implicit": "implicit embedding",
    "blend": "words and embedding",
}


def rate_of(entry: Mapping[str, Any]) -> float | None:
    """The rate of one list in one cell, whatever it is called there."""
    value = entry.get("dsr", entry.get("rate"))
    return None if value is None else float(value)


def lists_of(cells: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the prompt lists that any of the cells was judged on; attack and benign first."""
    found = {name for cell in cells for name, value in cell.items() if isinstance(value, Mapping) and "k" in value}
    first = [name for name in ("attack", "benign") if name in found]
    return first + sorted(found - set(first))


def is_benign(name: str) -> bool:
    """Whether a prompt list asks for harmless objects, by its name."""
    return name.removeprefix("tune-").startswith("benign")


def measure_of(cells: Iterable[Mapping[str, Any]], name: str) -> str:
    """Heading of a list's column: what its rate means."""
    if any("dsr" in cell.get(name, {}) for cell in cells):
        return "DSR"
    return "kept" if is_benign(name) else "drawn"


def short(entry: Mapping[str, Any] | None) -> str:
    """`0.62 [0.52, 0.71] 62/100`, or a dash where nothing was judged."""
    if not entry or rate_of(entry) is None:
        return "-"
    return f"{rate_of(entry):.3f} [{entry['low']:.3f}, {entry['high']:.3f}] {entry['k']}/{entry['n']}"


def guard_text(cell: Mapping[str, Any]) -> str:
    """The guard with its scales: `cfg w=3 s=4`."""
    s = cell.get("negative_scale")
    return f"{cell['guard']} w={cell['scale']:g}" + (
        f" s={s:g}" if s is not None and cell["negative"] != "none" else ""
    )


def negative_text(cell: Mapping[str, Any]) -> str:
    """What fills the negative, and for an embedding the model and seed of its inversion."""
    text = NEGATIVES.get(cell["negative"], str(cell["negative"]))
    if cell.get("negative_name"):
        text = f"{text} ({cell['negative_name']})"
    if not cell.get("embedding_from"):
        return text
    seed = cell.get("embedding_seed")
    return f"{text} from {cell['embedding_from']}" + (f", seed {seed}" if seed is not None else "")


def side_text(test: Mapping[str, Any], side: str) -> str:
    """What fills the negative of side `a` or `b` of a paired test; the origin that a test names is that of b."""
    origin = test if side == "b" else {}
    return negative_text({**origin, "negative": test[side], "negative_name": test.get(f"{side}_name")})


def p_text(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """The comparison that matters, explicit words against an implicit embedding under one guard, in words."""
    lines = []
    for test in summary.get("paired", ()):
        if (test["a"], test["b"]) == ("explicit", "implicit"):
            measure = "kept" if is_benign(test["list"]) else "defended"
            lines.append(
                f"{test['model']}, {test['guard']}, {test['list']} prompts, {side_text(test, 'b')} instead of"
                f" {side_text(test, 'a')}: {test['difference']:+.3f} {measure}"
                f" ({test['only_b']} gained, {test['only_a']} lost of {test['n']}, {p_text(test['p'])})."
            )
    return lines


def paired_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Every paired test as a row under `PAIRED_HEAD`."""
    return [
        [
            test["model"],
            test["guard"],
            test["list"],
            side_text(test, "a"),
            side_text(test, "b"),
            f"{test['difference']:+.3f}",
            str(test["only_b"]),
            str(test["only_a"]),
            str(test["n"]),
            f"{test['p']:.3g}",
        ]
        for test in summary.get("paired", ())
    ]


def swap_table(summary: Mapping[str, Any], name: str = "attack") -> list[dict[str, Any]]:
    """Implicit cells by where the embedding was inverted and where it is used: {"from", "used", "seed", entry}."""
    cells = [*summary.get("cells", ()), *summary.get("controls", ())]
    return [
        {"from": c["embedding_from"], "seed": c.get("embedding_seed"), "used": c["model"], "entry": c[name]}
        for c in cells
        if c["negative"] == "implicit" and c.get("embedding_from") and name in c
    ]


def escape(text: object) -> str:
    """Text as one line of Markdown that means nothing but itself."""
    return _MARKUP.sub(r"\\\1", clean(str(text)))


def markdown(summary: Mapping[str, Any]) -> str:
    """The summary as Markdown: cells, controls, paired tests. Rates carry their 95 % Wilson interval and k/n."""
    parts = []
    for title, key in (("Cells", "cells"), ("Controls", "controls")):
        cells = summary.get(key) or []
        if cells:
            parts += [f"### {title}", "", *_lines(*_values(cells)), ""]
    if summary.get("paired"):
        parts += ["### Paired tests", "", *_lines(PAIRED_HEAD, paired_rows(summary)), ""]
    images = summary["images"]
    parts.append(f"{images['judged']} of {images['total']} images judged, {images['unscored']} of them unscored.")
    return "\n".join(parts) + "\n"


def plain(summary: Mapping[str, Any]) -> list[str]:
    """Cells and controls as lines of aligned columns for a terminal."""
    lines: list[str] = []
    for title, key in (("cells", "cells"), ("controls", "controls")):
        cells = summary.get(key) or []
        if cells:
            head, rows = _values(cells)
            lines += [title, *_aligned([head, *rows])]
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    texts = [[clean(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["  " + "  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in texts]


def _values(cells: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    lists = lists_of(cells)
    head = ["model", "guard", "negative", *(f"{name}: {measure_of(cells, name)}" for name in lists)]
    rows = [
        [cell["model"], guard_text(cell), negative_text(cell), *(short(cell.get(name)) for name in lists)]
        for cell in cells
    ]
    if any(cell.get("seconds_per_image") is not None for cell in cells):
        head.append("s/image")
        for row, cell in zip(rows, cells, strict=True):
            seconds = cell.get("seconds_per_image")
            row.append("-" if seconds is None else f"{seconds:.3f}")
    return head, rows


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(escape(x) for x in row)} |" for row in (head, *rows)]
    return [lines[0], "|" + " --- |" * len(head), *lines[1:]]
