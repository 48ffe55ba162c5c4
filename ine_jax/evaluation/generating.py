"""Generates the images of a plan into a run directory. JAX is loaded only if an image is missing.

The device does not wait for the host: while a batch computes, the one before is fetched and the next one is prepared,
and a bounded pool of threads encodes images, writes finished blocks and scores them (`storing`).
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Protocol, runtime_checkable

import numpy as np

from ine_jax.config import ModelConfig
from ine_jax.errors import InputError, Interrupted
from ine_jax.evaluation.metadata import write_metadata
from ine_jax.evaluation.packing import Batches, Group, Made, Packer, Wanted
from ine_jax.evaluation.plan import Cell, Plan, check
from ine_jax.evaluation.scoring import Behind
from ine_jax.evaluation.storing import Storing
from ine_jax.evaluation.units import Unit
from ine_jax.progress import GRACE, stop_requests
from ine_jax.prompts.items import Item
from ine_jax.storage import atomic, marks, publishing, runs
from ine_jax.storage.runs import Run

Shard = tuple[int, int]
BLOCKS_HELD = 8  # that wait for single images of other groups, in memory
IN_FLIGHT = 2  # batches on the device: the one that computes and the next


@runtime_checkable
class Generate(Protocol):
    """Makes the images of some items of a cell at once: one uint8 [H, W, 3] or one `Made` per item."""

    def __call__(
        self, cell: Cell, items: Sequence[Item], plan: Plan, /
    ) -> np.ndarray | Sequence[np.ndarray] | Sequence[Made]: ...


@dataclass(frozen=True)
class ByBlock:
    """Batches of a function that makes the images of a block at once."""

    generate: Generate
    size: int = 2**31

    def group(self, wanted: Wanted, plan: Plan) -> Group:
        """Return the group of the block."""
        return Group(None, wanted.unit.k)

    def start(self, wanted: Sequence[Wanted], plan: Plan) -> Callable[[], Sequence[Made]]:
        """Make the images now."""
        made = self.generate(wanted[0].cell, [each.item for each in wanted], plan)
        found = [each if isinstance(each, Made) else Made(each) for each in made]
        return lambda: found


@runtime_checkable
class Progress(Protocol):
    """Receives the number of images that are done."""

    def update(self, done: int, /) -> None: ...


def evaluate(
    plan: Plan,
    root: str | Path,
    *,
    generate: Generate | Batches | None = None,
    hashes: Callable[[str], Mapping[str, str]] | None = None,
    shard: Shard = (0, 1),
    progress: Progress | None = None,
    command: Sequence[str] = (),
    behind: Behind | None = None,
) -> Run:
    """Generate what is missing of shard i of N of `plan` into the run directory `root`, and return the opened run.

    A finished shard is a no-op that loads no model.

    Args:
        generate: makes the images, by default with the cells' own models.
        hashes: a cell's model -> how the run records it; by default its content id.
        shard: (i, N): the blocks k with k % N == i.
        command: the words of the command, for run.json.
        behind: scores each block once it is stored, while others are generated.

    Raises:
        Interrupted: asked to stop. Begun blocks are finished where that takes less than a few seconds.
    """
    i, total = shard
    if not 0 <= i < total:
        raise InputError(f"shard {i}/{total}", "i/N with 0 <= i < N", "correct --shard")
    check(plan)
    find = hashes or (lambda label: model_record(plan.model(label)))
    models = {label: dict(find(label)) for label in dict.fromkeys(cell.model for cell in plan.cells)}
    runs.check(root, plan.record(), {"models": models})
    with runs.writing(root, shard), stop_requests(GRACE) as stop:
        readings = {name: reading.record() for name, reading in plan.readings.items()}
        config = plan.record()
        run = runs.create(root, config, {"models": models}, command, readings)
        if total == 1:
            run.clean()
        todo = missing_units(plan, root, shard)
        if todo:
            run = _unlisted(run)
        if todo and generate is None:
            from ine_jax.evaluation import images

            generate = images.ImageGenerator()
        if todo:
            assert generate is not None  # noqa: S101
            batches = ByBlock(generate) if isinstance(generate, Generate) else generate
            with Storing(run, plan, models, behind) as storing:
                left = Loop(plan, batches, storing, stop, progress).run(numbered(plan, todo, shard))
            if left:
                raise Interrupted(f"stopped with {left} blocks to go", "", "run the same command again")
        publishing.refresh(run.root)  # the other shards' blocks
        if run.blocks() == list(range(config["blocks"])):
            marks.write_blocks(run.root, run.content, [run.block(k) for k in run.blocks()])
            write_metadata(run)
    return run


@dataclass
class Loop:
    """Packs, dispatches and fetches batches, and hands their images over to be stored."""

    plan: Plan
    batches: Batches
    storing: Storing
    stop: Event
    progress: "Progress | None"
    packer: Packer = field(default_factory=Packer)
    flight: deque[tuple[list[Wanted], Callable[[], Sequence[Made]]]] = field(default_factory=deque)
    done: int = 0
    seconds: float = 0.0  # of the last batch
    asked: float | None = None  # when the request to stop was seen
    fetched: float = field(default_factory=time.monotonic)  # when the last batch was complete

    def run(self, todo: Mapping[Unit, int]) -> int:
        """Generate these blocks, each with the number of its first image; return how many are left after a request."""
        model = None
        for unit, number in todo.items():
            cell = self.plan.cells[unit.cell]
            if model is not None and cell.model != model:
                self._drain()
            if self._stopped():
                break
            model = cell.model
            self._add(unit, cell, number)
        self._drain()
        return len(todo) - self.storing.complete

    def _add(self, unit: Unit, cell: Cell, number: int) -> None:
        items = self.plan.lists[unit.list][unit.start : unit.stop]
        self.storing.begin(unit)
        for place, item in enumerate(items):
            wanted = Wanted(unit, place, cell, item, number + place)
            group = self.batches.group(wanted, self.plan)
            self._start(self.packer.add(group, wanted, self.batches.size))
        for group in self.packer.of_block(unit.k):
            while group in self.packer.waiting:
                self._start(self.packer.take(group, self.batches.size))
        while self.storing.held > max(BLOCKS_HELD, 2 * self.batches.size // self.plan.block):
            oldest = self.packer.oldest()
            if oldest is not None:
                self._start(self.packer.take(oldest, self.batches.size))
            elif self.flight:
                self._fetch()
            else:
                break

    def _drain(self) -> None:
        """Compute what waits, oldest first, and fetch everything."""
        while (oldest := self.packer.oldest()) is not None:
            self._start(self.packer.take(oldest, self.batches.size))
        while self.flight:
            self._fetch()

    def _start(self, rows: list[Wanted]) -> None:
        """Dispatch a batch, unless there is no time left for it after a request to stop."""
        if not rows or (self._stopped() and not self._in_time()):
            return
        self.flight.append((rows, self.batches.start(rows, self.plan)))
        while len(self.flight) >= IN_FLIGHT:
            self._fetch()

    def _fetch(self) -> None:
        rows, fetch = self.flight.popleft()
        made = fetch()
        now = time.monotonic()
        self.seconds, self.fetched = now - self.fetched, now
        for wanted, image in zip(rows, made, strict=True):
            self.storing.put(wanted, image, self.seconds / len(rows))
        self.done += len(rows)
        if self.progress is not None:
            self.progress.update(self.done)

    def _stopped(self) -> bool:
        if self.stop.is_set() and self.asked is None:
            self.asked = time.monotonic()
        return self.asked is not None

    def _in_time(self) -> bool:
        """Whether what is in flight and one more batch end within the time that a request to stop leaves."""
        ahead = (len(self.flight) + 1) * self.seconds
        return self.asked is not None and time.monotonic() + ahead - self.asked < GRACE / 2


def _unlisted(run: Run) -> Run:
    """The run without the list of its blocks, so that missing ones can be written; the others must be those listed."""
    if run.listed is not None:
        for k in run.blocks():
            run.sums(k)
        atomic.remove(run.root / marks.BLOCKS)
    return Run(run.root, run.record)


def missing_units(plan: Plan, root: str | Path, shard: Shard = (0, 1)) -> list[Unit]:
    """The blocks of a shard that a call of `evaluate` would write."""
    finished = set(runs.finished_blocks(root))
    return [unit for unit in plan.units() if unit.k % shard[1] == shard[0] and unit.k not in finished]


def numbered(plan: Plan, todo: Sequence[Unit], shard: Shard = (0, 1)) -> dict[Unit, int]:
    """For each block the number of its first image among all images of the shard, finished ones included."""
    own = [unit for unit in plan.units() if unit.k % shard[1] == shard[0]]
    first = itertools.accumulate((unit.stop - unit.start for unit in own), initial=0)
    numbers = dict(zip(own, first, strict=False))
    return {unit: numbers[unit] for unit in todo}


def pending(plan: Plan, root: str | Path, shard: Shard = (0, 1)) -> int:
    """How many images a call of `evaluate` would generate."""
    return sum(unit.stop - unit.start for unit in missing_units(plan, root, shard))


def notes(run: Run) -> list[str]:
    """A line on the prompts that were truncated, if any were."""
    cut = sum(row.get("truncated", False) for k in run.blocks() for row in run.rows(k))
    return [f"{cut} images are of prompts longer than the text encoder reads, which were cut"] if cut else []


def model_record(model: ModelConfig) -> dict[str, str]:
    """How a run records a model: by its content id. The files are hashed without loading them."""
    from ine_jax.models.checkpoints.model_files import model_id

    return {"model_id": model_id(model.model, model.revision, model.unlearned)}
