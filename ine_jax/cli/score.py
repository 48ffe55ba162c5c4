"""`ine score`: further detectors and metrics for the images of a run directory."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from ine_jax.cli.command import Command, Flat, Outcome
from ine_jax.config import DetectorConfig, ScoreConfig


@dataclass(frozen=True)
class Score(Command):
    """Score the images of a run directory with further detectors and metrics, without generating."""

    directory: tyro.conf.Positional[Path] = tyro.MISSING
    """Run directory."""
    config: Annotated[ScoreConfig, Flat] = field(default_factory=ScoreConfig)

    def run(self, line: Sequence[str]) -> Outcome:
        """Score what has no score yet, or every image with `rescan`."""
        from ine_jax.evaluation import from_config
        from ine_jax.storage.runs import open_run, writing

        config = self.config
        if not (config.detectors or config.metrics):
            config = dataclasses.replace(config, detectors=(DetectorConfig(),))
        run = open_run(self.directory)  # a wrong directory is reported before weights are loaded
        scorers = from_config.scorers(config)
        with writing(self.directory):
            run.clean()
            scored, measured = scorers.score(run, rescan=config.rescan)
        done = f"{self.directory}: {scored} images scored" + (f", {measured} measured" if measured else "")
        return Outcome((done,), {"out": str(self.directory), "scored": scored, "measured": measured})
