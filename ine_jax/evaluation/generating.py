"""Draws the images of a plan, block by block, into a run directory: the one part that needs a model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ine_jax.config import ModelConfig
from ine_jax.errors import InputError, Interrupted
from ine_jax.evaluation.metadata import write_metadata
from ine_jax.evaluation.plan import Cell, Plan, Unit, check, units
from ine_jax.progress import stop_requests
from ine_jax.prompts.items import Item, alike
from ine_jax.storage import runs
from ine_jax.storage.atomic import lock
from ine_jax.storage.runs import Run

Shard = tuple[int, int]
Images = np.ndarray | Sequence[np.ndarray]
Draw = Callable[[Cell, Sequence[Item], Plan], Images]
NAMES = ("lists", "role", "guard", "negative_name", "embedding_from", "embedding_seed")  # of a cell; change no pixel


class Progress(Protocol):
    """Told how many images are done."""

    def update(self, done: int) -> None: ...


def evaluate(
    plan: Plan,
    root: str | Path,
    *,
    draw: Draw | None = None,
    hashes: Callable[[str], Mapping[str, str]] | None = None,
    shard: Shard = (0, 1),
    progress: Progress | None = None,
    command: Sequence[str] = (),
) -> Run:
    """Draw what is missing of shard i of N of `plan` into the run directory `root`, and return the opened run.

    A finished shard is a no-op that loads no model. `draw` (cell, items, plan) -> a uint8 [H, W, 3] per item and
    `hashes` (a cell's model -> how the run records it) default to the real models. InputError: a plan that cannot be
    drawn, or a directory started with another config; Interrupted: asked to stop, finished blocks are kept.
    """
    i, total = shard
    if not 0 <= i < total:
        raise InputError(f"shard {i}/{total}", "i/N with 0 <= i < N", "correct --shard")
    check(plan)
    find = hashes or (lambda label: model_record(plan.model(label)))
    models = {label: dict(find(label)) for label in dict.fromkeys(cell.model for cell in plan.cells)}
    with lock(root, f"draw-{i}-of-{total}"), stop_requests() as stop:
        readings = {name: reading.record() for name, reading in plan.readings.items()}
        run = runs.create(root, plan.record(), {"models": models}, command, readings)
        todo = [unit for unit in units(plan) if unit.k % total == i and not run.done(unit.k)]
        if todo and draw is None:
            draw = Painter()
        done = 0
        pixels = {n: _pixels(plan, plan.cells[n], models) for n in dict.fromkeys(unit.cell for unit in todo)}
        for unit in todo:
            if stop.is_set():
                raise Interrupted(f"stopped with {len(todo)} blocks to go", "", "run the same command again")
            assert draw is not None  # noqa: S101  todo is empty otherwise
            done += _draw_block(run, plan, unit, pixels[unit.cell], draw)
            if progress is not None:
                progress.update(done)
        write_metadata(run)
        if total == 1:
            run.clean()
    return run


def pending(plan: Plan, root: str | Path, shard: Shard = (0, 1)) -> int:
    """How many images a call of `evaluate` would draw."""
    run = Run(Path(root), {})
    return sum(u.stop - u.start for u in units(plan) if u.k % shard[1] == shard[0] and not run.done(u.k))


def told(run: Run) -> list[str]:
    """What is to be said of the images that are there: whose prompts were cut."""
    cut = sum(row.get("truncated", False) for k in run.blocks() for row in run.rows(k))
    return [f"{cut} images are of prompts longer than the text encoder reads, which were cut"] if cut else []


def _pixels(plan: Plan, cell: Cell, models: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that changes the pixels of a cell's images but prompt and seed."""
    pixels = {key: value for key, value in cell.record().items() if key not in NAMES}
    return {**pixels, "hashes": models[cell.model], "sampler": plan.pixels()}


def _own_pixels(pixels: Mapping[str, Any], cell: Cell, item: Item) -> dict[str, Any]:
    """The same for an item, with the scale and the size of its own where it has them."""
    guidance, sampler = pixels["guidance"], pixels["sampler"]
    if item.guidance is not None:
        scaled = dataclasses.replace(cell.guidance, scale=item.guidance).settings()
        guidance = {**guidance, **{key: scaled[key] for key in ("scale", "negative_scale")}}
    size = {"height": item.height, "width": item.width}
    sampler = {**sampler, **{side: length for side, length in size.items() if length is not None}}
    return {**pixels, "guidance": guidance, "sampler": sampler, "prompt": item.prompt, "seed": item.seed}


def _row(plan: Plan, item: Item) -> dict[str, int]:
    """Which row of the file of latents the item starts from."""
    return {} if plan.starts is None else {"row": plan.starts.rows[item]}


def _draw_block(run: Run, plan: Plan, unit: Unit, pixels: Mapping[str, Any], draw: Draw) -> int:
    cell = plan.cells[unit.cell]
    items = plan.lists[unit.list][unit.start : unit.stop]
    begin = time.monotonic()
    images = draw(cell, items, plan)
    seconds = time.monotonic() - begin
    cut = draw.cut(items) if isinstance(draw, Painter) else [False] * len(items)
    rows = [
        {
            **item.record(),
            **({"truncated": True} if short else {}),
            "cell": unit.cell,
            "list": unit.list,
            "identity": runs.identity(_own_pixels(pixels, cell, item) | _row(plan, item)),
        }
        for item, short in zip(items, cut, strict=True)
    ]
    run.write_block(unit.k, images, rows)
    run.add_timing({"block": unit.k, "cell": unit.cell, "images": len(items), "seconds": round(seconds, 4)})
    return len(items)


class Painter:
    """Draws with the real models; keeps the last one loaded, since cells come model by model."""

    def __init__(self) -> None:
        """Nothing is loaded before the first call."""
        self._name = ""
        self._pipe: Any = None
        self._cell: Cell | None = None
        self._concept: Any = None
        self._guards: dict[float | None, Any] = {}

    def __call__(self, cell: Cell, items: Sequence[Item], plan: Plan) -> list[np.ndarray]:
        """One uint8 image [H, W, 3] per item of the cell, drawn by groups of equal guidance scale and size."""
        self._take(cell, plan)
        usual = (cell.guidance.scale, plan.height, plan.width)
        images: dict[int, np.ndarray] = {}
        for (scale, height, width), places in alike(items, usual).items():
            drawn = self._pipe(
                [items[i].prompt for i in places],
                guidance=self._guard(cell, scale),
                negative=self._concept,
                seeds=[items[i].seed for i in places],
                noise=plan.noise if plan.starts is None else plan.starts([items[i] for i in places]),
                steps=plan.steps,
                height=height,
                width=width,
            )
            images.update(zip(places, np.asarray(drawn), strict=True))
        return [images[i] for i in range(len(items))]

    def cut(self, items: Sequence[Item]) -> list[bool]:
        """Whether each prompt is longer than the text encoder of the last drawn cell reads."""
        return self._pipe.tokenizer.truncated([item.prompt for item in items])

    def _take(self, cell: Cell, plan: Plan) -> None:
        """Load the cell's model and concept, unless they are those of the last call."""
        from ine_jax.guidance import from_config as guards
        from ine_jax.pipeline.pipeline import load

        if self._pipe is None or self._name != cell.model:
            self._name = cell.model
            model = plan.model(cell.model)
            self._pipe = load(
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
            self._concept, self._guards, self._cell = guards.concept(cell.negative), {}, cell

    def _guard(self, cell: Cell, scale: float | None) -> Any:
        """The cell's guard at a guidance scale; an empty negative scale, or a preset's, follows it."""
        from ine_jax.guidance import from_config as guards

        if scale not in self._guards:
            config = cell.guidance if scale is None else dataclasses.replace(cell.guidance, scale=scale)
            self._guards[scale] = guards.guidance(config, self._concept is not None, self._pipe)
        return self._guards[scale]


def model_record(model: ModelConfig) -> dict[str, str]:
    """How a run records a model: by its content id. The files are hashed without loading them."""
    from ine_jax.models.checkpoints.model_files import model_id

    return {"model_id": model_id(model.model, model.revision, model.unlearned)}
