"""Generates the images of a plan into a run directory. JAX is loaded only if an image is missing.

The device does not wait for the host: while a batch computes, the one before is fetched and the next one is prepared,
and a bounded pool of threads encodes images, writes finished blocks and scores them (`storing`).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Protocol, runtime_checkable

import numpy as np

from ine_jax.config import ModelConfig
from ine_jax.errors import InputError, Interrupted
from ine_jax.evaluation import metadata
from ine_jax.evaluation.extending import continued, forget_changed
from ine_jax.evaluation.packing import Batches, Made, Wanted
from ine_jax.evaluation.plan import Cell, Plan, check
from ine_jax.evaluation.scoring import Behind
from ine_jax.evaluation.storing import Storing
from ine_jax.evaluation.units import Unit
from ine_jax.pipeline.packing import Group, Progress, Pump
from ine_jax.progress import GRACE, stop_requests
from ine_jax.prompts.items import Item
from ine_jax.storage import atomic, marks, publishing, runs
from ine_jax.storage.runs import Run

Shard = tuple[int, int]
BLOCKS_HELD = 8  # that wait for single images of other groups, in memory


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

    A finished shard is a no-op that loads no model. A plan with further cells extends the run that is there.

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
    plan = continued(plan, root)
    find = hashes or (lambda label: model_record(plan.model(label)))
    models = {label: dict(find(label)) for label in dict.fromkeys(cell.model for cell in plan.cells)}
    config = plan.record()
    runs.check(root, config, {"models": models})
    with runs.writing(root, shard), stop_requests(GRACE) as stop:
        readings = {name: reading.record() for name, reading in plan.readings.items()}
        if begun := runs.check(root, config, {"models": models}):
            forget_changed(begun, config)
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
                left = loop(plan, batches, storing, stop, progress).run(numbered(plan, todo, shard))
            if left:
                raise Interrupted(f"stopped with {left} blocks to go", "", "run the same command again")
        publishing.refresh(run.root)  # the other shards' blocks
        if run.blocks() == list(range(config["blocks"])):
            marks.write_blocks(run.root, run.stages, [run.block(k) for k in run.blocks()])
            metadata.write_metadata(run)
    return run


@dataclass
class Loop:
    """Packs the images of blocks into batches, and hands them over to be stored."""

    plan: Plan
    storing: Storing
    pump: Pump[Wanted, Made]

    def run(self, todo: Mapping[Unit, int]) -> int:
        """Generate these blocks, each with the number of its first image; return how many are left after a request."""
        model = None
        for unit, number in todo.items():
            cell = self.plan.cells[unit.cell]
            if model is not None and cell.model != model:
                self.pump.drain()
            if self.pump.stopped():
                break
            model = cell.model
            self._add(unit, cell, number)
        self.pump.drain()
        return len(todo) - self.storing.complete

    def _add(self, unit: Unit, cell: Cell, number: int) -> None:
        items = self.plan.lists[unit.list][unit.start : unit.stop]
        self.storing.begin(unit)
        for place, item in enumerate(items):
            self.pump.add(Wanted(unit, place, cell, item, number + place))
        self.pump.finish(unit.k)
        while self.storing.held > max(BLOCKS_HELD, 2 * self.pump.size() // self.plan.block) and self.pump.advance():
            pass


def loop(plan: Plan, batches: Batches, storing: Storing, stop: Event, progress: Progress | None) -> Loop:
    """Return the loop over blocks of a plan that makes its images by `batches`."""

    def group(wanted: Wanted) -> Group:
        return batches.group(wanted, plan)

    def start(rows: Sequence[Wanted]) -> Callable[[], Sequence[Made]]:
        return batches.start(rows, plan)

    return Loop(plan, storing, Pump(lambda: batches.size, group, start, storing.put, stop, progress))


def _unlisted(run: Run) -> Run:
    """The run without its lists of blocks and images, so that missing ones can be written.

    The blocks that are there must be those listed.
    """
    atomic.remove(run.root / metadata.NAME)
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


def planned(plan: Plan, shard: Shard = (0, 1)) -> int:
    """How many images a shard has."""
    return sum(unit.stop - unit.start for unit in plan.units() if unit.k % shard[1] == shard[0])


def notes(run: Run) -> list[str]:
    """A line on the prompts that were truncated, if any were."""
    cut = sum(row.get("truncated", False) for k in run.blocks() for row in run.rows(k))
    return [f"{cut} images are of prompts longer than the text encoder reads, which were cut"] if cut else []


def model_record(model: ModelConfig) -> dict[str, str]:
    """How a run records a model: by its content id. The files are hashed without loading them."""
    from ine_jax.models.checkpoints.model_files import model_id

    return {"model_id": model_id(model.model, model.revision, model.unlearned)}
