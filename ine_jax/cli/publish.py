"""`ine publish`: a run as a dataset for the Hugging Face Hub."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ine_jax.cli.command import Command, Outcome
from ine_jax.errors import InputError

HUB = "hub"


@dataclass(frozen=True)
class Publish(Command):
    """Write a finished run as a dataset with blurred previews, and records for other tools; upload it only to `hub`."""

    directory: tyro.conf.Positional[Path] = tyro.MISSING
    """Run directory, or that of ine demo."""
    to: Path = tyro.MISSING
    """New folder; `hub`: a private repository of the name in repo."""
    repo: str = ""
    """owner/name of the dataset on the hub; with it records for the pages of the models are written too."""
    licence: str = "other"
    """Identifier of the licence on the card, such as cc-by-4.0."""

    def plan(self) -> Outcome:
        """Check the names."""
        self._check()
        return self.planned()

    def run(self, line: Sequence[str]) -> Outcome:
        """Write the dataset, and upload it where asked to."""
        from ine_jax.reporting import publication

        self._check()
        if str(self.to) != HUB:
            done = publication.publish(self.directory, self.to, repo=self.repo, licence=self.licence)
            place = str(done.folder)
        else:
            with tempfile.TemporaryDirectory() as folder:
                done = publication.publish(
                    self.directory, Path(folder) / "dataset", repo=self.repo, licence=self.licence
                )
                place = publication.upload(done.folder, self.repo)
        load = f"datasets: load_dataset({self.repo or place!r}, split='train')"
        head = f"{place}: {done.previews} blurred previews, {done.records} records"
        return Outcome((head, load), {"path": place, "previews": done.previews, "records": done.records, "use": load})

    def _check(self) -> None:
        named = re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo, re.ASCII)
        if self.repo and not named:
            raise InputError(f"repo {self.repo!r}", "owner/name", "change repo")
        if str(self.to) == HUB and not self.repo:
            raise InputError("ine publish --to hub without a repo", "owner/name", "give --repo")
