"""One pass over the blocks of a run, block by block: every verdict becomes one number (8 bytes) per item."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ine_jax.evaluation.metrics.statistics import exact_p, mean, wilson
from ine_jax.evaluation.outcomes import DetectorReader, is_degenerate, successes
from ine_jax.evaluation.records import MetricMean, Paired, Rate
from ine_jax.evaluation.units import Unit, planned
from ine_jax.storage import marks
from ine_jax.storage.records import Measure, Row
from ine_jax.storage.runs import Run
from ine_jax.storage.sealed import corrupt

DIGITS = 6
ABSENT = np.nan  # not scored yet
UNSCORED = np.inf  # no verdict
DEGENERATE = "degenerate"  # name of the number that is 1 where an image is degenerate, and absent elsewhere
SILENT = -np.inf  # a verdict that decides nothing on this prompt set
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
MAX_CATEGORIES = 64  # of one prompt set; the most frequent ones

Place = tuple[int, str]  # cell, prompt set
Column = dict[Place, np.ndarray]  # one number per item of a set, in the order in which items were first seen


@dataclasses.dataclass(frozen=True)
class MetricReader:
    """A per-image metric, with the names of its numbers."""

    numbers: tuple[str, ...]


Reader = DetectorReader | MetricReader


@dataclasses.dataclass
class Counts:
    """What a pass found."""

    # by prompt set: item id -> its place in the columns; category -> places of its items
    items: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    categories: dict[str, dict[str, list[int]]] = dataclasses.field(default_factory=dict)
    # (scorer, name of the number; "" for that of a detector) -> column
    columns: dict[tuple[str, str], Column] = dataclasses.field(default_factory=dict)
    blocks: dict[Place, list[int]] = dataclasses.field(default_factory=dict)

    def column(self, scorer: str, number: str = "") -> Column:
        """The numbers of a detector or metric."""
        return self.columns.get((scorer, number), {})


def count(run: Run, readers: Mapping[str, Reader]) -> Counts:
    """Read every finished block once, with each scorer's scores.

    CorruptRunError where a block is gone, is not the one of the plan, or has more items than the run.
    """
    found, lists, cuts = Counts(), run.config["lists"], planned(run.config)
    marks.require_all(run.root, run.blocks(), run.listed)
    for k in run.blocks():
        rows = planned_rows(run, k, cuts)
        place = (cuts[k].cell, cuts[k].list)
        entry = lists[place[1]]
        found.blocks.setdefault(place, []).append(k)
        order = _order(found, rows)
        if order and max(order) >= entry["n"]:
            raise corrupt(run.block(k), f"an item that is not among the {entry['n']} of its prompt set")
        for name, reader in readers.items():
            lines = {line["id"]: line for line in run.scores(name, k) or ()}
            for row, i in zip(rows, order, strict=True):
                line = lines.get(row["id"])
                if line is None:
                    continue
                labels = line["labels"] if line["status"] == "scored" else None
                numbers = _numbers(reader, entry["measure"], row, labels)
                for number, value in (numbers | {DEGENERATE: 1.0} if is_degenerate(line) else numbers).items():
                    column = found.columns.setdefault((name, number), {})
                    if place not in column:
                        column[place] = np.full(entry["n"], ABSENT)
                    column[place][i] = value
    return found


def planned_rows(run: Run, k: int, cuts: Sequence[Unit]) -> list[Row]:
    """The rows of block k. CorruptRunError unless they are of the cell, prompt set and number that the plan says."""
    rows, unit = run.rows(k), cuts[k] if k < len(cuts) else None
    same = unit is not None and all((row["cell"], row["list"]) == (unit.cell, unit.list) for row in rows)
    if unit is None or not same or len(rows) != unit.stop - unit.start:
        raise corrupt(run.block(k), "it is not the block of this number in the run's plan")
    return rows


def _numbers(reader: Reader, measure: Measure, row: Row, labels: Mapping[str, float] | None) -> dict[str, float]:
    """Name -> number of one image; `labels` is None where it has no verdict."""
    if isinstance(reader, MetricReader):
        return {name: UNSCORED if labels is None else labels.get(name, UNSCORED) for name in reader.numbers}
    if labels is None:
        return {"": UNSCORED}
    score = reader.deciding_score(measure, labels, row.get("objects", ()))
    return {"": SILENT if score is None else score}


def _order(found: Counts, rows: Sequence[Row]) -> list[int]:
    """The place of each row's item in its prompt set; its categories are noted when it is first seen."""
    name = rows[0]["list"]
    ids = found.items.setdefault(name, {})
    order = []
    for row in rows:
        fresh = row["id"] not in ids
        order.append(ids.setdefault(row["id"], len(ids)))
        for category in dict.fromkeys(row.get("categories", ())) if fresh else ():
            found.categories.setdefault(name, {}).setdefault(str(category), []).append(order[-1])
    return order


def rate(measure: Measure, values: np.ndarray, threshold: float, degenerate: np.ndarray) -> Rate:
    """k of n deciding scores with Wilson's 95 % interval: as `dsr` where the concept must not show, else as `rate`.

    `degenerate` is the column of that name of the same items.
    """
    scored = values[np.isfinite(values)]
    found = wilson(int(successes(measure, scored, threshold).sum()), len(scored))
    entry: Rate = {
        "k": found.k,
        "n": found.n,
        "low": round(found.low, DIGITS),
        "high": round(found.high, DIGITS),
        "unscored": int((values == UNSCORED).sum()),
        "degenerate": int(np.nansum(degenerate)),
    }
    entry["dsr" if measure == "defended" else "rate"] = None if found.rate is None else round(found.rate, DIGITS)
    return entry


def curve(measure: Measure, values: np.ndarray) -> list[float] | None:
    """The rate at each of `THRESHOLDS`; None where nothing was scored."""
    scored = values[np.isfinite(values)]
    if not len(scored):
        return None
    return [round(float(successes(measure, scored, t).mean()), DIGITS) for t in THRESHOLDS]


def centre(values: np.ndarray) -> MetricMean:
    """Mean of a metric's numbers with its 95 % interval."""
    finite = values[np.isfinite(values)].tolist()
    middle, low, high = (None if v is None else round(v, DIGITS) for v in mean(finite))
    return {"mean": middle, "low": low, "high": high, "n": len(finite), "unscored": int((values == UNSCORED).sum())}


def paired(measure: Measure, a: np.ndarray, b: np.ndarray, threshold: float) -> Paired:
    """McNemar's test on the items that both sides have a verdict on."""
    both = np.isfinite(a) & np.isfinite(b)
    x, y = (successes(measure, side[both], threshold) for side in (a, b))
    n, only_a, only_b = len(x), int((x & ~y).sum()), int((~x & y).sum())
    difference = round((only_b - only_a) / n, DIGITS) if n else 0.0
    p = float(f"{exact_p(only_a, only_b):.6g}")
    return {"n": n, "both": int((x & y).sum()), "only_a": only_a, "only_b": only_b, "difference": difference, "p": p}


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjustment of the p-values of one family of tests, in their order (Holm 1979).

    The k-th smallest of m is multiplied by m - k + 1, is at least the one before it, and at most 1.
    """
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(f"{value:.6g}") for value in adjusted]


def categories(found: Counts, name: str) -> dict[str, np.ndarray]:
    """Category -> places of its items, of a prompt set; the most frequent ones in order of their names."""
    known = found.categories.get(name, {})
    common = sorted(known, key=lambda category: (-len(known[category]), category))[:MAX_CATEGORIES]
    return {category: np.asarray(known[category]) for category in sorted(common)}
