"""The plan of an evaluation as a table: one line per cell, with its work and, where it is known, its time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ine_jax.config import EvaluateConfig
from ine_jax.evaluation.generating import missing_units
from ine_jax.evaluation.prepare import Prepared
from ine_jax.progress import duration
from ine_jax.reporting.labels import DASH, negative_text
from ine_jax.storage.records import TimingEntry
from ine_jax.storage.runs import open_run

HEADINGS = ("model", "guard", "negative", "items", "missing", "rows/step", "time")


@dataclass(frozen=True)
class Forecast:
    """The work of one cell.

    Attributes:
        items: of each prompt set.
        missing: images that are still to be generated.
        rows: of the network per image and step; None where no image is missing.
        seconds: of the missing images, at the median pace of the cell's stored blocks or else of all cells with as many
            rows; None where no such block is stored.
    """

    model: str
    guard: str
    negative: str
    items: dict[str, int]
    missing: int
    rows: int | None
    seconds: float | None

    def cells(self) -> tuple[str, ...]:
        """The line of the table."""
        items = ", ".join(f"{name} {count}" for name, count in self.items.items())
        rows = DASH if self.rows is None else str(self.rows)
        time = DASH if self.seconds is None else duration(self.seconds)
        return self.model, self.guard, self.negative, items, str(self.missing), rows, time


def forecast(ready: Prepared, out: str) -> list[Forecast]:
    """The work of every cell of a plan."""
    plan, left = ready.plan, dict.fromkeys(range(len(ready.plan.cells)), 0)
    for unit in missing_units(plan, out, ready.shard):
        left[unit.cell] += unit.stop - unit.start
    rows = {i: ready.rows.get(cell) for i, cell in enumerate(plan.cells)}
    pace = _pace(open_run(out).timings() if (Path(out) / "run.json").is_file() else [], rows)
    found = []
    for i, cell in enumerate(plan.cells):
        each = pace.get(i)
        seconds = None if each is None else each * left[i]
        negative = negative_text(cell.record())
        found.append(Forecast(cell.model, cell.guard, negative, dict(cell.lists), left[i], rows[i], seconds))
    return found


def _pace(timings: Sequence[TimingEntry], rows: Mapping[int, int | None]) -> dict[int, float]:
    """Seconds per image of each cell that has stored blocks, or as many rows as one that has."""
    own: dict[int, list[float]] = {}
    for entry in timings:
        if entry.get("images"):
            own.setdefault(entry["cell"], []).append(entry["seconds"] / entry["images"])
    alike = {i: [pace for j in own if rows[j] == rows[i] for pace in own[j]] for i in rows if rows[i] is not None}
    # the lower median: of a first block that compiled and a second that did not, the second
    return {i: sorted(found)[(len(found) - 1) // 2] for i in rows if (found := own.get(i) or alike.get(i))}


def lines(cells: Sequence[Forecast], config: EvaluateConfig) -> list[str]:
    """The table, its sum, and what all cells share."""
    table = [HEADINGS, *(each.cells() for each in cells)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left, numbers = len(HEADINGS) - 3, widths[-3:]
    found = [
        "  ".join([*map(str.ljust, row[:left], widths), *map(str.rjust, row[left:], numbers)]).rstrip() for row in table
    ]
    timed = [each.seconds for each in cells if each.missing]
    known = sum(seconds for seconds in timed if seconds is not None)
    about = f"about {duration(known)}" if timed and None not in timed else "time unknown until a block is stored"
    missing = sum(each.missing for each in cells)
    total = f"{len(cells)} cells, {missing} images to generate" + (f", {about}" if missing else ", already complete")
    sampler, scorers = config.sampler, [d.kind for d in config.detectors] + [m.kind for m in config.metrics]
    shared = (
        f"{sampler.steps} steps, batches of {sampler.batch}, blocks of {config.block}, scored by {', '.join(scorers)}"
    )
    return [*found, total, shared]


def values(cells: Sequence[Forecast]) -> list[dict[str, object]]:
    """The table as JSON values."""
    return [asdict(each) for each in cells]
