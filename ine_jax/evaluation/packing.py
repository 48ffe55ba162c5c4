"""What an evaluation packs into batches, and what makes them. Pure; no model is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from ine_jax.evaluation.plan import Cell, Plan
from ine_jax.evaluation.units import Unit
from ine_jax.pipeline.packing import Group
from ine_jax.prompts.items import Item


@dataclass(frozen=True)
class Wanted:
    """One image to generate: its place in its block, its cell and its item, and its number among the shard's images."""

    unit: Unit
    place: int
    cell: Cell
    item: Item
    number: int


@dataclass(frozen=True)
class Made:
    """A uint8 image [H, W, 3]; whether its prompt was cut, and why it shows nothing, empty for a usable one."""

    image: np.ndarray
    truncated: bool = False
    degenerate: str = ""


@runtime_checkable
class Batches(Protocol):
    """Generates batches: `start` returns before the images are made, its result waits for them."""

    @property
    def size(self) -> int:
        """The most rows of a batch; it may shrink from batch to batch."""

    def group(self, wanted: Wanted, plan: Plan) -> Group:
        """Return which images can share a batch with this one."""

    def start(self, wanted: Sequence[Wanted], plan: Plan) -> Callable[[], Sequence[Made]]:
        """Begin a batch of one group, and return a function that waits for its images, one for each row.

        A row's place in the batch is its number modulo `size`; those of the rows differ.
        """
