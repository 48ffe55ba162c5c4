"""A summary as text: Markdown tables, and paired tests in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ine_jax.errors import clean
from ine_jax.report.measures import TITLES, Value, measure_of, measures, rate

_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#&~$@]|(?<=www)\.|:(?=//))")
SENTENCE = 400  # characters
COLUMNS = 11  # thresholds of a sensitivity table, out of however many were counted
PAIRED_HEAD = ["model", "guard", "list", "a", "b", "b - a", "only b", "only a", "n", "p"]
NEGATIVES = {
    "none": "no negative",
    "explicit": "explicit words",
    "blend": "words and embedding",
    "implicit": "implicit embedding",
}
KINDS = tuple(NEGATIVES)


def short(value: Value | None) -> str:
    """`0.620 [0.520, 0.710] 62/100`, or a dash where nothing was judged."""
    if value is None:
        return "-"
    parts = [f"{value.value:.3f}"]
    if value.low is not None and value.high is not None:
        parts.append(f"[{value.low:.3f}, {value.high:.3f}]")
    if value.n is not None:
        parts.append(f"{value.k}/{value.n}" if value.k is not None else f"n {value.n}")
    return " ".join(parts)


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


def own_text(cell: Mapping[str, Any], seeds: bool = True) -> str:
    """The same beside the cell's model: of an inversion on that very model only the seed, and only with `seeds`."""
    if not cell.get("embedding_from") or cell["embedding_from"] != cell["model"]:
        return negative_text(cell)
    text = negative_text({**cell, "embedding_from": ""})
    return f"{text}, seed {cell['embedding_seed']}" if seeds and cell.get("embedding_seed") is not None else text


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
            measure = measure_of(summary, test["list"])
            line = (
                f"{test['model']}, {test['guard']}, {test['list']} prompts, {side_text(test, 'b')} instead of"
                f" {side_text(test, 'a')}: {test['difference']:+.3f} {measure}"
                f" ({test['only_b']} gained, {test['only_a']} lost of {test['n']}, {p_text(test['p'])})."
            )
            lines.append(clean(line, SENTENCE))
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
    """Implicit cells by where the embedding was inverted and where it is used: {"from", "used", "seed", "value"}."""
    cells = [*summary.get("cells", ()), *summary.get("controls", ())]
    return [
        {"from": c["embedding_from"], "seed": c.get("embedding_seed"), "used": c["model"], "value": rate(c[name])}
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
        if summary.get(key):
            parts += [f"### {title}", "", *_lines(*_values(summary, key)), ""]
    if summary.get("paired"):
        parts += ["### Paired tests", "", *_lines(PAIRED_HEAD, paired_rows(summary)), ""]
    parts += _breakdowns(summary) + _sensitivity(summary)
    images = summary["images"]
    parts.append(f"{images['processed']} of {images['total']} images scored, {images['unscored']} of them unscored.")
    return "\n".join(parts) + "\n"


def plain(summary: Mapping[str, Any]) -> list[str]:
    """Cells and controls as lines of aligned columns for a terminal."""
    lines: list[str] = []
    for title, key in (("cells", "cells"), ("controls", "controls")):
        if summary.get(key):
            head, rows = _values(summary, key)
            lines += [title, *_aligned([head, *rows])]
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    texts = [[clean(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["  " + "  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in texts]


def _values(summary: Mapping[str, Any], table: str) -> tuple[list[str], list[list[str]]]:
    cells, columns = summary.get(table) or [], measures(summary, table)
    head = ["model", "guard", "negative", *(f"{m.list}: {m.title}" for m in columns)]
    rows = [
        [cell["model"], guard_text(cell), negative_text(cell), *(short(m.of(cell)) for m in columns)] for cell in cells
    ]
    if any(cell.get("seconds_per_image") is not None for cell in cells):
        head.append("s/image")
        for row, cell in zip(rows, cells, strict=True):
            seconds = cell.get("seconds_per_image")
            row.append("-" if seconds is None else f"{seconds:.3f}")
    return head, rows


def category_tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rates by category, one table per list that has them: {"list", "title", "names", "rows": [{"cell", "values"}]}."""
    cells = summary.get("cells") or []
    found = []
    for measure in (m for m in measures(summary) if not m.metric):
        entries = [(cell, (cell.get(measure.list) or {}).get("categories") or {}) for cell in cells]
        names = sorted({name for _, entry in entries for name in entry})
        rows = [{"cell": c, "values": [rate(entry.get(name)) for name in names]} for c, entry in entries if entry]
        if names:
            found.append({"list": measure.list, "title": measure.title, "names": names, "rows": rows})
    return found


def other_tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rates by further detectors, one table each: {"title", "names", "rows": [{"cell", "values"}]}; names are lists."""
    cells = summary.get("cells") or []
    found = []
    for name, other in (summary.get("others") or {}).items():
        entries = {(entry["cell"], entry["list"]): rate(entry) for entry in other["rates"]}
        lists = list(dict.fromkeys(entry["list"] for entry in other["rates"]))
        rows = [{"cell": cell, "values": [entries.get((i, n)) for n in lists]} for i, cell in enumerate(cells)]
        preset = other["preset"]
        title = f"{name}, preset {preset['name']}, from a score of {preset['threshold']:g}"
        titles = [f"{n}: {TITLES.get(measure_of(summary, n), measure_of(summary, n))}" for n in lists]
        found.append({"title": title, "names": titles, "rows": rows})
    return found


def _breakdowns(summary: Mapping[str, Any]) -> list[str]:
    parts = []
    tables = [(f"{table['list']} by category: {table['title']}", table) for table in category_tables(summary)]
    for heading, table in [*tables, *((table["title"], table) for table in other_tables(summary))]:
        rows = [
            [row["cell"]["model"], guard_text(row["cell"]), negative_text(row["cell"]), *map(short, row["values"])]
            for row in table["rows"]
        ]
        parts += [f"### {escape(heading)}", "", *_lines(["model", "guard", "negative", *table["names"]], rows), ""]
    return parts


def _sensitivity(summary: Mapping[str, Any]) -> list[str]:
    parts, cells = [], summary.get("cells") or []
    entries = summary.get("sensitivity") or []
    for name in dict.fromkeys(entry["list"] for entry in entries):
        own = [entry for entry in entries if entry["list"] == name and entry["thresholds"]]
        grid = own[0]["thresholds"] if own else []
        places = sorted({round(i * (len(grid) - 1) / (COLUMNS - 1)) for i in range(COLUMNS)}) if grid else []
        rows = []
        for entry in (entry for entry in own if entry["thresholds"] == grid):
            cell = cells[entry["cell"]]
            rates = ["-" if entry["rate"][i] is None else f"{entry['rate'][i]:.3f}" for i in places]
            rows.append([cell["model"], guard_text(cell), negative_text(cell), *rates])
        head = ["model", "guard", "negative", *(f"{grid[i]:g}" for i in places)]
        parts += [f"### {escape(name)} by the detector's threshold", "", *_lines(head, rows), ""] if rows else []
    return parts


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(escape(x) for x in row)} |" for row in (head, *rows)]
    return [lines[0], "|" + " --- |" * len(head), *lines[1:]]
