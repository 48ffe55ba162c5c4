"""The table that papers print: guards down, negatives across, defence and preservation side by side; one per model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ine_jax.report.measures import Measure, Value, measures
from ine_jax.report.tables import KINDS, guard_text, own_text, p_text

Cell = Mapping[str, Any]
Negative = tuple[str, str]  # kind, text
Row = dict[Negative, tuple[Cell, bool]]  # the cell, and whether it is borrowed


def headline(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One table per model of the main cells.

    {"model", "negatives": [{"kind", "text"}], "groups": [{"list", "title"}], "rows": [{"guard", "name", "groups":
    [[entry or None per negative] per group]}]}; an entry holds "value", whether it is the row's "best", whether it is
    "borrowed" (plain CFG at the row's w, where the guard has no drawing of its own without a negative), and the
    "gain" over explicit words with its paired p.
    """
    cells = summary.get("cells") or []
    columns = [m for m in measures(summary) if m.kind != "drawn"]
    tables = []
    for model in dict.fromkeys(cell["model"] for cell in cells):
        own = [cell for cell in cells if cell["model"] == model]
        rows_of = _rows(own)
        negatives = sorted({key for row in rows_of for key in row}, key=lambda key: (KINDS.index(key[0]), key[1]))
        shown = [m for m in columns if any(m.of(cell) is not None for cell in own)]
        rows = [_row(summary, row, negatives, shown) for row in rows_of]
        heads = [{"kind": kind, "text": text} for kind, text in negatives]
        tables.append({"model": model, "negatives": heads, "groups": shown, "rows": rows})
    return [table for table in tables if table["groups"]]


def _negative(cell: Cell, seeds: bool) -> Negative:
    """What makes a column: kind and name; of an inversion only what tells it from the others of the guarded model."""
    return cell["negative"], own_text(cell, seeds)


def _rows(cells: Sequence[Cell]) -> list[Row]:
    """Cells of one model as rows: negative -> (cell, borrowed)."""
    seeds = len({cell.get("embedding_seed") for cell in cells if cell.get("embedding_from") == cell["model"]}) > 1
    rows: dict[tuple[Any, ...], Row] = {}
    for cell in sorted(cells, key=lambda cell: cell["negative"] == "none"):
        # without a negative there is no s: such a cell joins the first row of its guard
        same = [key for key in rows if key[:2] == (cell["guard"], cell["scale"])]
        negative = _negative(cell, seeds)
        if cell["negative"] != "none":
            same = [key for key in same if _fits(rows[key], negative, cell)]
        key = same[0] if same else (cell["guard"], cell["scale"], cell.get("negative_scale"))
        rows.setdefault(key, {})[negative] = (cell, False)
    plain = {cell["scale"]: cell for cell in cells if cell["negative"] == "none" and cell["method"] == "negative"}
    for (_, scale, _), row in rows.items():
        if scale in plain and not any(kind == "none" for kind, _ in row):
            row[_negative(plain[scale], seeds)] = (plain[scale], True)
    borrowed = [id(cell) for row in rows.values() for cell, taken in row.values() if taken]
    return [row for row in rows.values() if len(row) > 1 or id(next(iter(row.values()))[0]) not in borrowed]


def _fits(row: Row, negative: Negative, cell: Cell) -> bool:
    scales = {other.get("negative_scale") for (kind, _), (other, _) in row.items() if kind != "none"}
    return negative not in row and scales <= {cell.get("negative_scale")}


def _row(
    summary: Mapping[str, Any],
    row: Row,
    negatives: Sequence[Negative],
    columns: Sequence[Measure],
) -> dict[str, Any]:
    named = next((cell for (kind, _), (cell, _) in row.items() if kind != "none"), None)
    first = named or next(iter(row.values()))[0]
    words = next((cell for (kind, _), (cell, _) in row.items() if kind == "explicit"), None)
    groups = []
    for measure in columns:
        values = {negative: measure.of(cell) for negative, (cell, _) in row.items()}
        best = _best(measure, values.values())
        entries: list[dict[str, Any] | None] = []
        for negative in negatives:
            value = values.get(negative)
            if value is None:
                entries.append(None)
                continue
            cell, borrowed = row[negative]
            gain = _gain(summary, measure, words, cell) if negative[0] in ("implicit", "blend") else None
            best_here = not borrowed and value.value == best
            entries.append({"value": value, "best": best_here, "borrowed": borrowed, "gain": gain})
        groups.append(entries)
    return {"guard": guard_text(first), "name": first["guard"], "groups": groups}


def _best(measure: Measure, values: Any) -> float | None:
    numbers = [value.value for value in values if value is not None]
    best = (min if measure.less else max)(numbers, default=0.0)
    return best if len(numbers) > 1 and numbers.count(best) == 1 else None


def _gain(summary: Mapping[str, Any], measure: Measure, words: Cell | None, cell: Cell) -> str | None:
    """`+0.515, p < 0.001`: the value less that of explicit words, with the p of the paired test of rates, or with the
    interval of a metric's mean difference; without them where it is not clear which test is meant.
    """
    a, b = (measure.of(words) if words else None), measure.of(cell)
    if words is None or a is None or b is None:
        return None
    difference = f"{b.value - a.value:+.3f}"
    tests = list(_tests(summary, measure, words, cell))
    if len(tests) > 1:  # a guard at several scales has one name: the test is the one that says the same
        tests = [test for test in tests if abs(test["difference"] - (b.value - a.value)) < 2e-6]
    if len(tests) != 1:
        return difference
    if not measure.metric:
        return f"{difference}, {p_text(tests[0]['p'])}"
    bounds = [tests[0][key] for key in ("low", "high")]
    if None in bounds:
        return difference
    low, high = sorted(-x if measure.turned else x for x in bounds)
    return f"{difference}, {low:+.3f} to {high:+.3f}"


def _tests(summary: Mapping[str, Any], measure: Measure, a: Cell, b: Cell) -> Iterator[Mapping[str, Any]]:
    """What the summary says of `b` instead of `a` on the same items: paired tests of rates, differences of metrics."""
    want = {"model": b["model"], "guard": b["guard"], "list": measure.list, "a": a["negative"], "b": b["negative"]}
    want |= {"metric": measure.metric} if measure.metric else {}
    want |= {"a_name": a.get("negative_name", ""), "b_name": b.get("negative_name", "")}
    want |= {key: b.get(key) for key in ("embedding_from", "embedding_seed")}
    for test in summary.get("differences" if measure.metric else "paired", ()):
        if all(test.get(key) == value for key, value in want.items()):
            yield test


def span(value: Value) -> str:
    """`0.612 to 0.741`, or nothing where there is no interval."""
    return "" if value.low is None or value.high is None else f"{value.low:.3f} to {value.high:.3f}"
