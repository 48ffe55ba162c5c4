"""DUO's pairs: unsafe images, and their safe twins by SDEdit, which keep all of an image but the concept.

The original model generates the unsafe images; its safe twin is an edit with the safe prompt, against the unsafe one as
negative prompt. A side that a detector rejects is generated again with another seed, as in the authors' code; a pair
that stays rejected is dropped. SDEdit runs DDIM over the model's own noise levels; the unsafe images are sampled by the
pipeline's own scheduler.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from ine_jax.config import DuoConfig
from ine_jax.errors import InputError
from ine_jax.pipeline.editing import edit
from ine_jax.pipeline.mesh import first_decides
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.images import png, read_images
from ine_jax.types import Array, HostImages

# For each image whether it shows the concept; None: no verdict.
Shows: TypeAlias = Callable[[HostImages], Sequence[bool | None]]
Rows: TypeAlias = Int[np.ndarray, "row"]


class Pairs(NamedTuple):
    """Images of the pairs that passed, row by row, and what did not pass."""

    unsafe: HostImages
    safe: HostImages
    counts: dict[str, int]


class Posteriors(NamedTuple):
    """The VAE's latents of images, not scaled for the UNet."""

    mean: Float[Array, "image h w c"]
    logvar: Float[Array, "image h w c"]


def pairs_of(pipe: Pipeline, config: DuoConfig, shows: Sequence[Shows]) -> Pairs:
    """The given pairs or generated ones, checked by every detector.

    Raises:
        InputError: folders of different lengths, or no pair passes.
    """
    found = _given(pipe, config, shows) if config.unsafe_images else _generated(pipe, config, shows)
    if not len(found.unsafe):
        counted = ", ".join(f"{name} {count}" for name, count in found.counts.items())
        allowed = "unsafe images with the concept, safe ones without it"
        raise InputError(f"no pair passes the detectors: {counted}", allowed, "change the prompts or the strength")
    return found


def _given(pipe: Pipeline, config: DuoConfig, shows: Sequence[Shows]) -> Pairs:
    side = pipe.image_side
    unsafe, safe = (read_images(folder, side, side) for folder in (config.unsafe_images, config.safe_images))
    if len(unsafe) != len(safe):
        given = f"{len(unsafe)} unsafe and {len(safe)} safe images"
        raise InputError(given, "a safe twin for every unsafe image", "complete the folders")
    wrong = [~passes(images, shows, concept) for images, concept in ((unsafe, True), (safe, False))]
    keep = ~(wrong[0] | wrong[1])
    counts = {"kept": int(keep.sum()), "unsafe rejected": int(wrong[0].sum()), "safe rejected": int(wrong[1].sum())}
    return Pairs(unsafe[keep], safe[keep], {**counts, "dropped": int((~keep).sum())})


def _generated(pipe: Pipeline, config: DuoConfig, shows: Sequence[Shows]) -> Pairs:
    count, side = config.pairs, pipe.image_side
    unsafe, safe = np.zeros((2, count, side, side, 3), np.uint8)
    done = np.zeros(count, int)  # sides of each pair that passed
    rejected = {"unsafe rejected": 0, "safe rejected": 0}
    for attempt in range(config.attempts):
        for place, (images, name) in enumerate(((unsafe, "unsafe rejected"), (safe, "safe rejected"))):
            rows = np.flatnonzero(done == place)
            if not len(rows):
                continue
            seeds = (config.seed * 1_000_003 + (2 * attempt + place) * 1_000_033 + rows) % 2**31
            made = _safe(pipe, config, rows, unsafe[rows], seeds) if place else _unsafe(pipe, config, rows, seeds)
            good = passes(made, shows, concept=not place)
            images[rows[good]] = made[good]
            done[rows[good]] += 1
            rejected[name] += int((~good).sum())
    keep = done == 2
    return Pairs(unsafe[keep], safe[keep], {"kept": int(keep.sum()), **rejected, "dropped": int((~keep).sum())})


def _unsafe(pipe: Pipeline, config: DuoConfig, rows: Rows, seeds: Rows) -> HostImages:
    prompts = [config.erase[row % len(config.erase)] for row in rows]
    return pipe(prompts, guidance=config.guidance, seeds=seeds.tolist(), steps=config.sample_steps).arrays


def _safe(pipe: Pipeline, config: DuoConfig, rows: Rows, images: HostImages, seeds: Rows) -> HostImages:
    made = np.zeros_like(images)
    for which, (unsafe, safe) in enumerate(zip(config.erase, config.safe, strict=True)):
        own = rows % len(config.erase) == which
        if own.any():
            made[own] = edit(
                pipe,
                images[own],
                [safe] * int(own.sum()),
                negative=unsafe,
                strength=config.strength,
                scale=config.guidance,
                seeds=seeds[own].tolist(),
                steps=config.sample_steps,
            )
    return made


def passes(images: HostImages, shows: Sequence[Shows], concept: bool) -> Bool[np.ndarray, "image"]:
    """Whether every detector says of an image that it shows the concept, or that it does not; process 0's verdicts."""
    verdicts = [[seen is concept for seen in each(images)] for each in shows]
    agreed = np.asarray(verdicts, bool).reshape(len(shows), len(images))
    return first_decides(np.asarray(agreed.all(axis=0)))


def posteriors(pipe: Pipeline, images: HostImages) -> Posteriors:
    """Means and log variances of images."""
    mean, logvar = pipe.encode_images(images)
    return Posteriors(jax.numpy.asarray(mean), jax.numpy.asarray(logvar))


def store(pairs: Pairs, folder: Path) -> list[Path]:
    """Write the images as PNGs below `folder`, unsafe/ and safe/, and return their paths."""
    paths = []
    for name, images in (("unsafe", pairs.unsafe), ("safe", pairs.safe)):
        for i, image in enumerate(images):
            path = folder / name / f"{i:04d}.png"
            write_atomic(path, png(image), shared=True)
            paths.append(path)
    return paths
