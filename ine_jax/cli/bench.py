"""`ine bench`: how fast sampling, guards, inversion, evaluation and the first image are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ine_jax.cli.benching import What, measured
from ine_jax.cli.command import Command, Flat, Outcome
from ine_jax.config import BenchConfig


@dataclass(frozen=True)
class Bench(Command):
    """Measure speed beside other implementations and as a share of the device's matmul rate (docs/performance.md)."""

    what: tyro.conf.Positional[What] = "sampling"
    """sampling: images/s as latents; inversion: optimizer steps/s; evaluation: images/s from prompts to PNG files and
    verdicts; guards: words and an embedding in each guard; cold-start: seconds to the first image."""
    config: Annotated[BenchConfig, Flat] = field(default_factory=BenchConfig)

    def run(self, line: Sequence[str]) -> Outcome:
        """Measure, and write the result file and its plot."""
        lines, result = measured(self.what, self.config)
        return Outcome((*lines, self.config.out), result)
