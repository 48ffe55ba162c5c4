"""What a summary counts, as columns: rates of lists, means of metrics, distances of sets; each with its interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DISTANCES = ("lpips",)  # per-image metrics in [0, 1] of which less is better: preservation is 1 - mean
FID, REAL = "fid", "fid real"  # of sets of images, against the reference model's and against real ones
TITLES = {"defended": "DSR"}  # of what is counted, where it is called otherwise in tables
ORDER = ("defence", "preservation", "drawn")


@dataclasses.dataclass(frozen=True)
class Value:
    """A number with the bounds of its 95 % interval (None where there are none); `k` of `n` where it is a rate."""

    value: float
    low: float | None = None
    high: float | None = None
    k: int | None = None
    n: int | None = None
    unscored: int = 0


@dataclasses.dataclass(frozen=True)
class Measure:
    """One column: a rate of prompt list `list` (`metric` empty), or a metric on its images, or `fid`.

    `kind`: what it speaks for; "defence" (DSR), "preservation" (kept, 1 - LPIPS, other metrics) or "drawn".
    `bounded`: whether values lie in [0, 1]; `less`: whether less is better.
    """

    list: str
    metric: str
    title: str
    kind: str
    bounded: bool = True
    less: bool = False

    @property
    def turned(self) -> bool:
        """Whether 1 less the stored mean is shown."""
        return self.metric.startswith(DISTANCES)

    def of(self, cell: Mapping[str, Any]) -> Value | None:
        """The cell's value, or None where nothing was judged."""
        entry = cell.get(self.list)
        if not isinstance(entry, Mapping):
            return None
        if not self.metric:
            return rate(entry)
        if self.metric in (FID, REAL):
            found = entry.get(FID) or {}
            number = (found if self.metric == FID else found.get("real") or {}).get("value")
            return None if number is None else Value(float(number), n=found.get("n"), unscored=found.get("unscored", 0))
        return _mean(entry.get("metrics", {}).get(self.metric), self.turned)


def rate(entry: Mapping[str, Any] | None) -> Value | None:
    """The rate of a list's entry, whatever it is called there."""
    number = None if entry is None else entry.get("dsr", entry.get("rate"))
    if entry is None or number is None:
        return None
    return Value(float(number), entry["low"], entry["high"], entry["k"], entry["n"], entry.get("unscored", 0))


def _mean(entry: Mapping[str, Any] | None, turned: bool) -> Value | None:
    if not entry or entry.get("mean") is None:
        return None
    mean, low, high = float(entry["mean"]), entry.get("low"), entry.get("high")
    if turned:
        mean, low, high = 1 - mean, None if high is None else 1 - high, None if low is None else 1 - low
    return Value(mean, low, high, None, entry.get("n"), entry.get("unscored", 0))


def lists_of(cells: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the prompt lists that any of the cells was judged or measured on; attack and benign first."""
    marks = ("k", "metrics", FID)
    found = {name for cell in cells for name, value in cell.items() if is_entry(value, marks)}
    first = [name for name in ("attack", "benign") if name in found]
    return first + sorted(found - set(first))


def is_entry(value: Any, marks: Sequence[str] = ("k", "metrics", FID)) -> bool:
    """Whether a cell's value is what was counted on a list."""
    return isinstance(value, Mapping) and any(mark in value for mark in marks)


def is_benign(name: str) -> bool:
    """Whether a prompt list asks for harmless objects, by its name."""
    return name.removeprefix("tune-").startswith("benign")


def measure_of(summary: Mapping[str, Any], name: str) -> str:
    """What is counted on a list: defended, kept, drawn or prior. By its name where the summary does not say."""
    told = summary.get("lists", {}).get(name, {}).get("measure")
    if told:
        return str(told)
    cells = [*(summary.get("cells") or []), *(summary.get("controls") or [])]
    if any("dsr" in cell[name] for cell in cells if is_entry(cell.get(name))):
        return "defended"
    return "kept" if is_benign(name) else "drawn"


def measures(summary: Mapping[str, Any], table: str = "cells") -> list[Measure]:
    """Every column that the cells of a table have a number for: rates, metrics, FID of each list; defence first."""
    cells = summary.get(table) or []
    found = []
    for name in lists_of(cells):
        told = TITLES.get(measure_of(summary, name), measure_of(summary, name))
        kind = {"DSR": "defence", "kept": "preservation"}.get(told, "drawn")
        found.append(Measure(name, "", told, kind))
        ids = {metric for cell in cells for metric in (cell.get(name) or {}).get("metrics", {})}
        for metric in sorted(ids):
            measure = Measure(name, metric, metric_text(metric), "preservation", bounded=metric.startswith(DISTANCES))
            found.append(measure)
        for metric, title in ((FID, "FID"), (REAL, "FID to real images")):
            found.append(Measure(name, metric, title, "preservation", bounded=False, less=True))
    there = [measure for measure in found if any(measure.of(cell) is not None for cell in cells)]
    return sorted(there, key=lambda measure: ORDER.index(measure.kind))


def metric_text(metric: str) -> str:
    """A metric's heading, without its version: `lpips-64@1` as `1 - LPIPS, 64 px`, `clip-score@1` as `CLIP score`."""
    store, _, number = metric.partition(" ")  # the number's name is there where a metric has several
    name = number or store.split("@")[0]
    if name.startswith("lpips"):
        size = name.removeprefix("lpips").lstrip("-/")
        return f"1 - LPIPS, {size} px" if size.isdigit() else f"1 - LPIPS {size}".strip()
    return "CLIP score" if name == "clip-score" else name
