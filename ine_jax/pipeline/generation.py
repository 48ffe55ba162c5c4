"""``ine generate``: prompts to PNGs and a ``metadata.jsonl`` that Hugging Face's ImageFolder reads.

A folder belongs to one set of settings, kept in ``.generate.json``. The same command continues it: images that are
complete stay, and since an image depends on its own prompt and seed alone, what is made later equals what would have
been made at once.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from ine_jax import prompts as benchmarks
from ine_jax.config import GenerateConfig
from ine_jax.config.methods import NoiseMode
from ine_jax.errors import InputError, Interrupted
from ine_jax.guidance import Guidance
from ine_jax.guidance import from_config as guards
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline.latents import Latents
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.progress import Progress, stop_requests
from ine_jax.prompts import PromptSet
from ine_jax.prompts.items import Item, alike, named
from ine_jax.storage.atomic import lock, write_atomic
from ine_jax.storage.binding import bind
from ine_jax.storage.images import png
from ine_jax.storage.provenance import value_hash, versions
from ine_jax.storage.sealed import jsonl

SETTINGS = ".generate.json"
METADATA = "metadata.jsonl"
BATCHES_PER_CALL = 4


@dataclass(frozen=True)
class Generated:
    """What a run did: images made now and found complete, prompts cut to fit, seconds per image made (None for none),
    and how the prompt file was read.
    """

    out: str
    made: int
    found: int
    truncated: int
    seconds_per_image: float | None
    read: str = ""


def generate(config: GenerateConfig, progress: Progress | None = None) -> Generated:
    """Make every image that ``config`` asks for and that its folder does not hold yet.

    Raises ``InputError`` for prompts, model, embedding or folder that do not fit, before anything is written;
    ``Interrupted`` when asked to stop, with all finished images kept.
    """
    asked = prompt_list(config)
    concept = guards.concept(config.negative)
    pipe = load(
        config.model,
        revision=config.revision,
        unlearned=config.unlearned,
        scheduler=config.sampler.scheduler,
        batch_size=config.sampler.batch,
        unet_impl=config.sampler.unet_impl,
    )
    size = {"steps": config.sampler.steps, "height": config.sampler.height, "width": config.sampler.width}
    wanted, latents = named(asked.items, config.per_prompt), config.sampler.latents

    @functools.cache
    def scaled(scale: float) -> Guidance:
        return guards.guidance(dataclasses.replace(config.guidance, scale=scale), concept is not None, pipe)

    done = write_images(
        pipe,
        wanted,
        config.out,
        guidance=scaled(config.guidance.scale),
        concept=concept,
        size=size,
        progress=progress,
        scaled=scaled,
        noise=Latents(latents, list(wanted.values())) if latents else config.sampler.noise,
    )
    return dataclasses.replace(done, read=asked.reading.line() if asked.reading else "")


def prompt_list(config: GenerateConfig) -> PromptSet:
    """The prompts of ``config``, from its file or as they stand there; raises ``InputError`` for none, or a file that
    is wrong.
    """
    if config.prompts_file:
        return benchmarks.load(config.prompts_file, seed=config.seed, stride=config.per_prompt)
    if not config.prompts:
        raise InputError("no prompts", "prompts, or prompts_file", "give at least one prompt")
    starts = range(config.seed, config.seed + len(config.prompts) * config.per_prompt, config.per_prompt)
    return PromptSet(tuple(Item(str(i), p, s) for i, (p, s) in enumerate(zip(config.prompts, starts, strict=True))))


def wanted_items(config: GenerateConfig) -> dict[str, Item]:
    """Every image that ``config`` asks for, by file name, in order; errors as for :func:`prompt_list`."""
    return named(prompt_list(config).items, config.per_prompt)


def write_images(
    pipe: Pipeline,
    wanted: Mapping[str, Item],
    out: str | Path,
    *,
    guidance: Guidance,
    concept: Concept | None = None,
    size: Mapping[str, int | None] | None = None,
    progress: Progress | None = None,
    scaled: Callable[[float], Guidance] | None = None,
    noise: NoiseMode | Latents = "jax",
) -> Generated:
    """Write the PNG of every item (by file name) into ``out`` (mode 0700), then ``metadata.jsonl`` in their order.

    ``concept`` is what is to be avoided; ``size`` holds steps, height and width. Both as :class:`Pipeline` takes
    them. ``scaled`` gives the guard at the guidance scale of an item that has one, ``noise`` what the items
    start from. Errors as for :func:`generate`.
    """
    folder = Path(out)
    settings = _settings(pipe, wanted, guidance, concept, size or {}) | _start(noise)
    _check_folder(folder)
    cut = dict(zip(wanted, pipe.tokenizer.truncated([item.prompt for item in wanted.values()]), strict=True))
    with lock(folder, "generate"):
        bind(folder, settings, SETTINGS)
        todo = {name: item for name, item in wanted.items() if not complete(folder / name)}
        begun = time.perf_counter()
        try:
            guard = functools.partial(_guard, guidance, scaled)
            made = _make(pipe, todo, folder, guard, {"negative": concept, **(size or {})}, noise, progress)
        finally:
            done = [name for name in wanted if (folder / name).is_file()]
            rows = [_row(folder / name, wanted[name], cut[name]) for name in done]
            write_atomic(folder / METADATA, jsonl(rows))
        seconds = time.perf_counter() - begun
    if made < len(todo):
        raise Interrupted(f"stopped after {len(done)} of {len(wanted)} images", todo="the same command continues")
    return Generated(str(folder), made, len(wanted) - len(todo), sum(cut.values()), seconds / made if made else None)


def complete(path: Path) -> bool:
    """Whether the file is a PNG that decodes to its end."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
        return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _guard(usual: Guidance, scaled: Callable[[float], Guidance] | None, scale: float | None) -> Guidance:
    """The guard of items with this scale of their own; None for none."""
    if scale is None:
        return usual
    if scaled is None:
        raise InputError(f"an item with guidance scale {scale}", "items without, or `scaled`", "say what it means")
    return scaled(scale)


