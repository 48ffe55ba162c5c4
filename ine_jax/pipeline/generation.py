"""Prompts to a folder of PNGs with a `metadata.jsonl` that Hugging Face's ImageFolder reads.

A folder belongs to one set of settings, kept in `.generate.json`. The same settings continue it: complete images stay,
and since an image depends on its own prompt and seed alone, the result is that of one uninterrupted run.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Semaphore
from typing import TypeAlias

import jax
import numpy as np

from ine_jax import prompts as benchmarks
from ine_jax.config import GenerateConfig
from ine_jax.config.methods import NoiseMode
from ine_jax.errors import InputError, Interrupted
from ine_jax.guidance import Guidance
from ine_jax.guidance import from_config as guards
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline import from_config
from ine_jax.pipeline.bound import Bound
from ine_jax.pipeline.checking import check_call
from ine_jax.pipeline.latents import Latents
from ine_jax.pipeline.packed import PackedSampler, group_of
from ine_jax.pipeline.packing import Group, Pump
from ine_jax.pipeline.pipeline import STEPS, Pipeline
from ine_jax.progress import GRACE, Progress, note, note_stored, stop_requests
from ine_jax.prompts import PromptSet
from ine_jax.prompts.items import Item, alike, named, own_settings
from ine_jax.storage.atomic import clear, lock, write_atomic
from ine_jax.storage.binding import bind, require_free, usable_folder
from ine_jax.storage.images import complete, png, read_image
from ine_jax.storage.pool import WAITING, Pool
from ine_jax.storage.provenance import value_hash, versions
from ine_jax.storage.sealed import jsonl
from ine_jax.types import Scale

SETTINGS = ".generate.json"
Size: TypeAlias = Mapping[str, int | None]  # steps, height, width
METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Generated:
    """Images `made` now, and `found` complete before.

    `truncated` are prompts longer than the text encoder reads, `seconds_per_image` is of those made now.
    """

    out: str
    made: int
    found: int
    truncated: int
    seconds_per_image: float | None


@dataclass(frozen=True)
class Prepared:
    """A complete plan: nothing that the user gave can stop it any more. `out` is the folder that it writes."""

    pipe: Pipeline
    asked: PromptSet
    wanted: Mapping[str, Item]
    concept: Concept | None
    guard: Callable[[float], Guidance]
    size: Size
    noise: NoiseMode | Latents
    out: Path


def prepare(config: GenerateConfig) -> Prepared:
    """Read prompts, model, embeddings and images; InputError where they do not fit together or to the folder."""
    asked = prompt_list(config)
    concept, sampler = guards.concept(config.negative), config.sampler
    if config.out != GenerateConfig.out:
        require_free(Path(config.out), SETTINGS)
    wanted = named(asked.items, config.per_prompt)
    items, usual = list(wanted.values()), config.guidance.scale
    noise = Latents(sampler.latents, items, sampler.latents_layout) if sampler.latents else sampler.noise
    pipe = from_config.pipeline(config.model, config.revision, sampler, config.unlearned)

    @functools.cache
    def scaled(scale: float) -> Guidance:
        return guards.guidance(dataclasses.replace(config.guidance, scale=scale), concept is not None, pipe)

    latents = noise if isinstance(noise, Latents) else None
    for (scale, height, width), places in alike(items, (usual, sampler.height, sampler.width)):
        guard, group = scaled(usual if scale is None else scale), [items[i] for i in places]
        check_call(pipe, guard, concept, group, latents, steps=sampler.steps, height=height, width=width)
    size = {"steps": sampler.steps, "height": sampler.height, "width": sampler.width}
    settings = _settings(pipe, wanted, scaled(usual), concept, size) | _start(noise)
    out = usable_folder(config.out, settings, SETTINGS, numbered=config.out == GenerateConfig.out)
    return Prepared(pipe, asked, wanted, concept, scaled, size, noise, out)


def generate(config: GenerateConfig, progress: Progress | None = None) -> Generated:
    """Generate the images of a config that its folder does not hold yet; first print how its prompt file was read."""
    ready = prepare(config)
    if ready.asked.reading:
        note(ready.asked.reading.line())
    return write_images(
        ready.pipe,
        ready.wanted,
        ready.out,
        guidance=ready.guard(config.guidance.scale),
        concept=ready.concept,
        size=ready.size,
        progress=progress,
        scaled=ready.guard,
        noise=ready.noise,
    )


def prompt_list(config: GenerateConfig) -> PromptSet:
    """Return the prompts of a config or of its prompt file."""
    if config.prompts_file:
        return benchmarks.load(config.prompts_file, seed=config.seed, stride=config.per_prompt)
    if not config.prompts:
        raise InputError("no prompts", "prompts, or prompts_file", "give at least one prompt")
    starts = range(config.seed, config.seed + len(config.prompts) * config.per_prompt, config.per_prompt)
    return PromptSet(tuple(Item(str(i), p, s) for i, (p, s) in enumerate(zip(config.prompts, starts, strict=True))))


def wanted_items(config: GenerateConfig) -> dict[str, Item]:
    """Return file name -> item for every image of a config, in order; raises as `prompt_list` does."""
    return named(prompt_list(config).items, config.per_prompt)


def write_images(
    pipe: Pipeline,
    wanted: Mapping[str, Item],
    out: str | Path,
    *,
    guidance: Guidance,
    concept: Concept | None = None,
    size: Size | None = None,
    progress: Progress | None = None,
    scaled: Callable[[float], Guidance] | None = None,
    noise: NoiseMode | Latents = "jax",
) -> Generated:
    """Write the PNG of every item (file name -> item) into a folder (mode 0700), then `metadata.jsonl` in their order.

    Args:
        scaled: returns the guard at the guidance scale of an item that has its own.
        noise: the random generator of the seeds, or a file of initial latents.

    Raises:
        InputError: the folder has other settings or other files.
        Interrupted: a stop was requested; all finished images are kept.
    """
    folder = Path(out)
    settings = _settings(pipe, wanted, guidance, concept, size or {}) | _start(noise)
    require_free(folder, SETTINGS)
    cut = dict(zip(wanted, pipe.tokenizer.truncated([item.prompt for item in wanted.values()]), strict=True))
    with lock(folder):
        clear(folder, alone=True)
        bind(folder, settings, SETTINGS)
        numbered = (_Wanted(i, folder / name, item) for i, (name, item) in enumerate(wanted.items()))
        todo = [each for each in numbered if not complete(each.path)]
        note_stored(folder, len(wanted) - len(todo), len(wanted))
        begun = time.perf_counter()
        try:
            guard = functools.partial(_guard, guidance, scaled)
            made = _make(pipe, todo, guard, concept, size or {}, noise, progress)
        except Interrupted:
            _write_metadata(folder, wanted, cut)
            raise
        _write_metadata(folder, wanted, cut)
        seconds = time.perf_counter() - begun
    return Generated(str(folder), made, len(wanted) - len(todo), sum(cut.values()), seconds / made if made else None)


def _guard(usual: Guidance, scaled: Callable[[float], Guidance] | None, scale: float | None) -> Guidance:
    """Return the guard of items with this guidance scale; None is the usual one."""
    if scale is None:
        return usual
    if scaled is None:
        raise InputError(f"an item with guidance scale {scale}", "items without one", "give `scaled` as well")
    return scaled(scale)


@dataclass(frozen=True)
class _Wanted:
    number: int  # among all images of the folder
    path: Path
    item: Item


def _make(
    pipe: Pipeline,
    todo: Sequence[_Wanted],
    guard: Callable[[float | None], Guidance],
    concept: Concept | None,
    size: Size,
    noise: NoiseMode | Latents,
    progress: Progress | None,
) -> int:
    """Generate the images in full batches, writing those of one batch while the next one runs; return how many."""
    sampler, usual, room = PackedSampler(pipe), (None, size.get("height"), size.get("width")), Semaphore(WAITING)

    @functools.cache
    def bound(scale: float | None, height: int | None, width: int | None) -> Bound:
        steps = size.get("steps")
        shape = pipe.latent_shape(height, width)
        return sampler.bind(guard(scale), concept, shape, STEPS if steps is None else steps)

    def group(wanted: _Wanted) -> Group:
        return group_of(bound(*own_settings(wanted.item, usual)), wanted.number // pipe.rows())

    def start(rows: Sequence[_Wanted]) -> Callable[[], Sequence[np.ndarray]]:
        items, numbers = [row.item for row in rows], [row.number for row in rows]
        running, _ = sampler.begin([bound(*own_settings(item, usual)) for item in items], items, numbers, noise)
        return lambda: list(running.fetch()[1])

    def take(wanted: _Wanted, image: np.ndarray, _: float) -> None:
        writers.submit(room, lambda: write_atomic(wanted.path, png(image)))

    with stop_requests(GRACE) as stop:
        with Pool() as writers:
            pump = Pump(lambda: sampler.size, group, start, take, stop, progress)
            for wanted in todo:
                if pump.stopped():
                    break
                pump.add(wanted)
            pump.drain()
        if pump.done < len(todo):
            raise Interrupted(f"stopped with {len(todo) - pump.done} images to go", todo="the same command continues")
    return pump.done


def _record(name: str, item: Item) -> dict[str, object]:
    """Return an item as `metadata.jsonl` and the settings store it."""
    record: dict[str, object] = {"file_name": name, **item.record()}
    return record if item.objects else {key: value for key, value in record.items() if key != "objects"}


def _write_metadata(folder: Path, wanted: Mapping[str, Item], cut: Mapping[str, bool]) -> None:
    done = [name for name in wanted if (folder / name).is_file()]
    write_atomic(folder / METADATA, jsonl([_row(folder / name, wanted[name], cut[name]) for name in done]))


def _row(path: Path, item: Item, truncated: bool) -> dict[str, object]:
    pixels = read_image(path)
    # A NaN decodes to a constant image, which must not count as an image of anything.
    constant = bool((pixels == pixels[:1, :1]).all())
    return {**_record(path.name, item), "truncated": truncated, "constant": constant}


def _settings(
    pipe: Pipeline, wanted: Mapping[str, Item], guidance: Guidance, concept: Concept | None, size: Size
) -> dict[str, object]:
    """Return everything that changes a pixel or a row, as JSON."""
    leaves = jax.tree_util.tree_leaves_with_path(guidance)
    numbers = {jax.tree_util.keystr(path, simple=True, separator="."): _number(leaf) for path, leaf in leaves}
    return {
        "schema": 1,
        "model": {"name": pipe.name, "model_id": pipe.model_id, "dtype": pipe.dtype.name},
        "scheduler": repr(pipe.scheduler),
        "unet_impl": pipe.unet_impl,
        "guidance": {"kind": str(jax.tree.structure(guidance)), "numbers": numbers},
        "negative": None if concept is None else concept.record(),
        "size": dict(size),
        "items": {"count": len(wanted), "hash": value_hash([_record(*each) for each in wanted.items()])},
        "versions": versions(),
    }


def _start(noise: NoiseMode | Latents) -> dict[str, str]:
    """Return the source of the initial noise where it is not JAX's."""
    if isinstance(noise, Latents):
        return {"latents": noise.identity}
    return {} if noise == "jax" else {"noise": noise}


def _number(leaf: Scale) -> float | str:
    """Return one number as it is, and several as their hash."""
    value = np.asarray(leaf)
    return value_hash(value.tolist()) if value.ndim else value.item()
