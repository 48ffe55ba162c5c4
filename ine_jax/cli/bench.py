"""`ine bench`: sampling speed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ine_jax.cli.command import Command, Flat, Outcome
from ine_jax.config import BenchConfig

if TYPE_CHECKING:
    from ine_jax.pipeline.bench import BenchResult
    from ine_jax.pipeline.bench_guards import GuardsResult


@dataclass(frozen=True)
class Bench(Command):
    """Measure sampling speed against other implementations, or what an implicit embedding costs in each guard."""

    what: tyro.conf.Positional[Literal["sampling", "guards"]] = "sampling"
    """sampling: this package and other implementations; guards: explicit words and an implicit embedding."""
    config: Annotated[BenchConfig, Flat] = field(default_factory=BenchConfig)

    def run(self, line: Sequence[str]) -> Outcome:
        """Measure, and write the result file."""
        from ine_jax.pipeline import bench, bench_guards

        if self.what == "guards":
            of_guards = bench_guards.run(self.config)
            return Outcome((*guards_table(of_guards), self.config.out), of_guards)
        result = bench.run(self.config)
        return Outcome((*table(result), self.config.out), result)


def table(result: "BenchResult") -> list[str]:
    """Return lines of text: one per implementation, then the baselines that were not measured and why."""
    what = f"{result['model']}: CFG, {result['steps']} steps, batch {result['batch']}, {result['dtype']}"
    lines = [
        f"{what}, {result['device']}",
        f"{'':16}{'images/s':>10}{'lowest':>9}{'highest':>9}{'ours is':>10}{'compiles':>10}",
    ]
    for row in result["rows"]:
        numbers = (row["images_per_second"], row["lowest"], row["highest"])
        cells = "".join(f"{n:>{w}.2f}" for n, w in zip(numbers, (10, 9, 9), strict=True))
        compiles = "-" if row["compiles"] is None else row["compiles"]
        lines.append(f"{row['implementation']:16}{cells}{row['speed_of_ine_jax']:>9.2f}x{compiles:>10}")
    return lines + [f"{name} not measured: {reason}" for name, reason in result["missing"].items()]


def guards_table(result: "GuardsResult") -> list[str]:
    """Return lines of text, one per guard."""
    what = f"{result['model']}: {result['steps']} steps, batch {result['batch']}, {result['dtype']}"
    lines = [
        f"{what}, {result['device']}; images/s with explicit words and with an implicit embedding",
        f"{'':16}{'explicit':>10}{'implicit':>10}{'ratio':>9}{'lowest':>9}{'highest':>9}{'processor':>11}{'compiles':>10}",
    ]
    for row in result["rows"]:
        rates = f"{row['explicit_images_per_second']:>10.2f}{row['implicit_images_per_second']:>10.2f}"
        ratios = f"{row['ratio']:>9.3f}{row['lowest']:>9.3f}{row['highest']:>9.3f}{row['processor']:>11.3f}"
        lines.append(f"{row['guard']:16}{rates}{ratios}{row['compiles']:>10}")
    return lines
