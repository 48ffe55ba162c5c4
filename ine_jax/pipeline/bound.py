"""A guard bound to its texts: what the rows of a call share, or differ in where a call is packed from several."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
from jax.sharding import Sharding

from ine_jax.guidance.base import Guidance, Texts
from ine_jax.guidance.slots import Slots, layers, projection
from ine_jax.schedulers import Tables
from ine_jax.types import HostArray, LatentShape


@dataclass(frozen=True, eq=False)
class Bound:
    """All that an image depends on besides its prompt, its seed and the model.

    Attributes:
        guard: with float32 leaves.
        slots: the texts of its slots, on the host.
        shape: [h, w, c] of the latents.
        tables: of the scheduler, one row per network call.
        learned: vectors of the tokens that prompts may use.
    """

    guard: Guidance
    slots: Slots
    shape: LatentShape
    tables: Tables
    learned: HostArray

    @property
    def calls(self) -> int:
        """Network calls of the run."""
        return len(self.tables.timestep)

    @property
    def place_matters(self) -> bool:
        """Whether an image depends, by rounding, on its place in the batch, as under SAFREE's re-attention."""
        return any(getattr(layer, "reattention", "off") not in ("off", "as-released") for layer in layers(self.guard))

    @cached_property
    def program(self) -> Hashable:
        """Equal for rows that one call can compute: numbers and texts of a guard are arguments, its structure is not.

        Arrays that all rows share (reference images, the vectors that a projection removes) must be equal too.
        """
        leaves, structure = jax.tree.flatten(self.guard)
        shared = tuple(leaf.tobytes() if np.ndim(leaf) else None for leaf in map(np.asarray, leaves))
        bank = None if self.slots.bank is None else self.slots.bank.shape
        columns = None
        if projection(self.guard) is not None and self.slots.columns is not None:
            columns = self.slots.columns.tobytes()
        return structure, shared, bank, columns, self.shape, self.calls

    @cached_property
    def numbers(self) -> bytes:
        """The values of the guard's numbers."""
        return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(self.guard))


def texts_of(each: Sequence[Bound], sharding: Sharding) -> Texts:
    """Return the texts of a batch on its devices, one row for each entry; the prompt is still the empty one."""

    def placed(found: Sequence[HostArray]) -> jax.Array:
        array: jax.Array = jax.device_put(np.concatenate(found), sharding)
        return array

    uncond = placed([bound.slots.uncond for bound in each])
    banks = [bound.slots.bank for bound in each if bound.slots.bank is not None]
    return Texts(uncond, uncond, placed([bound.slots.negative for bound in each]), placed(banks) if banks else None)
