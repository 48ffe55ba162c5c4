"""The columns of a report: rates of prompt sets, means of metrics and distances between image sets, with intervals."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from ine_jax.evaluation.records import CellEntry, MetricMean, PlacedRate, Rate, Summary, list_results
from ine_jax.evaluation.records import ListResult as Result
from ine_jax.storage.records import Measure as Counted

Kind = Literal["defense", "preservation", "attack", "cost"]
ORDER: tuple[Kind, ...] = ("defense", "preservation", "attack", "cost")
HEADINGS: dict[Counted, tuple[str, Kind]] = {  # what is counted on a prompt set -> heading and kind of its rate
    "defended": ("DSR", "defense"),
    "kept": ("PP (objects)", "preservation"),
    "prior": ("PP", "preservation"),
    "drawn": ("ASR", "attack"),
}
FID, FID_REAL, SECONDS = "fid", "fid real", "seconds"


@dataclasses.dataclass(frozen=True)
class Value:
    """A number, the bounds of its 95 % interval where it has one, and `k` of `n` images where it is a rate."""

    value: float
    low: float | None = None
    high: float | None = None
    k: int | None = None
    n: int | None = None
    unscored: int = 0
    degenerate: int = 0  # of the unscored ones

    @property
    def span(self) -> str:
        """`0.612 to 0.741`, or nothing without an interval."""
        return "" if self.low is None or self.high is None else f"{self.low:.3f} to {self.high:.3f}"

    @property
    def text(self) -> str:
        """`0.620 [0.520, 0.710] 62/100`."""
        bounds = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        count = "" if self.n is None else f" n {self.n}" if self.k is None else f" {self.k}/{self.n}"
        return f"{self.value:.3f}{bounds}{count}"


@dataclasses.dataclass(frozen=True)
class Measure:
    """One column of a table."""

    prompts: str  # empty for a number of the whole cell
    metric: str  # empty for a rate, else the key of a metric, `fid`, `fid real` or `seconds`
    title: str
    kind: Kind  # what a good value shows
    bounded: bool = True  # in [0, 1]
    less: bool = False  # less is better
    category: str = ""  # of a rate over the prompts of one category
    threshold: float | None = None  # of a rate at another threshold than the preset's

    @property
    def inverted(self) -> bool:
        """Whether 1 - mean is shown, so that more is better."""
        return self.metric.startswith("lpips")

    @property
    def heading(self) -> str:
        """Title with the prompt set."""
        return f"{self.prompts}: {self.title}" if self.prompts else self.title

    def of(self, cell: CellEntry) -> Value | None:
        """The cell's value, or None where it has none."""
        if self.metric == SECONDS:
            seconds = cell.get("seconds_per_image")
            return None if seconds is None else Value(seconds)
        result = list_results(cell).get(self.prompts, {})
        if self.category:
            return rate(result.get("categories", {}).get(self.category))
        if not self.metric:
            return rate(result)
        if self.metric not in (FID, FID_REAL):
            return _mean(result.get("metrics", {}).get(self.metric), self.inverted)
        fid = result.get("fid")
        if fid is None:
            return None
        number = fid["value"] if self.metric == FID else fid["real"]["value"] if "real" in fid else None
        return None if number is None else Value(number, n=fid["n"], unscored=fid.get("unscored", 0))


def rate(entry: Rate | PlacedRate | Result | None) -> Value | None:
    """The rate in an entry, stored as `dsr` or as `rate`."""
    number = None if entry is None else entry.get("dsr", entry.get("rate"))
    if entry is None or number is None:
        return None
    return Value(
        number, entry["low"], entry["high"], entry["k"], entry["n"], entry["unscored"], entry.get("degenerate", 0)
    )


def _mean(entry: MetricMean | None, inverted: bool) -> Value | None:
    if entry is None or entry["mean"] is None:
        return None
    mean, low, high = entry["mean"], entry["low"], entry["high"]
    if inverted:
        mean, low, high = 1 - mean, None if high is None else 1 - high, None if low is None else 1 - low
    return Value(mean, low, high, n=entry["n"], unscored=entry["unscored"])


def prompt_sets(cells: Iterable[CellEntry]) -> list[str]:
    """Names of the prompt sets that any of the cells has a result for; attack and benign first."""
    found = {name for cell in cells for name in list_results(cell)}
    return sorted(found, key=lambda name: (name != "attack", name != "benign", name))


def heading(summary: Summary, name: str) -> tuple[str, Kind]:
    """Heading and kind of a prompt set's rate."""
    return HEADINGS[summary["lists"][name]["measure"]]


def measures(summary: Summary, cells: list[CellEntry]) -> list[Measure]:
    """Every column that the cells have a number for, ordered by kind as in `ORDER`."""
    found = []
    for name in prompt_sets(cells):
        found.append(Measure(name, "", *heading(summary, name)))
        keys = {key for cell in cells for key in list_results(cell).get(name, {}).get("metrics", {})}
        found += [Measure(name, key, _title(key), "preservation", key.startswith("lpips")) for key in sorted(keys)]
        for key, title in ((FID, "FID"), (FID_REAL, "FID to real images")):
            found.append(Measure(name, key, title, "preservation", bounded=False, less=True))
    found.append(Measure("", SECONDS, "s/image", "cost", bounded=False, less=True))
    filled = [measure for measure in found if any(measure.of(cell) is not None for cell in cells)]
    return sorted(filled, key=lambda measure: ORDER.index(measure.kind))


def categories(measure: Measure, cells: Iterable[CellEntry]) -> list[Measure]:
    """The columns of a rate by category of the prompt."""
    names = {name for cell in cells for name in list_results(cell).get(measure.prompts, {}).get("categories", {})}
    return [dataclasses.replace(measure, title=name, category=name) for name in sorted(names)]


def _title(metric: str) -> str:
    """A metric's heading, without its version: `lpips-64@1` as `PP (1 - LPIPS, 64 px)`."""
    store, _, number = metric.partition(" ")  # the number has a name where a metric has several
    name = number or store.split("@")[0]
    if name == "clip-score":
        return "CLIP score"
    if not name.startswith("lpips"):
        return name
    size = name.removeprefix("lpips").lstrip("-/")
    return f"PP (1 - LPIPS{f', {size} px' if size.isdigit() else f' {size}'.rstrip()})"
