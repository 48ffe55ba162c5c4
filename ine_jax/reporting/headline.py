"""The table that papers print: one row per guard, one column per negative, defense and preservation side by side."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

from ine_jax.evaluation.records import CellEntry, Difference, PairedTest, Summary
from ine_jax.reporting.labels import KINDS, cell_scales, negative_text, p_text
from ine_jax.reporting.measures import Measure, Value, measures
from ine_jax.storage.records import NegativeKind


class Negative(NamedTuple):
    """What makes a column."""

    kind: NegativeKind
    text: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """One number of the table."""

    value: Value
    best: bool  # of the row's negatives
    borrowed: bool  # plain CFG at the row's guidance scale; the guard has no cell without a negative
    gain: str  # difference to explicit words


@dataclasses.dataclass(frozen=True)
class Line:
    """One guard: per measure of the table one entry per negative, None where it has none."""

    guard: str
    scales: str
    groups: tuple[tuple[Entry | None, ...], ...]


@dataclasses.dataclass(frozen=True)
class Headline:
    """The table of one model."""

    model: str
    negatives: tuple[Negative, ...]
    measures: tuple[Measure, ...]
    lines: tuple[Line, ...]


_Row = dict[Negative, tuple[CellEntry, bool]]  # the cell, and whether it is borrowed
T = TypeVar("T", PairedTest, Difference)


def headline(summary: Summary) -> list[Headline]:
    """One table per model, of the main cells."""
    cells, tables = summary["cells"], []
    columns = [measure for measure in measures(summary, cells) if measure.kind in ("defense", "preservation")]
    for model in dict.fromkeys(cell["model"] for cell in cells):
        own = [cell for cell in cells if cell["model"] == model]
        rows = _rows(own)
        negatives = sorted(set(chain(*rows)), key=lambda negative: (KINDS.index(negative.kind), negative.text))
        shown = [measure for measure in columns if any(measure.of(cell) for cell in own)]
        lines = [_line(summary, row, negatives, shown) for row in rows]
        if shown:
            tables.append(Headline(model, tuple(negatives), tuple(shown), tuple(lines)))
    return tables


def _rows(cells: Sequence[CellEntry]) -> list[_Row]:
    """The cells of one model as rows."""
    own = {cell.get("embedding_seed") for cell in cells if cell.get("embedding_from") == cell["model"]}
    rows: dict[tuple[str, float, float | None], _Row] = {}
    for cell in sorted(cells, key=lambda cell: cell["negative"] == "none"):
        # a cell without a negative has no negative scale: it joins the first row of its guard
        same = [key for key in rows if key[:2] == (cell["guard"], cell["scale"])]
        negative = _negative(cell, len(own) > 1)
        if cell["negative"] != "none":
            same = [key for key in same if _fits(rows[key], negative, cell)]
        key = same[0] if same else (cell["guard"], cell["scale"], cell["negative_scale"])
        rows.setdefault(key, {})[negative] = (cell, False)
    plain = {cell["scale"]: cell for cell in cells if cell["negative"] == "none" and cell["method"] == "negative"}
    borrowed = []
    for (_, scale, _), row in rows.items():
        if scale in plain and not any(negative.kind == "none" for negative in row):
            row[_negative(plain[scale], False)] = (plain[scale], True)
            borrowed.append(plain[scale])
    return [row for row in rows.values() if len(row) > 1 or next(iter(row.values()))[0] not in borrowed]


def _negative(cell: CellEntry, seeds: bool) -> Negative:
    """The column of a cell; seeds only where the model has embeddings of several, or the embedding is another's."""
    return Negative(cell["negative"], negative_text(cell, seeds or cell.get("embedding_from") != cell["model"]))


def _fits(row: _Row, negative: Negative, cell: CellEntry) -> bool:
    scales = {other["negative_scale"] for other, _ in row.values() if other["negative"] != "none"}
    return negative not in row and scales <= {cell["negative_scale"]}


def _line(summary: Summary, row: _Row, negatives: Sequence[Negative], columns: Sequence[Measure]) -> Line:
    by_kind = {negative.kind: cell for negative, (cell, _) in reversed(row.items())}
    first = min((cell for cell, _ in row.values()), key=lambda cell: cell["negative"] == "none")
    groups = []
    for measure in columns:
        values = {negative: measure.of(cell) for negative, (cell, _) in row.items()}
        best = _best(measure, values.values())
        entries: list[Entry | None] = []
        for negative in negatives:
            value = values.get(negative)
            if value is None:
                entries.append(None)
                continue
            (cell, borrowed), words = row[negative], by_kind.get("explicit")
            gain = _gain(summary, measure, words, cell) if words and negative.kind in ("implicit", "blend") else ""
            entries.append(Entry(value, value.value == best and not borrowed, borrowed, gain))
        groups.append(tuple(entries))
    return Line(first["guard"], cell_scales(first), tuple(groups))


def _best(measure: Measure, values: Iterable[Value | None]) -> float | None:
    """The best number; None where it is the only one, or not alone."""
    numbers = [value.value for value in values if value is not None]
    best = (min if measure.less else max)(numbers, default=0.0)
    return best if len(numbers) > 1 and numbers.count(best) == 1 else None


def _gain(summary: Summary, measure: Measure, words: CellEntry, cell: CellEntry) -> str:
    """`+0.515, p < 0.001`: difference to explicit words, with the p of the paired test or a metric's interval."""
    a, b = measure.of(words), measure.of(cell)
    if a is None or b is None:
        return ""
    difference = f"{b.value - a.value:+.3f}"
    if not measure.metric:
        tests = list(_matching(summary["paired"], measure, words, cell))
        return f"{difference}, {p_text(tests[0]['p'])}" if len(tests) == 1 else difference
    every = _matching(summary["differences"], measure, words, cell)
    means = [test for test in every if test["metric"] == measure.metric]
    if len(means) != 1 or means[0]["low"] is None or means[0]["high"] is None:
        return difference
    bounds = means[0]["low"], means[0]["high"]
    low, high = sorted(-x if measure.inverted else x for x in bounds)
    return f"{difference}, {low:+.3f} to {high:+.3f}"


def _matching(tests: Iterable[T], measure: Measure, a: CellEntry, b: CellEntry) -> Iterator[T]:
    """The tests of `b` instead of `a` on the measure's prompt set."""
    want: dict[str, object] = {"list": measure.prompts, "a": a["negative"], "b": b["negative"]}
    want |= {"a_name": a["negative_name"], "b_name": b["negative_name"]}
    same = ("model", "guard", "scale", "negative_scale", "embedding_from", "embedding_seed")
    want |= {key: b.get(key) for key in same}
    return (test for test in tests if all(test.get(key) == value for key, value in want.items()))
