"""`ine attack`: search adversarial prompts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ine_jax import api
from ine_jax.cli.command import Command, Flat, Outcome, sources
from ine_jax.config import AttackConfig
from ine_jax.config.attacks import AttackMethod
from ine_jax.errors import InputError


@dataclass(frozen=True)
class Attack(Command):
    """Attack a model with its guard and negative: search prompts that make it generate a concept."""

    name: tyro.conf.Positional[AttackMethod] = tyro.MISSING
    """The attack."""
    config: Annotated[AttackConfig, Flat] = field(default_factory=AttackConfig)

    def plan(self) -> Outcome:
        """Check the model and the prompts, and count the steps."""
        from ine_jax import prompts

        config = self._named()
        chosen = config.prompts
        work = sources([config.model], config.unlearned)
        found = prompts.load(chosen.source, select=chosen.select, limit=chosen.limit, encoding=chosen.encoding)
        return self.planned(**work, attack=self.name, steps=config.settings.steps, prompts=len(found.items))

    def run(self, line: Sequence[str]) -> Outcome:
        """Write the prompt set, scores, checkpoints and log into the run directory."""
        config = self._named()
        found = api.attack(config)
        count, scored = len(found.items), [each for each in found.success if each is not None]
        rate = f"success {found.successes}/{count}" if scored else "not scored"
        values = {"prompts": count, "scored": len(scored), "successes": found.successes if scored else None}
        return Outcome((f"{self.name}  {rate}  {found.path}",), {"out": config.out, "path": str(found.path), **values})

    def _named(self) -> AttackConfig:
        """The config of the attack that the command names."""
        if self.config.method not in ("", self.name):
            given = f"ine attack {self.name} with method {self.config.method}"
            raise InputError(given, "one attack", "name the attack of the config, or another config")
        return dataclasses.replace(self.config, method=self.name)
