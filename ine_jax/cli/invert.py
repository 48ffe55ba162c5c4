"""`ine invert`: recover one or several concepts from an unlearned model."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ine_jax.cli import pods
from ine_jax.cli.command import Command, Flat, Outcome, sources
from ine_jax.config import InversionConfig, InvertConfig, PodConfig, SamplerConfig


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
            settings = concepts(config)
            work["steps"] = max(setting.steps for setting, _ in settings)
            work["images"] = {setting.concept: len(readable_images(folder)) for setting, folder in settings}
        planned = self.planned(**work)
        return Outcome((*pods.heading(self.pod), *planned.lines), planned.result)

    def run(self, line: Sequence[str]) -> Outcome:
        """Write embeddings, checkpoints, loss log, curve and preview into the run directory."""
        with pods.joined(self.pod):
            return self._run()

    def _run(self) -> Outcome:
        from ine_jax import inversion
        from ine_jax.pipeline import from_config
        from ine_jax.progress import Progress
        from ine_jax.storage.images import readable_images

        config = self.config
        closed, settings = config.inversion.method == "rece", concepts(config)
        for _, folder in () if closed else settings:
            readable_images(folder)  # a wrong one is reported before the model is loaded
        pipe = from_config.pipeline(config.model, config.revision, SamplerConfig(), config.unlearned)
        base = from_config.pipeline(config.base, config.base_revision, SamplerConfig()) if config.base else None
        images = [] if closed else [from_config.images(folder, pipe) for _, folder in settings]
        steps = 1 if closed else max(setting.steps for setting, _ in settings)
        with Progress(steps, "inversion", process=from_config.process_index()) as progress:
            if closed and base is not None:
                found = [inversion.derive(pipe, base, config.inversion, config.out, progress)]
            elif config.concepts:
                found = inversion.invert_many(pipe, images, [s for s, _ in settings], config.out, progress, base=base)
            else:
                found = [inversion.invert(pipe, images[0], settings[0][0], config.out, progress, base=base)]
        lines = tuple(f"{r.embedding.token}  loss {r.losses[-1]:.4f}  {r.path}" for r in found)
        values = [{"token": r.embedding.token, "path": str(r.path), "loss": float(r.losses[-1])} for r in found]
        return Outcome(lines, {"out": config.out, "embeddings": values})


def concepts(config: InvertConfig) -> list[tuple[InversionConfig, Path]]:
    """Settings and image folder of every concept of the run."""
    from ine_jax import assets

    if not config.concepts:
        return [(config.inversion, assets.concept_images(config.images))]
    shared = config.inversion
    return [
        (
            dataclasses.replace(
                shared,
                concept=c.concept,
                init=c.init,
                words=c.words,
                seed=c.seed,
                steps=shared.steps if c.steps is None else c.steps,
            ),
            Path(c.images),
        )
        for c in config.concepts
    ]
