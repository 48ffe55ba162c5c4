"""`ine export-guard`: a guard as a custom pipeline of diffusers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from ine_jax.cli.command import Command, Flat, Outcome
from ine_jax.config import ExportGuardConfig


@dataclass(frozen=True)
class ExportGuard(Command):
    """Write a guard as a file of PyTorch code, which diffusers loads as `custom_pipeline`."""

    config: Annotated[ExportGuardConfig, Flat] = field(default_factory=ExportGuardConfig)

    def plan(self) -> Outcome:
        """Read and check everything that `run` reads."""
        return self._export(dry_run=True)

    def run(self, line: Sequence[str]) -> Outcome:
        """Write the folder, and print how to load it."""
        return self._export(dry_run=False)

    def _export(self, dry_run: bool) -> Outcome:
        from pathlib import Path

        from ine_jax.guidance.diffusers_guard import export_guard

        given = self.config
        done = export_guard(given.negative, given.guidance, Path(given.out), dry_run=dry_run)
        state = "not written (dry run)" if dry_run else "read back equal"
        head = f"{done.path}: method {done.method}, {done.negative}: {state}"
        values = {"path": str(done.path), "method": done.method, "negative": done.negative, "use": done.use}
        return Outcome((head, done.use), values)
