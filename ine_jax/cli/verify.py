"""`ine verify`: check a run directory against its hashes."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ine_jax.cli.command import Command, Outcome


@dataclass(frozen=True)
class Verify(Command):
    """Read every stored byte of a run directory again and compare it with its recorded hash."""

    directory: tyro.conf.Positional[Path] = tyro.MISSING
    """Run directory."""

    def run(self, line: Sequence[str]) -> Outcome:
        """Report the counts of what was checked; a fault is a `CorruptRunError`."""
        from ine_jax.evaluation import verify

        found = verify.sound(self.directory)
        return Outcome((f"{self.directory}: {found}",), {"out": str(self.directory), **dataclasses.asdict(found)})
