"""`ine inspect`: what a file or folder is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ine_jax.cli.command import Command, Outcome
from ine_jax.errors import clean

_SHOWN = 600  # characters of one fact on the terminal; --json has all


@dataclass(frozen=True)
class Inspect(Command):
    """Describe a file or folder: an embedding, a model, a checkpoint, or a run, demo or training directory."""

    path: tyro.conf.Positional[Path] = tyro.MISSING
    """File or folder."""
    base: str = ""
    """Model to compare with (bundled name or folder): nearest words of an embedding, changed tensors of weights."""

    def run(self, line: Sequence[str]) -> Outcome:
        """Print one line per fact."""
        from ine_jax.cli.describe import describe

        facts = describe(self.path, self.base)
        width = max(map(len, facts))
        lines = (f"{name:<{width}}  {clean(str(value), _SHOWN)}" for name, value in facts.items())
        return Outcome(tuple(lines), facts)
