"""Batches packed from rows of several calls, dispatched ahead of the host.

Rows of equal `Bound.program` share a batch: every row brings its own prompt, seed, guard numbers and texts, so models
of an evaluation's cells run full batches although no cell is a multiple of the batch. An image has the same bits as in
a batch of its own cell alone.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from ine_jax.config.methods import NoiseMode
from ine_jax.guidance.base import Guidance, Texts, as_arrays
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline.bound import Bound, texts_of
from ine_jax.pipeline.latents import Latents
from ine_jax.pipeline.noise import starts_of
from ine_jax.pipeline.packing import Group
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.progress import note
from ine_jax.prompts.items import Item
from ine_jax.types import Array, HostArray, HostImages, HostLatents, LatentShape


@dataclass(frozen=True)
class Row:
    """One image: its guard and texts, token ids, whether its prompt was cut, and its seed or initial noise."""

    bound: Bound
    ids: HostArray
    cut: bool
    start: HostArray | np.uint32


@dataclass(frozen=True)
class Running:
    """A batch on its way; `arrays` are latents and images, or None where it did not fit into the memory."""

    sampler: "PackedSampler"
    rows: Sequence[Row]
    places: Sequence[int]
    size: int
    arrays: tuple[Array, Array] | None

    def fetch(self) -> tuple[HostLatents, HostImages]:
        """Wait for the batch and return its latents and its images, one per row."""
        try:
            if self.arrays is not None:
                return _fetched(self.arrays, self.places)
        except jax.errors.JaxRuntimeError as error:
            self.sampler.shrink(error, self.size)
        return self.sampler.compute(self.rows)


def group_of(bound: Bound, k: int, model: str = "") -> Group:
    """Rows of one model and one program share batches; where the place in a batch matters, those of block k alone."""
    if bound.place_matters:
        return Group((model, bound.program, bound.numbers), k)
    return Group((model, bound.program))


class PackedSampler:
    """Samples batches of at most `size` rows of one program.

    A batch that does not fit into the device's memory is computed in halves, and so are all later ones. Then the images
    are those of a smaller `batch_size`: the same seeds and settings, equal up to rounding.
    """

    def __init__(self, pipe: Pipeline) -> None:
        """Sample with this pipeline, in batches of its size."""
        self.pipe, self.size = pipe, pipe.rows()
        self._texts: tuple[Bound, int, Texts] | None = None
        self._bound: dict[tuple[Hashable, ...], tuple[Concept | None, Bound]] = {}

    def bind(self, guard: Guidance, concept: Concept | None, shape: LatentShape, steps: int) -> Bound:
        """Return the guard with its texts, which are encoded once for all numbers of a guard."""
        arrays = as_arrays(guard)
        key = id(concept), jax.tree.structure(arrays), shape, steps  # the value keeps the concept, and so its id
        if key not in self._bound:
            self._bound[key] = concept, self.pipe.bind(arrays, concept, shape, steps=steps)
        return dataclasses.replace(self._bound[key][1], guard=arrays)

    def begin(
        self, bounds: Sequence[Bound], items: Sequence[Item], numbers: Sequence[int], noise: NoiseMode | Latents
    ) -> tuple[Running, Sequence[bool]]:
        """Dispatch the images of items at their numbers modulo `size`; also return which prompts were cut."""
        tokenizer, prompts, shape = self.pipe.tokenizer, [item.prompt for item in items], bounds[0].shape
        seeds, count = [item.seed for item in items], len(items)
        if isinstance(noise, Latents):
            starts = starts_of(noise(items), seeds, count, shape, noise.layout)
        else:
            starts = starts_of(noise, seeds, count, shape)
        cut = tokenizer.truncated(prompts)
        rows = [Row(*row) for row in zip(bounds, tokenizer.ids(prompts), cut, starts, strict=True)]
        return self.start(rows, [number % self.size for number in numbers]), cut

    def start(self, rows: Sequence[Row], places: Sequence[int]) -> Running:
        """Dispatch a batch of rows at these places below `size`, before it is computed; the last row fills the rest."""
        size = self.size
        try:
            return Running(self, rows, places, size, self._dispatch(rows, places, size))
        except jax.errors.JaxRuntimeError as error:
            self.shrink(error, size)
            return Running(self, rows, places, size, None)

    def compute(self, rows: Sequence[Row]) -> tuple[HostLatents, HostImages]:
        """Compute rows in batches of `size`, which is halved until they fit, and wait for them."""
        while True:
            size = self.size
            try:
                pieces = [rows[first : first + size] for first in range(0, len(rows), size)]
                done = [_fetched(self._dispatch(each, at := range(len(each)), size), at) for each in pieces]
            except jax.errors.JaxRuntimeError as error:
                self.shrink(error, size)
                continue
            return np.concatenate([latents for latents, _ in done]), np.concatenate([images for _, images in done])

    def shrink(self, error: jax.errors.JaxRuntimeError, failed: int) -> None:
        """Halve the batch after one of `failed` rows ran out of memory; raise any other error, and that of one row."""
        devices = self.pipe.programs.mesh.size
        if "RESOURCE_EXHAUSTED" not in str(error) or failed <= devices:
            raise error
        if failed == self.size:  # batches dispatched before the first failure fail too, and halve nothing further
            self.size = max(failed // 2 // devices, 1) * devices
            note(f"out of device memory at {failed} images per batch: going on with {self.size}")

    def _dispatch(self, rows: Sequence[Row], places: Sequence[int], size: int) -> tuple[Array, Array]:
        at = dict(zip(places, rows, strict=True))
        filled = [at.get(place, rows[-1]) for place in range(size)]
        sharding = self.pipe.programs.batch_sharding()
        first = rows[0].bound

        def column(*leaves: HostArray) -> HostArray | Array:
            return leaves[0] if np.ndim(leaves[0]) else jax.device_put(np.stack(leaves), sharding)

        guard = jax.tree.map(column, *[row.bound.guard for row in filled])
        given = [np.stack([row.ids for row in filled]), np.array([row.cut for row in filled], bool)]
        ids, cut, start = jax.device_put([*given, np.stack([row.start for row in filled])], sharding)
        bound = dataclasses.replace(first, guard=guard)
        latents = self.pipe.sample(bound, self._shared(filled), ids, cut, start)
        images: Array = self.pipe.programs.decode(self.pipe.parts.vae_params, latents)
        for array in (latents, images):
            array.copy_to_host_async()
        return latents, images

    def _shared(self, filled: Sequence[Row]) -> Texts:
        """Return the texts of the rows; those of one `Bound` are kept for the next batch."""
        first, sharding = filled[0].bound, self.pipe.programs.batch_sharding()
        if any(row.bound is not first for row in filled):
            return texts_of([row.bound for row in filled], sharding)
        if self._texts is None or self._texts[:2] != (first, len(filled)):
            self._texts = (first, len(filled), texts_of([first] * len(filled), sharding))
        return self._texts[2]


def _fetched(arrays: tuple[Array, Array], places: Sequence[int]) -> tuple[HostLatents, HostImages]:
    latents, images = (np.asarray(array)[list(places)] for array in arrays)
    return latents, images
