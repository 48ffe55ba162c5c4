"""`ine tensorboard`: the logs of training runs for TensorBoard."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ine_jax.cli.command import Command, Outcome
from ine_jax.errors import InputError


@dataclass(frozen=True)
class Tensorboard(Command):
    """Write the losses and images of inversions, unlearning and attacks as event files of TensorBoard."""

    directories: tyro.conf.Positional[tuple[Path, ...]] = tyro.MISSING
    """Directories of ine invert, ine unlearn, ine attack or ine demo, finished or not."""
    to: Path = Path("runs/tensorboard")
    """New folder for the event files."""

    def run(self, line: Sequence[str]) -> Outcome:
        """Write the event files, and print how to look at them."""
        from ine_jax.training.tensorboard import export

        if not self.directories:
            raise InputError("ine tensorboard: no directory", "one or more", "name one that ine invert wrote")
        done = export(self.directories, self.to)
        lines = [f"{each.folder}: {each.scalars} scalars, {each.images} images" for each in done]
        use = f"look at them: tensorboard --logdir {self.to}"
        return Outcome((*lines, use), {"path": str(self.to), "folders": [str(each.folder) for each in done]})
