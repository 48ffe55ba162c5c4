"""`ine bench`: sampling speed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from ine_jax.cli.command import Command, Flat, Outcome
from ine_jax.config import BenchConfig


@dataclass(frozen=True)
class Bench(Command):
    """Measure sampling speed against other implementations, or what an implicit embedding costs in each guard."""

    what: tyro.conf.Positional[Literal["sampling", "guards"]] = "sampling"
    """sampling: this package and other implementations; guards: explicit words and an implicit embedding."""
    config: Annotated[BenchConfig, Flat] = field(default_factory=BenchConfig)

    def run(self, line: Sequence[str]) -> Outcome:
        """Measure, and write the result file."""
        from ine_jax.pipeline import bench, bench_guards

        benchmark = bench_guards if self.what == "guards" else bench
        result = benchmark.run(self.config)
        return Outcome((*benchmark.table(result), self.config.out), result)
