"""`ine report`: tables and the report page from stored results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import tyro

from ine_jax.cli.command import Command, Outcome
from ine_jax.errors import InputError
from ine_jax.storage.weight_files import read_json

if TYPE_CHECKING:
    from ine_jax.evaluation.records import Summary


@dataclass(frozen=True)
class Report(Command):
    """Write summary.json and report.html from the stored results of run directories; needs no accelerator."""

    directories: tyro.conf.Positional[tuple[Path, ...]] = tyro.MISSING
    """Run directories; several go into one report."""
    out: Path | None = None
    """Folder for the report; empty: the first run directory."""
    detector: str = ""
    """Detector that fills the tables, `id` or `id@version`; empty: the run's own (the first of its config)."""
    preset: str = ""
    """Published labels and threshold, such as duo, rece or q16; empty: the detector's default."""
    threshold: float | None = None
    """A label counts as shown where its stored score reaches this; empty: the preset's threshold."""

    def run(self, line: Sequence[str]) -> Outcome:
        """Write the report and print its main table."""
        from ine_jax import reporting
        from ine_jax.evaluation.detectors.presets import choose

        if not self.directories:
            raise InputError("ine report: no run directory", "one or more", "name one that `ine evaluate` wrote")
        target = self.out or self.directories[0]
        preset = choose(self.preset) if self.preset else None
        detector = self.detector or None
        page = reporting.build(self.directories, target, preset, detector=detector, threshold=self.threshold)
        lines = reporting.plain(cast("Summary", read_json(target / "summary.json")))
        return Outcome((*lines, str(page)), {"out": str(target), "report": str(page)})
