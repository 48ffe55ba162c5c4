"""Packs the images of blocks and cells into full batches. Pure; no model is loaded.

Rows of one group share a batch. A group ends with one batch that is not full, unless its rows fill it by chance,
however small the blocks are. The place of a row in its batch follows from the plan: on some shapes a decoder rounds by
it, and a continued run must end in the bytes of an undisturbed one. So a continued run may have a few more gaps.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from ine_jax.evaluation.plan import Cell, Plan
from ine_jax.evaluation.units import Unit
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


@dataclass(frozen=True)
class Group:
    """What rows of a batch have in common; with a block `k`, the batches are that block's alone."""

    program: Hashable
    k: int | None = None


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


@dataclass
class Packer:
    """Rows that wait for their batch to fill, by group, in the order in which they came."""

    waiting: dict[Group, list[Wanted]] = field(default_factory=dict)

    def add(self, group: Group, wanted: Wanted, size: int) -> list[Wanted]:
        """Add a row; return the batch that it fills, or nothing."""
        rows = self.waiting.setdefault(group, [])
        rows.append(wanted)
        return self.take(group, size) if len({row.number % size for row in rows}) == size else []

    def take(self, group: Group, size: int) -> list[Wanted]:
        """Remove and return the next batch of a group: for every place the row that has waited longest."""
        batch: dict[int, Wanted] = {}
        rows = self.waiting.pop(group, [])
        for row in rows:
            batch.setdefault(row.number % size, row)
        taken = set(map(id, batch.values()))
        if rest := [row for row in rows if id(row) not in taken]:
            self.waiting[group] = rest
        return list(batch.values())

    def of_block(self, k: int) -> list[Group]:
        """Return the groups that are of this block alone."""
        return [group for group in self.waiting if group.k == k]

    def oldest(self) -> Group | None:
        """Return the group with the row that has waited longest."""
        return min(self.waiting, key=lambda group: self.waiting[group][0].unit.k, default=None)
