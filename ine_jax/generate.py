"""``ine generate``: prompts to PNGs and a ``metadata.jsonl`` that Hugging Face's ImageFolder reads.

A folder belongs to one set of settings, kept in ``.generate.json``. The same command continues it: images that are
complete stay, and since an image depends on its own prompt and seed alone, what is made later equals what would have
been made at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from ine_jax import guards, storage
from ine_jax.config import GenerateConfig
from ine_jax.errors import InputError, Interrupted
from ine_jax.guidance import Guidance
from ine_jax.negatives import Concept
from ine_jax.pipeline import Pipeline, load
from ine_jax.progress import Progress
from ine_jax.prompts import Item, Row, items, read_prompts
from ine_jax.provenance import difference, value_hash, versions
from ine_jax.stopping import stop_requests

SETTINGS = ".generate.json"
METADATA = "metadata.jsonl"
BATCHES_PER_CALL = 4
_Record = Callable[[Item, np.ndarray], None]


@dataclass(frozen=True)
class Generated:
    """What a run did: images made now and found complete, prompts cut to fit, and seconds per image made (None for
    none).
    """

    out: str
    made: int
    found: int
    truncated: int
    seconds_per_image: float | None


def generate(config: GenerateConfig, progress: Progress | None = None) -> Generated:
    """Make every image that ``config`` asks for and that its folder does not hold yet.

    Raises ``InputError`` for prompts, model, embedding or folder that do not fit, before anything is written;
    ``Interrupted`` when asked to stop, with all finished images kept.
    """
    wanted = wanted_items(config)
    concept = guards.concept(config.negative)
    pipe = load(
        config.model,
        revision=config.revision,
        unlearned=config.unlearned,
        scheduler=config.sampler.scheduler,
        batch_size=config.sampler.batch,
        unet_impl=config.sampler.unet_impl,
    )
    guidance = guards.guidance(config.guidance, concept is not None, pipe)
    size = {"steps": config.sampler.steps, "height": config.sampler.height, "width": config.sampler.width}
    return write_images(
        pipe,
        wanted,
        config.out,
        guidance=guidance,
        concept=concept,
        size=size,
        progress=progress,
    )


def wanted_items(config: GenerateConfig) -> list[Item]:
    """Every image that ``config`` asks for, in order; raises ``InputError`` for no prompts or a prompt file that is
    wrong.
    """
    rows = read_prompts(config.prompts_file) if config.prompts_file else [Row(prompt) for prompt in config.prompts]
    if not rows:
        raise InputError("no prompts", "prompts, or prompts_file", "give at least one prompt")
    return items(rows, config.seed, config.per_prompt)


def write_images(
    pipe: Pipeline,
    wanted: Sequence[Item],
    out: str | Path,
    *,
    guidance: Guidance,
    concept: Concept | None = None,
    size: Mapping[str, int | None] | None = None,
    progress: Progress | None = None,
) -> Generated:
    """Write the PNG of every item into ``out`` (mode 0700), then ``metadata.jsonl`` in the order of the items.

    ``concept`` is what is to be avoided; ``size`` holds steps, height and width. Both as :class:`Pipeline` takes
    them. Errors as for :func:`generate`.
    """
    folder = Path(out)
    settings = _settings(pipe, wanted, guidance, concept, size or {})
    _check_settings(folder, settings)
    cut = pipe.tokenizer.truncated([item.prompt for item in wanted])
    with storage.lock(folder, "generate"):
        storage.write_atomic(folder / SETTINGS, json.dumps(settings, indent=1, sort_keys=True))
        todo = [item for item in wanted if not complete(folder / item.file_name)]
        begun = time.perf_counter()
        try:
            options = {"guidance": guidance, "negative": concept, **(size or {})}
            made = _make(pipe, todo, folder, options, progress)
        finally:
            done = [(item, c) for item, c in zip(wanted, cut, strict=True) if (folder / item.file_name).is_file()]
            storage.write_atomic(folder / METADATA, storage.jsonl([_row(item, c, folder) for item, c in done]))
        seconds = time.perf_counter() - begun
    if made < len(todo):
        raise Interrupted(f"stopped after {len(done)} of {len(wanted)} images", todo="the same command continues")
    return Generated(str(folder), made, len(wanted) - len(todo), sum(cut), seconds / made if made else None)


def complete(path: Path) -> bool:
    """Whether the file is a PNG that decodes to its end."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
        return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _make(
    pipe: Pipeline,
    todo: Sequence[Item],
    folder: Path,
    options: Mapping[str, Any],
    progress: Progress | None,
) -> int:
    """Make the images, writing those of one call while the next one runs; returns how many were made before a request
    to stop.
    """
    per_call = BATCHES_PER_CALL * pipe.rows()
    given = {key: value for key, value in options.items() if value is not None}
    done = 0
    with stop_requests() as stop, ThreadPoolExecutor(2) as writers:
        pending: list[Any] = []
        for first in range(0, len(todo), per_call):
            if stop.is_set():
                break
            part = todo[first : first + per_call]
            prompts, seeds = [item.prompt for item in part], [item.seed for item in part]
            images = pipe(prompts, seeds=seeds, **given)
            for task in pending:
                task.result()
            names = [folder / item.file_name for item in part]
            pending = [writers.submit(_write, n, i) for n, i in zip(names, images, strict=True)]
            done += len(part)
            if progress is not None:
                progress.update(done)
        for task in pending:
            task.result()
    return done


def _write(path: Path, image: np.ndarray) -> None:
    storage.write_atomic(path, storage.png(image))


def _row(item: Item, truncated: bool, folder: Path) -> dict[str, Any]:
    with Image.open(folder / item.file_name, formats=["PNG"]) as image:
        low_high = image.convert("RGB").getextrema()
    # A constant image is what a NaN decodes to; nobody should count it as a picture of anything.
    constant = all(low == high for low, high in low_high)  # type: ignore[misc]
    return {**asdict(item), "truncated": truncated, "constant": constant}


def _settings(
    pipe: Pipeline,
    wanted: Sequence[Item],
    guidance: Guidance,
    concept: Concept | None,
    size: Mapping[str, int | None],
) -> dict[str, Any]:
    """Everything that changes a pixel or a row, as JSON."""
    leaves = jax.tree_util.tree_leaves_with_path(guidance)
    numbers = {jax.tree_util.keystr(path, simple=True, separator="."): _number(leaf) for path, leaf in leaves}
    return {
        "schema": 1,
        "model": {"name": pipe.name, "weights": value_hash(dict(pipe.parts.hashes)), "dtype": pipe.dtype.name},
        "scheduler": repr(pipe.scheduler),
        "unet_impl": pipe.unet_impl,
        "guidance": {"kind": str(jax.tree.structure(guidance)), "numbers": numbers},
        "negative": None if concept is None else _described(concept),
        "size": dict(size),
        "items": {"count": len(wanted), "hash": value_hash([asdict(item) for item in wanted])},
        "versions": versions(),
    }


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


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file", "a folder", "choose another place")
    kept = folder / SETTINGS
    if kept.is_file():
        try:
            before = json.loads(kept.read_text("utf-8"))
        except ValueError as error:
            raise InputError(f"{kept} is damaged", "a folder that this command wrote", "choose another one") from error
        changed = difference(before, json.loads(json.dumps(settings)))
        if changed:
            raise InputError(
                f"{folder} was made with other settings: {'; '.join(changed)}", "the same", "choose another folder"
            )
    elif folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"folder {folder} holds other files", "a new or empty folder", "choose another one")
