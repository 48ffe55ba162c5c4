"""The entries of a summary: what one detector and the metrics say of each list in each cell, and cell against cell."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ine_jax.evaluation import counting
from ine_jax.evaluation.counting import DIGITS, THRESHOLDS, Counts, DetectorReader, MetricReader, Place
from ine_jax.evaluation.reference import is_plain

KINDS = ("none", "explicit", "blend", "implicit")
PAIRS = tuple(itertools.combinations(KINDS, 2))
GIVEN = ("words", "embeddings", "blend", "embedding_from", "embedding_seed")


def of_role(specs: Sequence[Mapping[str, Any]], main: bool) -> list[int]:
    """The cells of the main table, or those that are controls."""
    return [i for i, spec in enumerate(specs) if (spec["role"] == "main") == main]


@dataclasses.dataclass(frozen=True)
class Table:
    """Counted numbers as entries. `detector` names the judge that decides rates; `gauges` are the metrics beside it."""

    config: Mapping[str, Any]
    counts: Counts
    detector: str
    judge: DetectorReader
    gauges: Mapping[str, MetricReader]
    fid: Mapping[Place, Mapping[str, Any]]

    def values(self, place: Place, judge: str | None = None, number: str = "") -> np.ndarray:
        """A judge's numbers of a list in a cell, by default the detector's; all absent where nothing is judged."""
        column = self.counts.column(judge or self.detector, number)
        return column[place] if place in column else np.full(self.config["lists"][place[1]]["n"], counting.ABSENT)

    def measure(self, name: str) -> str:
        """What is counted on a list."""
        return str(self.config["lists"][name]["measure"])

    def cell(self, i: int) -> dict[str, Any]:
        """A cell with one entry per list."""
        spec = self.config["cells"][i]
        found = {key: spec[key] for key in ("model", "guard", "negative", "negative_name")}
        found |= {key: spec["guidance"][key] for key in ("method", "scale", "negative_scale")}
        if spec["negative"] == "none":
            found["negative_scale"] = None
        found |= {key: spec[key] for key in GIVEN if spec[key] not in (None, "", [])}
        return found | {name: self.entry((i, name)) for name in spec["lists"]}

    def entry(self, place: Place) -> dict[str, Any]:
        """What was counted on one list in one cell: rate, categories, metrics, FID."""
        found = self.rate(place)
        metrics = {}
        for name, gauge in self.gauges.items():
            for number in gauge.numbers:
                values = self.values(place, name, number)
                if not np.isnan(values).all():
                    metrics[self.title(name, number)] = counting.centre(values)
        if metrics or not found:
            found["metrics"] = metrics
        if place in self.fid:
            found["fid"] = dict(self.fid[place])
        return found

    def title(self, name: str, number: str) -> str:
        """Key of a metric's mean: the name of its store, and of the number where it has several."""
        return name if len(self.gauges[name].numbers) == 1 else f"{name} {number}"

    def rate(self, place: Place) -> dict[str, Any]:
        """The rate of a list with that of its categories; nothing on a list of no concept."""
        measure = self.measure(place[1])
        if measure == "prior":
            return {}
        values, threshold = self.values(place), self.judge.preset.threshold
        found = counting.rate(measure, values, threshold)
        members = counting.categories(self.counts, place[1])
        if members:
            # a cell of only the first items of a list has no verdict on the others, and says nothing of their category
            rates = {name: counting.rate(measure, values[items], threshold) for name, items in members.items()}
            found["categories"] = {name: rate for name, rate in rates.items() if rate["n"] or rate["unscored"]}
        return found

    def curves(self) -> Iterator[dict[str, Any]]:
        """The rate of every list in every main cell at other thresholds; `cell` is the place in the main table."""
        for place, i in enumerate(of_role(self.config["cells"], True)):
            for name in self.config["cells"][i]["lists"]:
                rates = counting.curve(self.measure(name), self.values((i, name)))
                if rates is not None:
                    yield {"cell": place, "list": name, "thresholds": list(THRESHOLDS), "rate": rates}

    def paired(self) -> Iterator[dict[str, Any]]:
        """McNemar's test of every pair of negatives on every list that both were judged on."""
        column, threshold = self.counts.column(self.detector), self.judge.preset.threshold
        for i, j, name, sides in self._pairs():
            if (i, name) not in column or (j, name) not in column or self.measure(name) == "prior":
                continue
            test = counting.paired(self.measure(name), column[i, name], column[j, name], threshold)
            result = dataclasses.asdict(test)
            result["difference"] = round(result["difference"], DIGITS)
            result["p"] = float(f"{result['p']:.6g}")
            yield {**sides, **result}

    def differences(self) -> Iterator[dict[str, Any]]:
        """Mean of b - a of every metric over the items that both sides have a number of, with its interval."""
        for i, j, name, sides in self._pairs():
            for store, gauge in self.gauges.items():
                for number in gauge.numbers:
                    a, b = (self.values((cell, name), store, number) for cell in (i, j))
                    both = np.isfinite(a) & np.isfinite(b)
                    if both.any():
                        found = counting.centre(b[both] - a[both])
                        numbers = {"difference": found["mean"], **{key: found[key] for key in ("low", "high", "n")}}
                        yield {**sides, "metric": self.title(store, number), **numbers}

    def _pairs(self) -> Iterator[tuple[int, int, str, dict[str, Any]]]:
        """Negatives against each other on the same items, under one guard; and each against plain CFG at that w."""
        specs = self.config["cells"]
        for (i, a), (j, b) in itertools.product(enumerate(specs), repeat=2):
            if i == j or a["model"] != b["model"] or (a["negative"], b["negative"]) not in PAIRS:
                continue
            plain = is_plain(a) and a["guidance"]["scale"] == b["guidance"]["scale"]
            if not plain and a["guidance"] != b["guidance"]:
                continue
            names = {"a_name": a["negative_name"], "b_name": b["negative_name"]}
            origin = {key: b[key] for key in ("embedding_from", "embedding_seed") if b[key] not in (None, "")}
            scales = {key: b["guidance"][key] for key in ("scale", "negative_scale")}
            kinds = {"a": a["negative"], "b": b["negative"], **scales, **names, **origin}
            for name in a["lists"]:
                if name in b["lists"]:
                    yield i, j, name, {"model": a["model"], "guard": b["guard"], "list": name, **kinds}
