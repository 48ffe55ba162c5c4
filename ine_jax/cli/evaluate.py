"""`ine evaluate`: generate and score every combination of model, guard, negative and prompt set."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, cast

from ine_jax import api
from ine_jax.cli import shards
from ine_jax.cli.command import Command, Flat, Outcome, sources
from ine_jax.config import EvaluateConfig


@dataclass(frozen=True)
class Evaluate(Command):
    """Generate and score images for every model, guard, negative and prompt set; the same command continues."""

    config: Annotated[EvaluateConfig, Flat] = field(default_factory=EvaluateConfig)
    shard: str = ""
    """Do part i of N of the blocks, written i/N with i from 0; empty: the launcher's part (docs/scale.md), or all."""

    def plan(self) -> Outcome:
        """Read and check everything that `run` reads, and count cells and missing images."""
        from ine_jax.cli import forecast
        from ine_jax.evaluation.prepare import prepare

        config = self.config
        shard, heading = self._shard()
        weights = [file for each in config.detectors for file in (each.weights, each.prompts)]
        weights += [file for each in config.metrics for file in (each.weights, each.images)]
        checkpoints = [place for model in config.models for place in model.unlearned]
        work = sources([*(model.model for model in config.models), *filter(None, weights)], checkpoints)
        absent = cast(list[str], work.get("from the hub", []))
        ready = prepare(config, shard, absent)
        notes = ready.plan.notes()
        work |= {"read": "; ".join(notes)} if notes else {}
        table = forecast.forecast(ready, config.out)
        work |= {"cells": len(table), "images to generate": ready.missing, "table": forecast.values(table)}
        planned = self.planned(**work)
        lines = [planned.lines[0], *forecast.lines(table, config), *map(str, notes)]
        lines += [f"from the hub: {', '.join(absent)}"] if absent else []
        return Outcome((*heading, *lines, planned.lines[-1]), planned.result)

    def run(self, line: Sequence[str]) -> Outcome:
        """Generate and score what is missing of this shard; a finished shard is left alone."""
        shard, heading = self._shard()
        did = api.evaluate(self.config, shard=shard, command=shards.without(line))
        done = f"{did.out}: {did.generated} images generated, {did.scored} scored"
        done += f", {did.measured} measured" if did.measured else ""
        counts = {"generated": did.generated, "scored": did.scored, "measured": did.measured, "shard": list(shard)}
        lines = (*heading, *did.notes, done, f"next: ine report {did.out}")
        return Outcome(lines, {"out": self.config.out, **counts})

    def _shard(self) -> tuple[tuple[int, int], list[str]]:
        """This process's part of the blocks, and a line about it where there are several parts."""
        shard, origin = shards.chosen(self.shard, os.environ)
        return shard, [f"shard {shard[0]}/{shard[1]} ({origin})"] if origin and shard[1] > 1 else []
