"""A summary as one CSV: a number per row, safe to open in a spreadsheet, and read back to the same values.

A cell that a spreadsheet would take for a formula (or that begins with the mark itself) gets a leading `'`; the mark
is as OWASP's "CSV Injection" page advises, with the full-width forms that Japanese spreadsheets read alike. Numbers are
not quoted, texts always are, so no separator of any locale starts a new cell.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping
from typing import Any

from ine_jax.errors import printable
from ine_jax.report.measures import measures, rate

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
_PLAIN = ("\t", "\r", "\n")  # control characters that CSV itself can carry
_CELL = ("table", "model", "guard", "method", "negative", "negative_name", "embedding_from", "words")
_SCALES = ("scale", "negative_scale", "embedding_seed", "seconds_per_image")
TEXTS = (*_CELL, "list", "measure", "category", "metric")
NUMBERS = (*_SCALES, "threshold", "k", "n", "value", "low", "high", "unscored")
COLUMNS = (*TEXTS, *NUMBERS)


def write_csv(summary: Mapping[str, Any]) -> str:
    """CSV text of every number of a summary.

    `table` is cells or controls, `measure` the heading on the page, `metric` the metric's key. Empty: not of that row.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows(summary):
        writer.writerow([guarded(str(row.get(key, ""))) for key in TEXTS] + [_number(row.get(key)) for key in NUMBERS])
    return buffer.getvalue()


def read_csv(text: str) -> list[dict[str, Any]]:
    """The rows of `write_csv`: texts as they were given, numbers as numbers, empty ones left out.

    ValueError where the columns are not those of `COLUMNS`.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    if tuple(next(reader, ())) != COLUMNS:
        raise ValueError("not a report's CSV: other columns")
    rows = []
    for line in reader:
        row: dict[str, Any] = dict(zip(COLUMNS, line, strict=True))
        for key in TEXTS:
            row[key] = row[key].removeprefix("'")
        row |= {key: _read(row[key]) for key in NUMBERS if row[key]}
        rows.append({key: value for key, value in row.items() if value != ""})
    return rows


def _read(text: str) -> float | int:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def guarded(text: str) -> str:
    """The text as a cell that stays text: no control characters but tab and line ends, and a mark before a formula."""
    safe = "".join(c if c in _PLAIN else printable(c) for c in text)
    return f"'{safe}" if safe.startswith(FORMULA) else safe


def _number(value: Any) -> float | int | str:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else ""


def rows(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One mapping per number: rates, rates by category, metrics, rates at other thresholds."""
    for table in ("cells", "controls"):
        found = measures(summary, table)
        titles = {measure.list: measure.title for measure in found if not measure.metric}
        curves = (summary.get("sensitivity") or []) if table == "cells" else []
        for i, cell in enumerate(summary.get(table) or []):
            base = _base(table, cell)
            for measure in found:
                own = {**base, "list": measure.list, "measure": measure.title, "metric": measure.metric}
                values = {"": measure.of(cell)}
                if not measure.metric:
                    categories = (cell.get(measure.list) or {}).get("categories") or {}
                    values |= {name: rate(entry) for name, entry in categories.items()}
                for category, value in values.items():
                    if value is not None:
                        yield {**own, "category": category, **dataclasses.asdict(value)}
            for entry in (entry for entry in curves if entry["cell"] == i):
                own = {**base, "list": entry["list"], "measure": titles.get(entry["list"], "")}
                for threshold, number in zip(entry["thresholds"], entry["rate"], strict=True):
                    yield {**own, "threshold": threshold, "value": number}


def _base(table: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: cell[key] for key in (*_CELL, *_SCALES) if cell.get(key) is not None}
    return {**given, "table": table, "words": ", ".join(cell.get("words") or ())}
