"""`ine verify`: compare what this package wrote or ships with its hashes."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from ine_jax.cli.command import Command, Outcome


@dataclass(frozen=True)
class Verify(Command):
    """Read every stored byte of an artifact again and compare it with its recorded hash."""

    path: tyro.conf.Positional[str] = tyro.MISSING
    """Run, demo, inversion or unlearning directory, report, embedding or weights, or a bundled model (tiny)."""

    def run(self, line: Sequence[str]) -> Outcome:
        """Report the counts of what was checked; a fault is a `CorruptRunError`."""
        from ine_jax.cli import artifacts
        from ine_jax.storage.atomic import lock

        with lock(self.path, reading=True):
            found = artifacts.sound(self.path)
        values = {"out": self.path, "kind": found.kind, "faults": found.faults, **found.read}
        return Outcome((f"{self.path}: {found}",), values)
