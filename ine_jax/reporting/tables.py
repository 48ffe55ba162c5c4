"""A summary as tables: the rows that the page, Markdown, the terminal and CSV show."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from ine_jax.evaluation.records import CellEntry, Curve, Summary
from ine_jax.reporting.labels import DASH, detector_text, negative_scale, negative_text, sides_text
from ine_jax.reporting.measures import Measure, Value, categories, heading, measures, rate

Part = Literal["cells", "controls"]
TITLES: dict[Part, str] = {"cells": "Cells", "controls": "Controls"}
CELL_HEAD = ("model", "guard", "guidance scale", "negative scale", "negative")
PAIRED_HEAD = (*CELL_HEAD[:4], "prompts", "a", "b", "b - a", "only b", "only a", "n", "p", "p (Holm)")


@dataclasses.dataclass(frozen=True)
class Row:
    """A cell with one value per column of its table, None where there is none."""

    cell: CellEntry
    values: tuple[Value | None, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells by columns, with the `detector` and preset of its rates.

    `prompts` and `measure` name the prompt set, and its rate, of a table that has only one.
    """

    title: str
    detector: str
    columns: tuple[Measure, ...]
    rows: tuple[Row, ...]
    prompts: str = ""
    measure: str = ""

    @property
    def head(self) -> list[str]:
        """The headings as texts; those of a single prompt set do not repeat its name."""
        titles = [column.title if self.prompts else column.heading for column in self.columns]
        return [*CELL_HEAD, *titles]

    @property
    def texts(self) -> list[list[str]]:
        """The rows as texts under `head`."""
        values = ([DASH if value is None else value.text for value in row.values] for row in self.rows)
        return [[*cell_texts(row.cell), *texts] for row, texts in zip(self.rows, values, strict=True)]


def cell_texts(cell: CellEntry) -> list[str]:
    """A cell under `CELL_HEAD`."""
    scale = negative_scale(cell["negative"], cell["negative_scale"])
    return [cell["model"], cell["guard"], f"{cell['scale']:g}", scale, negative_text(cell)]


def _rows(columns: Sequence[Measure], cells: Sequence[CellEntry]) -> list[Row]:
    return [Row(cell, tuple(column.of(cell) for column in columns)) for cell in cells]


def results(summary: Summary, part: Part) -> Table:
    """Every number of the main cells or of the controls."""
    columns = measures(summary, summary[part])
    return Table(TITLES[part], headline_detector(summary), tuple(columns), tuple(_rows(columns, summary[part])))


def headline_detector(summary: Summary) -> str:
    """The detector that fills the tables, and how it is read."""
    return detector_text(summary["detector"], summary["preset"])


def by_category(summary: Summary, part: Part = "cells") -> list[Table]:
    """Rates by category of the prompt, one table per prompt set that has categories."""
    cells, tables = summary[part], []
    for measure in (m for m in measures(summary, cells) if not m.metric):
        if columns := categories(measure, cells):
            rows = [row for row in _rows(columns, cells) if any(row.values)]
            title = f"{measure.prompts} by category: {measure.title}"
            own = tuple(columns), tuple(rows), measure.prompts, measure.title
            tables.append(Table(title, headline_detector(summary), *own))
    return tables


def by_detector(summary: Summary) -> list[Table]:
    """Rates of the main cells by further detectors, one table each."""
    tables = []
    for name, other in summary.get("others", {}).items():
        rates = {(entry["cell"], entry["list"]): rate(entry) for entry in other["rates"]}
        sets = list(dict.fromkeys(entry["list"] for entry in other["rates"]))
        rows = [Row(cell, tuple(rates.get((i, n)) for n in sets)) for i, cell in enumerate(summary["cells"])]
        columns = tuple(Measure(n, "", *heading(summary, n)) for n in sets)
        title = f"By another detector: {name.split('@')[0]}"
        tables.append(Table(title, detector_text(name, other["preset"]), columns, tuple(rows)))
    return tables


def by_threshold(summary: Summary, most: int = 0) -> list[Table]:
    """Rates of the main cells at other thresholds, one table per prompt set; `most` limits the number of columns."""
    curves: dict[str, list[Curve]] = {}
    for curve in summary.get("sensitivity", []):
        curves.setdefault(curve["list"], []).append(curve)
    tables = []
    for name, own in curves.items():
        grid = next((curve["thresholds"] for curve in own if curve["thresholds"]), [])
        places = list(range(len(grid)))
        if 1 < most < len(grid):
            places = sorted({round(i * (len(grid) - 1) / (most - 1)) for i in range(most)})
        title, kind = heading(summary, name)
        columns = tuple(Measure(name, "", f"{grid[i]:g}", kind, threshold=grid[i]) for i in places)
        same = (curve for curve in own if curve["thresholds"] == grid)
        rows = [Row(summary["cells"][c["cell"]], tuple(_maybe(c["rate"][i]) for i in places)) for c in same]
        if columns:
            detector = f"{summary['detector']}, preset {summary['preset']['name']}"
            tables.append(Table(f"{name} by detector threshold: {title}", detector, columns, tuple(rows), name, title))
    return tables


def _maybe(number: float | None) -> Value | None:
    return None if number is None else Value(number)


def paired_rows(summary: Summary) -> list[list[str]]:
    """Every paired test as a row of texts under `PAIRED_HEAD`."""
    return [
        [
            test["model"],
            test["guard"],
            f"{test['scale']:g}",
            negative_scale(test["b"], test["negative_scale"]),
            test["list"],
            *sides_text(test),
            f"{test['difference']:+.3f}",
            *(str(test[key]) for key in ("only_b", "only_a", "n")),
            f"{test['p']:.3g}",
            f"{test['p_holm']:.3g}",
        ]
        for test in summary["paired"]
    ]
