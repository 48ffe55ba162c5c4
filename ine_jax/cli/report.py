"""`ine report`: tables and the report page from stored results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ine_jax import api
from ine_jax.cli.command import Command, Outcome
from ine_jax.errors import InputError


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

        if not self.directories:
            raise InputError("ine report: no run directory", "one or more", "name one that `ine evaluate` wrote")
        names = {"detector": self.detector, "preset": self.preset}
        made = api.report(self.directories, self.out, **names, threshold=self.threshold)
        lines = reporting.plain(made.summary)
        return Outcome((*lines, str(made.page)), {"out": str(made.page.parent), "report": str(made.page)})
