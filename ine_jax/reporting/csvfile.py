"""A summary as one CSV: a number per row, safe to open in a spreadsheet, and read back to the same values.

A text that a spreadsheet would take for a formula gets a leading `'` (OWASP's page "CSV Injection", with the full-width
forms of Japanese spreadsheets). Texts are always quoted, so no separator of any locale starts a new cell.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Iterator

from ine_jax.errors import printable
from ine_jax.evaluation.records import CellEntry, Summary
from ine_jax.reporting.measures import SECONDS, heading
from ine_jax.reporting.tables import TITLES, by_category, by_detector, by_threshold, results

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", re.ASCII)
_REST = re.compile("[^\t\r\n]+")  # the other control characters are among these
_CELL = ("table", "model", "guard", "method", "negative", "negative_name", "embedding_from", "words")
_SCALES = ("scale", "negative_scale", "embedding_seed", "seconds_per_image")
TEXTS = (*_CELL, "list", "measure", "category", "metric", "detector")
NUMBERS = (*_SCALES, "threshold", "k", "n", "value", "low", "high", "unscored")
COLUMNS = (*TEXTS, *NUMBERS)
Record = dict[str, str | int | float | None]


def write_csv(summary: Summary) -> str:
    """CSV text of every number of a summary. A column that does not apply to a row is empty."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows(summary):
        texts, numbers = [guarded(str(row.get(key, ""))) for key in TEXTS], [row.get(key) for key in NUMBERS]
        writer.writerow([*texts, *("" if number is None else number for number in numbers)])
    return buffer.getvalue()


def read_csv(text: str) -> list[Record]:
    """The rows of `write_csv`, without empty values. ValueError where the columns are not `COLUMNS`."""
    reader = csv.reader(io.StringIO(text, newline=""))
    if tuple(next(reader, ())) != COLUMNS:
        raise ValueError("not a report's CSV: other columns")
    found: list[Record] = []
    for line in reader:
        cells = dict(zip(COLUMNS, line, strict=True))
        texts: Record = {key: cells[key].removeprefix("'") for key in TEXTS if cells[key]}
        found.append(texts | {key: _number(cells[key]) for key in NUMBERS if cells[key]})
    return found


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def guarded(text: str) -> str:
    """The text as a cell that is no formula: a mark before what would be one, and of control characters only tab and
    line ends. A number stays a number."""
    safe = _REST.sub(lambda part: printable(part[0]), text)
    return f"'{safe}" if safe.startswith(FORMULA) and not _NUMBER.fullmatch(safe) else safe


def rows(summary: Summary) -> Iterator[Record]:
    """One record per number: rates and metrics, rates by category, by further detectors and at other thresholds."""
    for part in TITLES:
        further = [*by_detector(summary), *by_threshold(summary)] if part == "cells" else []
        for table in (results(summary, part), *by_category(summary, part), *further):
            for row in table.rows:
                cell = _cell(part, row.cell)
                for column, value in zip(table.columns, row.values, strict=True):
                    if value is not None and column.metric != SECONDS:
                        title = column.title if column.metric else heading(summary, column.prompts)[0]
                        own: Record = {"list": column.prompts, "measure": title, "metric": column.metric}
                        own |= {"category": column.category, "threshold": column.threshold}
                        own |= {"detector": "" if column.metric else table.detector}
                        yield cell | own | dataclasses.asdict(value)


def _cell(part: str, cell: CellEntry) -> Record:
    values: dict[str, object] = {**cell, "table": part, "words": ", ".join(cell.get("words", ()))}
    return {key: value for key in (*_CELL, *_SCALES) if isinstance(value := values.get(key), str | int | float)}