def _make(
    pipe: Pipeline,
    todo: Mapping[str, Item],
    folder: Path,
    guard: Callable[[float | None], Guidance],
    options: Mapping[str, Any],
    noise: NoiseMode | Latents,
    progress: Progress | None,
) -> int:
    """Make the images, writing those of one call while the next one runs; returns how many were made before a request
    to stop.
    """
    per_call = BATCHES_PER_CALL * pipe.rows()
    names, items = list(todo), list(todo.values())
    calls = alike(items, (None, options.get("height"), options.get("width")), per_call)
    done = 0
    with stop_requests() as stop, ThreadPoolExecutor(2) as writers:
        pending: list[Any] = []
        for (scale, height, width), places in calls:
            if stop.is_set():
                break
            given = {**options, "guidance": guard(scale), "height": height, "width": width}
            images = pipe(
                [items[i].prompt for i in places],
                seeds=[items[i].seed for i in places],
                noise=noise if isinstance(noise, str) else noise([items[i] for i in places]),
                **{key: value for key, value in given.items() if value is not None},
            )
            for task in pending:
                task.result()
            files = [folder / names[i] for i in places]
            pending = [writers.submit(_write, file, image) for file, image in zip(files, images, strict=True)]
            done += len(places)
            if progress is not None:
                progress.update(done)
        for task in pending:
            task.result()
    return done


def _write(path: Path, image: np.ndarray) -> None:
    write_atomic(path, png(image))


def _said(name: str, item: Item) -> dict[str, Any]:
    """What the lists of items in this folder say of one."""
    record = {"file_name": name, **item.record()}
    return record if item.objects else {key: value for key, value in record.items() if key != "objects"}


def _row(path: Path, item: Item, truncated: bool) -> dict[str, Any]:
    with Image.open(path, formats=["PNG"]) as image:
        low_high = image.convert("RGB").getextrema()
    # A constant image is what a NaN decodes to; nobody should count it as a picture of anything.
    constant = all(low == high for low, high in low_high)  # type: ignore[misc]
    return {**_said(path.name, item), "truncated": truncated, "constant": constant}


def _settings(
    pipe: Pipeline,
    wanted: Mapping[str, Item],
    guidance: Guidance,
    concept: Concept | None,
    size: Mapping[str, int | None],
) -> dict[str, Any]:
    """Everything that changes a pixel or a row, as JSON."""
    leaves = jax.tree_util.tree_leaves_with_path(guidance)
    numbers = {jax.tree_util.keystr(path, simple=True, separator="."): _number(leaf) for path, leaf in leaves}
    return {
        "schema": 1,
        "model": {"name": pipe.name, "model_id": pipe.model_id, "dtype": pipe.dtype.name},
        "scheduler": repr(pipe.scheduler),
        "unet_impl": pipe.unet_impl,
        "guidance": {"kind": str(jax.tree.structure(guidance)), "numbers": numbers},
        "negative": None if concept is None else _described(concept),
        "size": dict(size),
        "items": {"count": len(wanted), "hash": value_hash([_said(*each) for each in wanted.items()])},
        "versions": versions(),
    }


def _start(noise: NoiseMode | Latents) -> dict[str, str]:
    """What the items start from, where it is not JAX's own noise."""
    if isinstance(noise, Latents):
        return {"latents": noise.sha256}
    return {} if noise == "jax" else {"noise": noise}


def _number(leaf: Any) -> Any:
    """One number as it is, many by their hash."""
    value = np.asarray(leaf)
    return value_hash(value.tolist()) if value.ndim else value.item()


def _described(concept: Concept) -> dict[str, Any]:
    learned = [
        {"token": e.token, "space": e.space, "values": value_hash(np.asarray(e.vectors, np.float32).tolist())}
        for e in concept.embeddings
    ]
    return {
        "words": list(concept.words),
        "embeddings": learned,
        "template": concept.template,
        "blend": concept.blend,
    }


def _check_folder(folder: Path) -> None:
    """Check that `folder` is new, empty, or one that this command wrote."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file", "a folder", "choose another place")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if SETTINGS not in names and any(not name.startswith(".") for name in names):
        raise InputError(f"folder {folder} holds other files", "a new or empty folder", "choose another one")
