"""`ine unlearn`: make a model forget a concept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from ine_jax import api
from ine_jax.cli import pods
from ine_jax.cli.command import Command, Flat, Outcome, sources
from ine_jax.config import DuoConfig, PodConfig, UnlearnConfig
from ine_jax.errors import InputError


@dataclass(frozen=True)
class Unlearn(Command):
    """Make a model forget (ESD, UCE, RECE, DUO, SPM, MACE, STEREO, AdvUnlearn), and write what changed as published."""

    config: Annotated[UnlearnConfig, Flat] = field(default_factory=UnlearnConfig)
    pod: PodConfig = field(default_factory=PodConfig)

    def plan(self) -> Outcome:
        """Check the model and that there is something to erase."""
        from ine_jax.unlearning.prompts import with_prompts

        work, settings = sources([self.config.model]), with_prompts(self.config.settings)
        if not (settings.erase or (isinstance(settings, DuoConfig) and settings.unsafe_images)):
            raise InputError(f"{self.config.method}.erase: empty", "at least one prompt", "name what to erase")
        counts = {name: len(getattr(settings, name)) for name in ("erase", "preserve") if hasattr(settings, name)}
        planned = self.planned(**work, steps=settings.steps, method=self.config.method, **counts)
        return Outcome((*pods.heading(self.pod), *planned.lines), planned.result)

    def run(self, line: Sequence[str]) -> Outcome:
        """Write the changed weights, checkpoints and loss log into the run directory."""
        with pods.joined(self.pod):
            return self._run()

    def _run(self) -> Outcome:
        written = str(api.unlearn(self.config).path)
        return Outcome((written,), {"out": self.config.out, "weights": [written]})
