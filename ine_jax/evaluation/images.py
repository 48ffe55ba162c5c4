"""Images of a plan's cells with the real models: the one module of the evaluation that loads a pipeline.

Latents are scaled so that those of images have unit variance. A guard that pushes too hard leaves that range by orders
of magnitude, and what the decoder makes of such latents has ordinary pixel statistics: only the latents show it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from ine_jax.config import ModelConfig, NegativeConfig
from ine_jax.evaluation.packing import Made, Wanted
from ine_jax.evaluation.plan import Cell, Plan
from ine_jax.guidance import Guidance, from_config
from ine_jax.guidance.concept import Concept
from ine_jax.guidance.slots import network_rows
from ine_jax.pipeline import pipeline
from ine_jax.pipeline.bound import Bound
from ine_jax.pipeline.checking import check_call
from ine_jax.pipeline.packed import PackedSampler, group_of
from ine_jax.pipeline.packing import Group
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.prompts.items import Own, alike, own_settings

MAX_RMS = 5.0  # of an image's latents; docs/evaluation.md has the measurement
Load: TypeAlias = Callable[[ModelConfig, Plan], Pipeline]


def outside(latents: np.ndarray) -> str:
    """Why latents [h, w, c] are those of no image; empty for usable ones."""
    rms = float(np.sqrt(np.mean(np.square(latents, dtype=np.float64))))
    if not np.isfinite(rms):
        return "latents not finite"
    return f"latents of RMS {rms:.3g}" if rms > MAX_RMS else ""


class ImageGenerator:
    """Keeps the last model loaded, with the guards and texts of its cells: cells come model by model."""

    def __init__(self, load: Load | None = None) -> None:
        """Load nothing before the first call, and then with `load`."""
        self._loader: Load = load or load_model
        self._model: str | None = None
        self._sampler: PackedSampler | None = None
        self._concepts: dict[NegativeConfig, Concept | None] = {}
        self._guards: dict[tuple[Cell, float | None], Guidance] = {}
        self._bound: dict[tuple[object, ...], Bound] = {}

    @property
    def size(self) -> int:
        """Rows of a batch of the loaded model; 0 without one."""
        return 0 if self._sampler is None else self._sampler.size

    def group(self, wanted: Wanted, plan: Plan) -> Group:
        """Rows of one model and one program share batches; where the place in a batch matters, of one block only."""
        return group_of(self._of(wanted, plan), wanted.unit.k, wanted.cell.model)

    def start(self, wanted: Sequence[Wanted], plan: Plan) -> Callable[[], Sequence[Made]]:
        """Dispatch a batch of one group."""
        bounds = [self._of(each, plan) for each in wanted]
        items, numbers = [each.item for each in wanted], [each.number for each in wanted]
        running, cut = self._loaded().begin(bounds, items, numbers, plan.starts or plan.noise)

        def fetch() -> Sequence[Made]:
            latents, images = running.fetch()
            return [Made(*each) for each in zip(images, cut, map(outside, latents), strict=True)]

        return fetch

    def check(self, cell: Cell, plan: Plan) -> int:
        """Read all that the images of a cell need; return the network's rows per image and step.

        InputError where something is damaged or does not fit.
        """
        pipe = self._load(cell, plan)
        items = [item for name, count in cell.lists for item in plan.lists[name][:count]]
        for (scale, height, width), places in alike(items, _usual(cell, plan)):
            guard, group = self._guard(pipe, cell, scale), [items[i] for i in places]
            concept = self._concept(cell)
            check_call(pipe, guard, concept, group, plan.starts, steps=plan.steps, height=height, width=width)
        return network_rows(self._guard(pipe, cell, cell.guidance.scale), self._concept(cell))

    def _loaded(self) -> PackedSampler:
        assert self._sampler is not None  # noqa: S101  asked after a group
        return self._sampler

    def _load(self, cell: Cell, plan: Plan) -> Pipeline:
        """Load the cell's model, unless it is that of the last call."""
        if self._sampler is None or self._model != cell.model:
            self.__init__(self._loader)  # type: ignore[misc]  # the last model is gone before the next one is read
            pipe = self._loader(plan.model(cell.model), plan)
            self._sampler, self._model = PackedSampler(pipe), cell.model
        return self._sampler.pipe

    def _of(self, wanted: Wanted, plan: Plan) -> Bound:
        """The guard of an item with its texts."""
        pipe, cell = self._load(wanted.cell, plan), wanted.cell
        scale, height, width = own = own_settings(wanted.item, _usual(cell, plan))
        key = (cell, *own)
        if key not in self._bound:
            guard, shape = self._guard(pipe, cell, scale), pipe.latent_shape(height, width)
            self._bound[key] = self._loaded().bind(guard, self._concept(cell), shape, plan.steps)
        return self._bound[key]

    def _concept(self, cell: Cell) -> Concept | None:
        if cell.negative not in self._concepts:
            self._concepts[cell.negative] = from_config.concept(cell.negative)
        return self._concepts[cell.negative]

    def _guard(self, pipe: Pipeline, cell: Cell, scale: float | None) -> Guidance:
        """The cell's guard at a guidance scale; an empty negative scale, or a preset's, follows it."""
        if (cell, scale) not in self._guards:
            config = cell.guidance if scale is None else dataclasses.replace(cell.guidance, scale=scale)
            self._guards[cell, scale] = from_config.guidance(config, self._concept(cell) is not None, pipe)
        return self._guards[cell, scale]


def _usual(cell: Cell, plan: Plan) -> Own:
    return cell.guidance.scale, plan.height, plan.width


def load_model(model: ModelConfig, plan: Plan) -> Pipeline:
    """Load a model with the plan's sampler."""
    return pipeline.load(
        model.model,
        revision=model.revision,
        unlearned=model.unlearned,
        scheduler=plan.scheduler,
        batch_size=plan.batch,
        unet_impl=plan.unet_impl,
    )
