"""Stores the images of an evaluation behind the device: encoding, blocks and scores, in a bounded pool of threads."""

import dataclasses
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import cast

import numpy as np

from ine_jax.evaluation.packing import Made, Wanted
from ine_jax.evaluation.plan import Cell, Plan
from ine_jax.evaluation.scoring import Behind
from ine_jax.evaluation.units import Unit
from ine_jax.prompts.items import Item
from ine_jax.storage.images import png
from ine_jax.storage.pool import WAITING, Pool
from ine_jax.storage.provenance import value_hash
from ine_jax.storage.records import CellSpec, GuidanceSpec, NewRow
from ine_jax.storage.runs import Run

IDENTITY_VERSION = 1
NAMES = ("lists", "role", "guard", "negative_name", "embedding_from", "embedding_seed")  # of a cell; change no pixel
BLOCKS = 4  # that wait for a thread; more make the caller wait
GONE = np.empty((0, 0, 3), np.uint8)  # in the place of an image that nobody needs any more


@dataclass
class Open:
    """A block whose images are being made: the images as PNG, and all of them while a detector is to see them."""

    unit: Unit
    wanted: dict[int, tuple[Wanted, Made]]
    encoded: dict[int, Future[bytes]]
    seconds: float = 0.0

    @property
    def full(self) -> bool:
        """Whether all images are there."""
        return len(self.encoded) == self.unit.stop - self.unit.start


class Storing:
    """Takes images in any order and stores each block once its last image is there. A context manager.

    Errors of the threads are raised by the next call. Leaving waits for what was handed over.
    """

    def __init__(
        self, run: Run, plan: Plan, models: Mapping[str, Mapping[str, str]], behind: Behind | None = None
    ) -> None:
        """Store into `run`; `models` are the hashes by label, `behind` scores the stored blocks."""
        self.run, self.plan, self.models, self.behind = run, plan, models, behind
        self.specs = [cell.record() for cell in plan.cells]
        self.complete = 0  # blocks whose images are all there
        self._open: dict[int, Open] = {}
        self._pool = Pool()
        self._images, self._blocks = threading.Semaphore(WAITING), threading.Semaphore(BLOCKS)
        self._timing = threading.Lock()

    def __enter__(self) -> "Storing":
        if self.behind is not None:
            self.behind.start(self.run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._pool.__exit__(kind, error, trace)
        finally:
            if self.behind is not None:
                self.behind.close()

    @property
    def held(self) -> int:
        """Blocks that wait for images."""
        return len(self._open)

    def begin(self, unit: Unit) -> None:
        """Expect the images of a block."""
        self._open[unit.k] = Open(unit, {}, {})

    def put(self, wanted: Wanted, made: Made, seconds: float) -> None:
        """Take one image, which took so many seconds; waits where the threads are far behind."""
        block = self._open[wanted.unit.k]
        kept = made if self.behind is not None else dataclasses.replace(made, image=GONE)
        block.wanted[wanted.place] = wanted, kept
        block.seconds += seconds
        block.encoded[wanted.place] = self._pool.submit(self._images, png, made.image)
        if block.full:
            del self._open[wanted.unit.k]
            self.complete += 1
            self._pool.submit(self._blocks, self._store, block)

    def _store(self, block: Open) -> None:
        """Write a block: its images were submitted before it, so the pool finishes them first."""
        unit, count = block.unit, len(block.encoded)
        encoded = [block.encoded[place].result() for place in range(count)]
        found = [block.wanted[place] for place in range(count)]
        rows = [self._row(wanted, made) for wanted, made in found]
        self.run.write_block(unit.k, encoded, rows)
        seconds = round(block.seconds, 4)
        with self._timing:
            self.run.add_timing({"block": unit.k, "cell": unit.cell, "images": count, "seconds": seconds})
        if self.behind is not None:
            self.behind.add(unit.k, rows, [made.image for _, made in found])

    def _row(self, wanted: Wanted, made: Made) -> NewRow:
        unit, spec = wanted.unit, self.specs[wanted.unit.cell]
        identity = image_identity(_pixels(self.plan, wanted.cell, spec, self.models[spec["model"]], wanted.item))
        own: dict[str, object] = {"cell": unit.cell, "list": unit.list, "identity": identity}
        own |= {"truncated": True} if made.truncated else {}
        own |= {"degenerate": made.degenerate} if made.degenerate else {}
        return cast(NewRow, {**wanted.item.record(), **own})


def image_identity(pixels: Mapping[str, object]) -> str:
    """Hash of what changes an image's pixels: model hashes, prompt, seed, sampler, guard.

    Paths and order change no pixel, batch size and device count only by rounding (docs/scale.md): they are left out, so
    that equal settings have equal names in different runs.
    """
    return value_hash({"identity": IDENTITY_VERSION, **pixels})


def _pixels(plan: Plan, cell: Cell, spec: CellSpec, hashes: Mapping[str, str], item: Item) -> dict[str, object]:
    """Everything that changes the pixels of an item's image; `spec` and `hashes` are the cell's."""
    guidance, sampler = spec["guidance"], plan.pixels()
    if item.guidance is not None:
        own = cast(GuidanceSpec, dataclasses.replace(cell.guidance, scale=item.guidance).settings())
        guidance = {**guidance, "scale": own["scale"], "negative_scale": own["negative_scale"]}
    if item.height is not None:
        sampler["height"] = item.height
    if item.width is not None:
        sampler["width"] = item.width
    found: dict[str, object] = {key: value for key, value in spec.items() if key not in NAMES}
    found |= {"guidance": guidance, "hashes": hashes, "sampler": sampler, "prompt": item.prompt, "seed": item.seed}
    if plan.starts is not None:
        found["row"] = plan.starts.rows[item]  # of the file of latents
    return found
