"""The entries of a summary: the results of each prompt set in each cell, and cell against cell."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np

from ine_jax.evaluation import counting
from ine_jax.evaluation.counting import THRESHOLDS, Counts, MetricReader, Place
from ine_jax.evaluation.outcomes import DetectorReader
from ine_jax.evaluation.records import CellEntry, Curve, Difference, Fid, ListResult, Paired, PairedTest, Rate, Sides
from ine_jax.evaluation.reference import is_unguarded
from ine_jax.storage.records import CellSpec, Measure, RunConfig

KINDS = ("none", "explicit", "blend", "implicit")
PAIRS = tuple(itertools.combinations(KINDS, 2))


def of_role(specs: Sequence[CellSpec], main: bool) -> list[int]:
    """The cells of the main table, or those that are controls."""
    return [i for i, spec in enumerate(specs) if (spec["role"] == "main") == main]


@dataclasses.dataclass(frozen=True)
class Table:
    """Counted numbers as entries of the summary."""

    config: RunConfig
    counts: Counts
    detector: str  # the one that decides rates
    reader: DetectorReader  # how its scores are read
    metrics: Mapping[str, MetricReader]
    fid: Mapping[Place, Fid]  # Frechet distances

    def values(self, place: Place, scorer: str | None = None, number: str = "") -> np.ndarray:
        """A scorer's numbers of a prompt set in a cell, by default the detector's; all absent where nothing is."""
        column = self.counts.column(scorer or self.detector, number)
        return column[place] if place in column else np.full(self.config["lists"][place[1]]["n"], counting.ABSENT)

    def measure(self, name: str) -> Measure:
        """What is counted on a prompt set."""
        return self.config["lists"][name]["measure"]

    def cell(self, i: int) -> CellEntry:
        """A cell with one entry per prompt set."""
        spec = self.config["cells"][i]
        guidance = spec["guidance"]
        found: CellEntry = {
            "model": spec["model"],
            "guard": spec["guard"],
            "negative": spec["negative"],
            "negative_name": spec["negative_name"],
            "method": guidance["method"],
            "scale": guidance["scale"],
            "negative_scale": None if spec["negative"] == "none" else guidance["negative_scale"],
        }
        optional = ("words", "embeddings", "blend", "embedding_from", "embedding_seed")
        given = {key: value for key, value in spec.items() if key in optional and value not in (None, "", [])}
        return cast(CellEntry, {**found, **given, **{name: self.entry((i, name)) for name in spec["lists"]}})

    def entry(self, place: Place) -> ListResult:
        """The results of one prompt set in one cell: rate, categories, metrics, FID."""
        found: ListResult = {}
        if self.measure(place[1]) != "prior":
            found = cast(ListResult, self.rate(place))
            rates = self.category_rates(place)
            if place[1] in self.counts.categories:
                found["categories"] = rates
        metrics = {}
        for name, number in self._numbers():
            values = self.values(place, name, number)
            if not np.isnan(values).all():
                metrics[self.title(name, number)] = counting.centre(values)
        if metrics or not found:
            found["metrics"] = metrics
        if place in self.fid:
            found["fid"] = self.fid[place]
        return found

    def _numbers(self) -> list[tuple[str, str]]:
        return [(name, number) for name, metric in self.metrics.items() for number in metric.numbers]

    def title(self, name: str, number: str) -> str:
        """Key of a metric's mean: the metric's name, and that of the number where it has several."""
        return name if len(self.metrics[name].numbers) == 1 else f"{name} {number}"

    def rate(self, place: Place) -> Rate:
        """The rate of a prompt set in a cell."""
        degenerate = self.values(place, number=counting.DEGENERATE)
        return counting.rate(self.measure(place[1]), self.values(place), self.reader.threshold, degenerate)

    def category_rates(self, place: Place) -> dict[str, Rate]:
        """The same by category; a category whose items are all beyond the cell's first items is left out."""
        values, measure = self.values(place), self.measure(place[1])
        degenerate, threshold = self.values(place, number=counting.DEGENERATE), self.reader.threshold
        members = counting.categories(self.counts, place[1])
        rates = {
            name: counting.rate(measure, values[items], threshold, degenerate[items]) for name, items in members.items()
        }
        return {name: rate for name, rate in rates.items() if rate["n"] or rate["unscored"]}

    def curves(self) -> Iterator[Curve]:
        """The rate of every prompt set in every main cell at other thresholds."""
        for place, i in enumerate(of_role(self.config["cells"], True)):
            for name in self.config["cells"][i]["lists"]:
                rates = counting.curve(self.measure(name), self.values((i, name)))
                if rates is not None:
                    yield {"cell": place, "list": name, "thresholds": list(THRESHOLDS), "rate": rates}

    def paired(self) -> list[PairedTest]:
        """McNemar's test of every pair of negatives on every prompt set that both have scores of."""
        column, tests = self.counts.column(self.detector), list[tuple[Sides, Paired]]()
        for i, j, name, sides in self._pairs():
            if (i, name) not in column or (j, name) not in column or self.measure(name) == "prior":
                continue
            test = counting.paired(self.measure(name), column[i, name], column[j, name], self.reader.threshold)
            tests.append((sides, test))
        adjusted = counting.holm([test["p"] for _, test in tests])
        return [{**sides, **test, "p_holm": p} for (sides, test), p in zip(tests, adjusted, strict=True)]

    def differences(self) -> Iterator[Difference]:
        """Mean of b - a of every metric over the items that both sides have a number of."""
        for i, j, name, sides in self._pairs():
            for metric, number in self._numbers():
                a, b = (self.values((cell, name), metric, number) for cell in (i, j))
                both = np.isfinite(a) & np.isfinite(b)
                if both.any():
                    found = counting.centre(b[both] - a[both])
                    yield {
                        **sides,
                        "metric": self.title(metric, number),
                        "difference": found["mean"],
                        "low": found["low"],
                        "high": found["high"],
                        "n": found["n"],
                    }

    def _pairs(self) -> Iterator[tuple[int, int, str, Sides]]:
        """Negatives under one guard on the same items, and each against plain CFG at the same guidance scale."""
        specs = self.config["cells"]
        for (i, a), (j, b) in itertools.product(enumerate(specs), repeat=2):
            if i == j or a["model"] != b["model"] or (a["negative"], b["negative"]) not in PAIRS:
                continue
            plain = is_unguarded(a) and a["guidance"]["scale"] == b["guidance"]["scale"]
            if not plain and a["guidance"] != b["guidance"]:
                continue
            for name in a["lists"]:
                if name in b["lists"]:
                    yield i, j, name, _sides(a, b, name)


def _sides(a: CellSpec, b: CellSpec, name: str) -> Sides:
    found: Sides = {
        "model": a["model"],
        "guard": b["guard"],
        "list": name,
        "scale": b["guidance"]["scale"],
        "negative_scale": b["guidance"]["negative_scale"],
        "a": a["negative"],
        "b": b["negative"],
        "a_name": a["negative_name"],
        "b_name": b["negative_name"],
    }
    if b["embedding_from"]:
        found["embedding_from"] = b["embedding_from"]
    if b["embedding_seed"] is not None:
        found["embedding_seed"] = b["embedding_seed"]
    return found
