"""Generates the images of a plan, block by block, into a run directory. JAX is loaded only if an image is missing."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np

from ine_jax.config import ModelConfig
from ine_jax.errors import InputError, Interrupted
from ine_jax.evaluation.metadata import write_metadata
from ine_jax.evaluation.plan import Cell, Plan, check
from ine_jax.evaluation.units import Unit
from ine_jax.progress import stop_requests
from ine_jax.prompts.items import Item
from ine_jax.storage import atomic, marks, publishing, runs
from ine_jax.storage.provenance import value_hash
from ine_jax.storage.records import CellSpec, GuidanceSpec, NewRow
from ine_jax.storage.runs import Run

Shard = tuple[int, int]
IDENTITY_VERSION = 1
NAMES = ("lists", "role", "guard", "negative_name", "embedding_from", "embedding_seed")  # of a cell; change no pixel


@runtime_checkable
class Generate(Protocol):
    """Makes the images of some items of a cell: one uint8 [H, W, 3] per item."""

    def __call__(self, cell: Cell, items: Sequence[Item], plan: Plan, /) -> np.ndarray | Sequence[np.ndarray]: ...


@runtime_checkable
class Truncates(Protocol):
    """Also reports which prompts of the last cell were longer than the text encoder reads."""

    def truncated(self, items: Sequence[Item]) -> list[bool]: ...


@runtime_checkable
class Examines(Protocol):
    """Also reports why images of the last call show nothing; an empty text for each usable one."""

    def degenerate(self) -> list[str]: ...


@runtime_checkable
class Progress(Protocol):
    """Receives the number of images that are done."""

    def update(self, done: int, /) -> None: ...


def evaluate(
    plan: Plan,
    root: str | Path,
    *,
    generate: Generate | None = None,
    hashes: Callable[[str], Mapping[str, str]] | None = None,
    shard: Shard = (0, 1),
    progress: Progress | None = None,
    command: Sequence[str] = (),
) -> Run:
    """Generate what is missing of shard i of N of `plan` into the run directory `root`, and return the opened run.

    A finished shard is a no-op that loads no model.

    Args:
        generate: makes the images of a cell; by default the cell's own model.
        hashes: a cell's model -> how the run records it; by default its content id.
        shard: (i, N): the blocks k with k % N == i.
        command: the words of the command, for run.json.
    """
    i, total = shard
    if not 0 <= i < total:
        raise InputError(f"shard {i}/{total}", "i/N with 0 <= i < N", "correct --shard")
    check(plan)
    find = hashes or (lambda label: model_record(plan.model(label)))
    models = {label: dict(find(label)) for label in dict.fromkeys(cell.model for cell in plan.cells)}
    runs.check(root, plan.record(), {"models": models})
    with runs.writing(root, shard), stop_requests() as stop:
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
        done = 0
        for unit in todo:
            if stop.is_set():
                raise Interrupted(f"stopped with {len(todo)} blocks to go", "", "run the same command again")
            assert generate is not None  # noqa: S101  todo is empty otherwise
            spec = config["cells"][unit.cell]
            done += _write_block(run, plan, unit, spec, models[spec["model"]], generate)
            if progress is not None:
                progress.update(done)
        publishing.refresh(run.root)  # the other shards' blocks
        if run.blocks() == list(range(config["blocks"])):
            marks.write_blocks(run.root, run.content, [run.block(k) for k in run.blocks()])
            write_metadata(run)
    return run


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


def pending(plan: Plan, root: str | Path, shard: Shard = (0, 1)) -> int:
    """How many images a call of `evaluate` would generate."""
    return sum(unit.stop - unit.start for unit in missing_units(plan, root, shard))


def notes(run: Run) -> list[str]:
    """A line on the prompts that were truncated, if any were."""
    cut = sum(row.get("truncated", False) for k in run.blocks() for row in run.rows(k))
    return [f"{cut} images are of prompts longer than the text encoder reads, which were cut"] if cut else []


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


def _write_block(
    run: Run, plan: Plan, unit: Unit, spec: CellSpec, hashes: Mapping[str, str], generate: Generate
) -> int:
    cell = plan.cells[unit.cell]
    items = plan.lists[unit.list][unit.start : unit.stop]
    begin = time.monotonic()
    images = generate(cell, items, plan)
    seconds = time.monotonic() - begin
    cut = generate.truncated(items) if isinstance(generate, Truncates) else [False] * len(items)
    bad = generate.degenerate() if isinstance(generate, Examines) else [""] * len(items)
    rows: list[NewRow] = []
    for item, short, why in zip(items, cut, bad, strict=True):
        identity = image_identity(_pixels(plan, cell, spec, hashes, item))
        own = {"cell": unit.cell, "list": unit.list, "identity": identity} | ({"truncated": True} if short else {})
        own |= {"degenerate": why} if why else {}
        rows.append(cast(NewRow, {**item.record(), **own}))
    run.write_block(unit.k, images, rows)
    run.add_timing({"block": unit.k, "cell": unit.cell, "images": len(items), "seconds": round(seconds, 4)})
    return len(items)


def model_record(model: ModelConfig) -> dict[str, str]:
    """How a run records a model: by its content id. The files are hashed without loading them."""
    from ine_jax.models.checkpoints.model_files import model_id

    return {"model_id": model_id(model.model, model.revision, model.unlearned)}
