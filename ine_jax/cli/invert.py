"""`ine invert`: recover one or several concepts from an unlearned model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from ine_jax import api
from ine_jax.cli import pods
from ine_jax.cli.command import Command, Flat, Outcome, sources
from ine_jax.config import InvertConfig, PodConfig


@dataclass(frozen=True)
class Invert(Command):
    """Recover a concept from an unlearned model as an embedding: by textual inversion on images, or by RECE."""

    config: Annotated[InvertConfig, Flat] = field(default_factory=InvertConfig)
    pod: PodConfig = field(default_factory=PodConfig)

    def plan(self) -> Outcome:
        """Check models and image folders, and count the images of each concept."""
        from ine_jax.storage.images import readable_images

        config = self.config
        work = sources(filter(None, (config.model, config.base)), config.unlearned)
        if config.inversion.method == "inversion":
            settings = api.concepts(config)
            work["steps"] = max(setting.steps for setting, _ in settings)
            work["images"] = {setting.concept: len(readable_images(folder)) for setting, folder in settings}
        planned = self.planned(**work)
        return Outcome((*pods.heading(self.pod), *planned.lines), planned.result)

    def run(self, line: Sequence[str]) -> Outcome:
        """Write embeddings, checkpoints, loss log, curve and preview into the run directory."""
        with pods.joined(self.pod):
            return self._run()

    def _run(self) -> Outcome:
        found = api.invert(self.config)
        lines = tuple(f"{r.embedding.token}  loss {r.losses[-1]:.4f}  {r.path}" for r in found)
        values = [{"token": r.embedding.token, "path": str(r.path), "loss": float(r.losses[-1])} for r in found]
        return Outcome(lines, {"out": self.config.out, "embeddings": values})
