"""`ine evaluate`: generate and score every combination of model, guard, negative and prompt set."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

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
        """Check models, weights and prompt sets, and count cells and missing images."""
        from ine_jax.evaluation.generating import pending
        from ine_jax.evaluation.plan import check, plan_from_config

        config = self.config
        shard, heading = self._shard()
        weights = [file for each in config.detectors for file in (each.weights, each.prompts)]
        weights += [file for each in config.metrics for file in (each.weights, each.images)]
        checkpoints = [place for model in config.models for place in model.unlearned]
        work = sources([*(model.model for model in config.models), *filter(None, weights)], checkpoints)
        whole = plan_from_config(config)
        check(whole)
        work |= {"read": "; ".join(whole.notes())} if whole.notes() else {}
        work |= {"cells": len(whole.cells), "images to generate": pending(whole, config.out, shard)}
        planned = self.planned(**work)
        return Outcome((*heading, *planned.lines), planned.result)

    def run(self, line: Sequence[str]) -> Outcome:
        """Generate and score what is missing of this shard; a finished shard is left alone."""
        from ine_jax.evaluation import finished, generating, plan_from_config
        from ine_jax.progress import Progress

        config = self.config
        shard, heading = self._shard()
        plan = plan_from_config(config)
        missing, scorers = generating.pending(plan, config.out, shard), None
        if missing or not finished.is_finished(config, shard):
            from ine_jax.evaluation import from_config  # loads JAX, which a finished run does not need

            scorers = from_config.scorers(config)
        with Progress(max(1, missing), "images", unit="images") as progress:
            known = None if scorers else finished.recorded_models(config)
            plan = dataclasses.replace(plan, detector=scorers.names[0] if scorers else finished.detector(config))
            command = shards.without(line)
            run = generating.evaluate(plan, config.out, hashes=known, shard=shard, progress=progress, command=command)
        scored, measured = scorers.score(run, shard=shard) if scorers else (0, 0)
        if scorers and scorers.finished(run, shard):
            finished.mark(config, shard, scorers.names)
        done = f"{config.out}: {missing} images generated, {scored} scored"
        done += f", {measured} measured" if measured else ""
        notes = plan.notes() + (generating.notes(run) if missing else [])
        counts = {"generated": missing, "scored": scored, "measured": measured, "shard": list(shard)}
        lines = (*heading, *notes, done, f"next: ine report {config.out}")
        return Outcome(lines, {"out": config.out, **counts})

    def _shard(self) -> tuple[tuple[int, int], list[str]]:
        """This process's part of the blocks, and a line about it where there are several parts."""
        shard, origin = shards.chosen(self.shard, os.environ)
        return shard, [f"shard {shard[0]}/{shard[1]} ({origin})"] if origin and shard[1] > 1 else []
