"""Embeddings across models: the model of the inversion against the model in use."""

import dataclasses
from collections.abc import Iterator

from ine_jax.evaluation.records import CellEntry, Summary
from ine_jax.reporting.labels import DASH, KINDS, NEGATIVES, cell_scales
from ine_jax.reporting.measures import Measure, Value, heading, prompt_sets
from ine_jax.reporting.tables import headline_detector


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Rates of one prompt set under one guard.

    Attributes:
        title: prompt set, guard and scales.
        detector: of the rates, and its preset.
        measure: heading of the rate.
        used: the models in use, one per column.
        rows: what fills the negative, and its rate on each model; None where there is none. Embeddings are named by
            the model of their inversion, and by its seed where it has several.
    """

    title: str
    detector: str
    measure: str
    used: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Value | None, ...]], ...]

    @property
    def head(self) -> list[str]:
        """The headings as texts."""
        return ["negative", *(f"on {model}" for model in self.used)]

    @property
    def texts(self) -> list[list[str]]:
        """The rows as texts under `head`."""
        return [[name, *(DASH if v is None else v.text for v in values)] for name, values in self.rows]


def transfers(summary: Summary) -> list[Transfer]:
    """A table per attack prompt set and guard that embeddings of at least two models were used under.

    Rows without an embedding are plain CFG at the same guidance scale, and the guard with words.
    """
    cells = [*summary["cells"], *summary["controls"]]
    guards = list(dict.fromkeys((c["guard"], cell_scales(c)) for c in cells if _source(c)))
    found = [_transfer(summary, name, guard) for name in prompt_sets(cells) for guard in guards]
    return [table for table in found if table is not None]


def _source(cell: CellEntry) -> str:
    return cell.get("embedding_from", "") if cell["negative"] == "implicit" else ""


def _transfer(summary: Summary, prompts: str, guard: tuple[str, str]) -> Transfer | None:
    title, kind = heading(summary, prompts)
    if kind != "defense":
        return None
    cells, column = [*summary["cells"], *summary["controls"]], Measure(prompts, "", title, kind)
    under = [cell for cell in cells if (cell["guard"], cell_scales(cell)) == guard]
    scales = {cell["scale"] for cell in under}
    plain = [cell for cell in cells if cell["negative"] == "none" and cell["scale"] in scales]
    rates: dict[str, dict[str, Value]] = {}
    for cell in (*plain, *under):
        if (value := column.of(cell)) is not None:
            for name in _names(cell, cells):
                rates.setdefault(name, {}).setdefault(cell["model"], value)
    used = tuple(dict.fromkeys(cell["model"] for cell in under if _source(cell) and column.of(cell) is not None))
    if len({_source(cell) for cell in under if column.of(cell) is not None} - {""}) < 2:
        return None
    rows = tuple((name, tuple(values.get(model) for model in used)) for name, values in rates.items())
    return Transfer(f"{prompts} prompts, {guard[0]}, {guard[1]}", headline_detector(summary), title, used, rows)


def _names(cell: CellEntry, cells: list[CellEntry]) -> Iterator[str]:
    """Name of the row of a cell; none for blends and embeddings of unknown origin."""
    source = _source(cell)
    if source:
        seeds = {other.get("embedding_seed") for other in cells if _source(other) == source}
        yield f"implicit (from {source}" + (f", seed {cell.get('embedding_seed')})" if len(seeds) > 1 else ")")
    elif cell["negative"] in KINDS[:2]:
        yield NEGATIVES[cell["negative"]]
