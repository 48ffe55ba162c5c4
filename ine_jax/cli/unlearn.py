"""`ine unlearn`: fine-tune a model to forget a concept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ine_jax.cli.command import Command, Flat, Outcome, sources
from ine_jax.config import SamplerConfig, UnlearnConfig
from ine_jax.errors import InputError


@dataclass(frozen=True)
class Unlearn(Command):
    """Fine-tune a model to forget a concept (ESD), and write the changed weights in ESD's published layout."""

    config: Annotated[UnlearnConfig, Flat] = field(default_factory=UnlearnConfig)

    def plan(self) -> Outcome:
        """Check the model and that there are prompts to erase."""
        from ine_jax.unlearning.prompts import with_prompts

        work, esd = sources([self.config.model]), with_prompts(self.config.esd)
        if not esd.erase:
            raise InputError("esd.erase: empty", "at least one prompt", "name the prompts to erase")
        prompts = {"erase": len(esd.erase), "preserve": len(esd.preserve)}
        return self.planned(**work, steps=esd.steps, method=esd.method, **prompts)

    def run(self, line: Sequence[str]) -> Outcome:
        """Write the changed weights, checkpoints and loss log into the run directory."""
        from ine_jax.pipeline import from_config
        from ine_jax.progress import Progress
        from ine_jax.unlearning import esd

        config = self.config
        pipe = from_config.pipeline(config.model, config.revision, SamplerConfig())
        preserved = from_config.images(Path(config.preserve_images), pipe) if config.preserve_images else None
        with Progress(config.esd.steps, "unlearning", process=from_config.process_index()) as progress:
            esd.erase(pipe, config.esd, Path(config.out), progress, preserve_images=preserved)
        written = sorted(str(path) for path in Path(config.out).glob("*.safetensors"))
        return Outcome(tuple(written), {"out": config.out, "weights": written})
