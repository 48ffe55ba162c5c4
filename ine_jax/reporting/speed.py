"""What `ine bench` measured, as lines of text and as a plot: one function gives both their numbers."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ine_jax.storage.atomic import write_atomic

if TYPE_CHECKING:
    from ine_jax.pipeline.bench.cold_start import StartResult
    from ine_jax.pipeline.bench.guards import GuardsResult
    from ine_jax.pipeline.bench.records import Setting
    from ine_jax.pipeline.bench.turns import Compared, Matmul

TERA, GIGA = 1e12, 1e9
Result: TypeAlias = "Compared | GuardsResult | StartResult"


@dataclass(frozen=True)
class Bar:
    """One bar of the plot: a value, and the lowest and highest turn."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Speeds:
    """A table and its plot: `rows` are cells below `columns`, the first one a name; `unit` is that of the bars."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    bars: tuple[Bar, ...]
    unit: str


def speeds(result: Result) -> Speeds:
    """Return the table and the bars of a result."""
    match result["what"]:
        case "guards":
            return _guards(cast("GuardsResult", result))
        case "cold-start":
            return _starts(cast("StartResult", result))
    return _compared(cast("Compared", result))


def lines(table: Speeds) -> list[str]:
    """Return the table as lines of text."""
    grid = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.columns))]

    def line(row: Sequence[str]) -> str:
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        return "  ".join((row[0].ljust(widths[0]), *rest))

    return [table.heading, *map(line, grid), *table.notes]


def plot(path: Path, table: Speeds) -> None:
    """Write the bars as a PNG, each with a line from its lowest to its highest turn."""
    figure = Figure(figsize=(7.2, 1.0 + 0.4 * len(table.bars)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    values = [bar.value for bar in table.bars]
    ends = [[bar.value - bar.low for bar in table.bars], [bar.high - bar.value for bar in table.bars]]
    labels = [bar.label for bar in table.bars]
    axes.barh(range(len(values)), values, xerr=ends, color="tab:blue", ecolor="black", capsize=3)
    axes.set_yticks(range(len(values)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(table.unit)
    axes.set_title(table.heading.replace("$", r"\$"), fontsize=9)  # a name is text, never a formula
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue(), shared=True)


def _compared(result: "Compared") -> Speeds:
    unit = f"{result['unit']}/s"
    rows = tuple(
        (
            row["implementation"],
            f"{row['per_second']:.2f}",
            f"{row['lowest']:.2f} to {row['highest']:.2f}",
            f"{row['speed_of_ine_jax']:.2f}x",
            f"{row['speed_lowest']:.2f} to {row['speed_highest']:.2f}",
            _rate(row["flops_per_second"]),
            f"{row['share_of_matmul']:.1%}",
            f"{row['processor_seconds']:.2f}",
            "-" if row["difference"] is None else f"{row['difference']:.1e}",
            "-" if row["compiles"] is None else str(row["compiles"]),
        )
        for row in result["rows"]
    )
    columns = ("", unit, "turns", "ours is", "turns", "FLOP/s", "of matmul", "CPU s", "difference", "compiles")
    bars = [Bar(row["implementation"], row["per_second"], row["lowest"], row["highest"]) for row in result["rows"]]
    notes = [_matmul(result["matmul"])]
    if (busy := result.get("device_busy")) is not None:
        notes.append(f"device busy: {busy:.1%} of a traced turn")
    notes += _missing(result["missing"])
    return Speeds(_heading(result), columns, rows, tuple(notes), tuple(bars), unit)


def _guards(result: "GuardsResult") -> Speeds:
    rows = tuple(
        (
            row["guard"],
            f"{row['explicit_images_per_second']:.2f}",
            f"{row['implicit_images_per_second']:.2f}",
            f"{row['ratio']:.3f}",
            f"{row['lowest']:.3f} to {row['highest']:.3f}",
            f"{row['processor']:.3f}",
            str(row["network_rows_per_image"]),
            _rate(row["flops_per_second"]),
            f"{row['share_of_matmul']:.1%}",
            str(row["compiles"]),
        )
        for row in result["rows"]
    )
    columns = (
        "images/s",
        "words",
        "embedding",
        "ratio",
        "turns",
        "CPU ratio",
        "rows",
        "FLOP/s",
        "of matmul",
        "compiles",
    )
    bars = [
        Bar(row["guard"], row["ratio"], *_around(row["ratio"], row["lowest"], row["highest"])) for row in result["rows"]
    ]
    unit = "images/s with an embedding / images/s with words"
    return Speeds(_heading(result), columns, rows, (_matmul(result["matmul"]),), tuple(bars), unit)


def _starts(result: "StartResult") -> Speeds:
    rows = tuple(
        (
            row["implementation"],
            f"{row['first_image']:.1f}",
            f"{row['lowest']:.1f} to {row['highest']:.1f}",
            *(f"{seconds:.1f}" for seconds in row["parts"].values()),
            f"{row['processor_seconds']:.1f}",
        )
        for row in result["rows"]
    )
    parts = tuple(result["rows"][0]["parts"])
    columns = ("seconds", "to first image", "turns", *parts, "CPU s")
    bars = [Bar(row["implementation"], row["first_image"], row["lowest"], row["highest"]) for row in result["rows"]]
    return Speeds(
        _heading(result), columns, rows, _missing(result["missing"]), tuple(bars), "seconds to the first image"
    )


def _around(value: float, low: float, high: float) -> tuple[float, float]:
    """The lowest and the highest turn, which need not lie on both sides of the ratio of the fastest ones."""
    return min(value, low), max(value, high)


def _missing(reasons: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name} not measured: {reason}" for name, reason in reasons.items())


def _heading(result: "Setting") -> str:
    work = f"{result['what']}: {result['steps']} steps, batch {result['batch']}, {result['dtype']}"
    return f"{result['model']}, {work}, {result['device']}"


def _matmul(found: "Matmul") -> str:
    span = f"{_rate(found['lowest'])} to {_rate(found['highest'])}"
    return f"matmul of {found['side']} x {found['side']}: {_rate(found['flops_per_second'])}FLOP/s ({span})"


def _rate(value: float) -> str:
    return f"{value / TERA:.1f} T" if value >= TERA else f"{value / GIGA:.1f} G"
