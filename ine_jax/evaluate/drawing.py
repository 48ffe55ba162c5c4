"""Draws the images of a plan, block by block, into a run directory: the one part that needs a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ine_jax import assets, runs, storage
from ine_jax.config import ModelConfig
from ine_jax.errors import InputError, Interrupted
from ine_jax.evaluate.plan import Cell, Item, Plan, Unit, check, units
from ine_jax.provenance import file_hash
from ine_jax.runs import Run
from ine_jax.stopping import stop_requests

Shard = tuple[int, int]
Draw = Callable[[Cell, Sequence[Item], Plan], np.ndarray]
NAMES = ("lists", "role", "guard", "negative_name", "embedding_from", "embedding_seed")  # of a cell; change no pixel
MODEL_FILES = ("*.safetensors", "*.bin", "*.msgpack", "*.json", "*.txt")


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

    A finished shard is a no-op that loads no model. `draw` (cell, items, plan) -> uint8 [items, H, W, 3] and `hashes`
    (a cell's model -> file hashes) default to the real models. InputError: a plan that cannot be drawn, or a directory
    started with another config; Interrupted: asked to stop, finished blocks are kept.
    """
    i, total = shard
    if not 0 <= i < total:
        raise InputError(f"shard {i}/{total}", "i/N with 0 <= i < N", "correct --shard")
    check(plan)
    find = hashes or (lambda label: model_hashes(plan.model(label)))
    models = {label: dict(find(label)) for label in dict.fromkeys(cell.model for cell in plan.cells)}
    with storage.lock(root, f"draw-{i}-of-{total}"), stop_requests() as stop:
        run = runs.create(root, plan.record(), {"models": models}, command)
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
        if total == 1:
            run.clean()
    return run


def pending(plan: Plan, root: str | Path, shard: Shard = (0, 1)) -> int:
    """How many images a call of `evaluate` would draw."""
    run = Run(Path(root), {})
    return sum(u.stop - u.start for u in units(plan) if u.k % shard[1] == shard[0] and not run.done(u.k))


def _pixels(plan: Plan, cell: Cell, models: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that changes the pixels of a cell's images but prompt and seed."""
    pixels = {key: value for key, value in cell.record().items() if key not in NAMES}
    return {**pixels, "hashes": models[cell.model], "sampler": plan.pixels()}


def _draw_block(run: Run, plan: Plan, unit: Unit, pixels: Mapping[str, Any], draw: Draw) -> int:
    cell = plan.cells[unit.cell]
    items = plan.lists[unit.list][unit.start : unit.stop]
    begin = time.monotonic()
    images = draw(cell, items, plan)
    seconds = time.monotonic() - begin
    rows = [
        {
            "id": item.id,
            "cell": unit.cell,
            "list": unit.list,
            "prompt": item.prompt,
            "seed": item.seed,
            "objects": list(item.objects),
            "identity": runs.identity({**pixels, "prompt": item.prompt, "seed": item.seed}),
        }
        for item in items
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
        self._guard: dict[str, Any] = {}

    def __call__(self, cell: Cell, items: Sequence[Item], plan: Plan) -> np.ndarray:
        """Images uint8 [items, H, W, 3] of the cell."""
        from ine_jax import guards
        from ine_jax.pipeline import load

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
            concept = guards.concept(cell.negative)
            self._guard = {
                "guidance": guards.guidance(cell.guidance, concept is not None, self._pipe),
                "negative": concept,
            }
            self._cell = cell
        return np.asarray(
            self._pipe(
                [item.prompt for item in items],
                **self._guard,
                seeds=[item.seed for item in items],
                steps=plan.steps,
                height=plan.height,
                width=plan.width,
            )
        )


def model_hashes(model: ModelConfig) -> dict[str, str]:
    """sha256 of every file that can change a pixel, of the model and of each checkpoint on top, without loading them.

    What stands on the hub is fetched first.
    """
    bundled = assets.resolve(model.model)
    folder, delta = bundled if bundled is not None else (Path(model.model), None)
    if not folder.is_dir():
        from ine_jax.models import hub

        folder = hub.pipeline_folder(model.model, model.revision, None)
    parts = [folder / part for part in ("tokenizer", "text_encoder", "unet", "vae", "scheduler")]
    files = sorted(path for part in parts for pattern in MODEL_FILES for path in part.glob(pattern))
    found = {str(path.relative_to(folder)): file_hash(path) for path in files}
    if delta is not None:
        found["unet_delta"] = file_hash(delta)
    if model.unlearned:
        from ine_jax.models import hub

        _, given = hub.open_checkpoints(model.unlearned)
        found |= {name: file_hash(path) for name, path in given.items()}
    return found
