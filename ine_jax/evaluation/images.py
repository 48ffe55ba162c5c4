"""Images of a plan's cells with the real models: the one module of the evaluation that loads a pipeline.

Latents are scaled so that those of images have unit variance. A guard that pushes too hard leaves that range by orders
of magnitude, and what the decoder makes of such latents has ordinary pixel statistics: only the latents show it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ine_jax.evaluation.plan import Cell, Plan
from ine_jax.guidance import Guidance, from_config
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline import pipeline
from ine_jax.pipeline.checking import check_call
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.prompts.items import Item, alike

MAX_RMS = 5.0  # of an image's latents; docs/evaluation.md has the measurement


def outside(latents: np.ndarray) -> str:
    """Why latents [h, w, c] are those of no image; empty for usable ones."""
    rms = float(np.sqrt(np.mean(np.square(latents, dtype=np.float64))))
    if not np.isfinite(rms):
        return "latents not finite"
    return f"latents of RMS {rms:.3g}" if rms > MAX_RMS else ""


class ImageGenerator:
    """Keeps the last model and guard loaded: cells come model by model."""

    def __init__(self) -> None:
        """Load nothing before the first call."""
        self._pipe: Pipeline | None = None
        self._cell: Cell | None = None
        self._concept: Concept | None = None
        self._guards: dict[float | None, Guidance] = {}
        self._outside: list[str] = []

    def __call__(self, cell: Cell, items: Sequence[Item], plan: Plan) -> list[np.ndarray]:
        """Generate one uint8 image [H, W, 3] per item; items of equal guidance scale and size share a call."""
        pipe = self._load(cell, plan)
        images: dict[int, np.ndarray] = {}
        reasons = [""] * len(items)
        for (scale, height, width), places in alike(items, (cell.guidance.scale, plan.height, plan.width)):
            latents = pipe(
                [items[i].prompt for i in places],
                guidance=self._guard(pipe, cell, scale),
                negative=self._concept,
                seeds=[items[i].seed for i in places],
                noise=plan.noise if plan.starts is None else plan.starts([items[i] for i in places]),
                noise_layout=plan.latents_layout,
                steps=plan.steps,
                height=height,
                width=width,
                output="latents",
            )
            for i, latent in zip(places, latents, strict=True):
                reasons[i] = outside(latent)
            images.update(zip(places, np.asarray(pipe.decode(latents)), strict=True))
        self._outside = reasons
        return [images[i] for i in range(len(items))]

    def check(self, cell: Cell, plan: Plan) -> None:
        """Read all that the images of a cell need; InputError where something is damaged or does not fit."""
        pipe = self._load(cell, plan)
        items = [item for name, count in cell.lists for item in plan.lists[name][:count]]
        for (scale, height, width), places in alike(items, (cell.guidance.scale, plan.height, plan.width)):
            guard, group = self._guard(pipe, cell, scale), [items[i] for i in places]
            check_call(pipe, guard, self._concept, group, plan.starts, steps=plan.steps, height=height, width=width)

    def truncated(self, items: Sequence[Item]) -> list[bool]:
        """Whether each prompt is longer than the text encoder of the last cell reads."""
        assert self._pipe is not None  # noqa: S101  asked after a call
        return self._pipe.tokenizer.truncated([item.prompt for item in items])

    def degenerate(self) -> list[str]:
        """For each image of the last call why its latents are those of no image, or nothing."""
        return self._outside

    def _load(self, cell: Cell, plan: Plan) -> Pipeline:
        """Load the cell's model and concept, unless they are those of the last call."""
        if self._pipe is None or self._cell is None or self._cell.model != cell.model:
            model = plan.model(cell.model)
            self._pipe = pipeline.load(
                model.model,
                revision=model.revision,
                unlearned=model.unlearned,
                scheduler=plan.scheduler,
                batch_size=plan.batch,
                unet_impl=plan.unet_impl,
            )
            self._cell = None
        if self._cell != cell:
            # files are read and images encoded once for a cell, not for each of its blocks
            self._concept, self._guards, self._cell = from_config.concept(cell.negative), {}, cell
        return self._pipe

    def _guard(self, pipe: Pipeline, cell: Cell, scale: float | None) -> Guidance:
        """The cell's guard at a guidance scale; an empty negative scale, or a preset's, follows it."""
        if scale not in self._guards:
            config = cell.guidance if scale is None else dataclasses.replace(cell.guidance, scale=scale)
            self._guards[scale] = from_config.guidance(config, self._concept is not None, pipe)
        return self._guards[scale]
