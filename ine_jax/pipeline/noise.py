"""Initial noise that belongs to the item, never to its place in a batch, on a device or in an order.

A `NoiseMode` chooses the random generator of the seeds: JAX's own, or that of `torch.randn` (`torch_noise`).
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt32

from ine_jax.config.checks import MAX_SEED
from ine_jax.config.methods import LatentsLayout, NoiseMode
from ine_jax.errors import InputError, InputTypeError
from ine_jax.pipeline.latents import as_noise
from ine_jax.pipeline.torch_noise import torch_noise
from ine_jax.types import AnyArray, HostArray, HostLatents, Latents, LatentShape

Seeds: TypeAlias = int | np.integer | Sequence[int] | np.ndarray


def item_seeds(seeds: Seeds, count: int) -> UInt32[np.ndarray, "count"]:
    """Return one seed per item; a single number s means s, s + 1, s + 2, ..."""
    given = range(int(seeds), int(seeds) + count) if isinstance(seeds, int | np.integer) else seeds
    if not isinstance(given, Iterable) or not all(isinstance(seed, int | np.integer) for seed in given):
        raise InputTypeError(f"seeds {seeds!r}", "a whole number, or several", "change seeds")
    values = [int(seed) for seed in given]
    if len(values) != count:
        raise InputError(f"{len(values)} seeds for {count} prompts", "one seed per prompt, or one number", "fix seeds")
    wrong = [v for v in values if not 0 <= v <= MAX_SEED]
    if wrong:
        raise InputError(f"seed {wrong[0]}", f"0 to {MAX_SEED}", "choose another seed")
    return np.asarray(values, np.uint32)


def item_noise(seeds: Seeds, shape: LatentShape, count: int | None = None) -> HostLatents:
    """Return standard normal noise; row i is `jax.random.normal(jax.random.key(seeds[i]), (h, w, c))`.

    Items are sampled one after the other by the same loop body, so every bit of row i depends on its seed alone.
    """
    if count is None:
        count = 1 if isinstance(seeds, int | np.integer) else len(seeds)
    return np.asarray(random_normal(item_seeds(seeds, count), shape))


@partial(jax.jit, static_argnames="shape")
def random_normal(seeds: UInt32[AnyArray, "batch"], shape: LatentShape) -> Latents:
    """Return the noise of `item_noise`, on the device."""
    noise: Latents = jax.lax.map(lambda seed: jax.random.normal(jax.random.key(seed), shape, jnp.float32), seeds)
    return noise


def starts_of(
    noise: NoiseMode | HostArray, seeds: Seeds, count: int, shape: LatentShape, layout: LatentsLayout = "NHWC"
) -> UInt32[np.ndarray, "count"] | HostLatents:
    """Return the start of sampling: the seeds where the device samples the noise, else the noise itself.

    Raises:
        InputError: wrong seeds, an array of another shape, an unknown mode, or torch-cuda noise whose order depends on
            the GPU.
    """
    if not isinstance(noise, str):
        if np.shape(noise)[:1] != (count,):
            raise InputError(f"noise of shape {np.shape(noise)}", f"{count} rows", "give one row per prompt")
        return as_noise(np.asarray(noise), shape, layout)
    starts = item_seeds(seeds, count)
    match noise:
        case "jax":
            return starts
        case "torch-cpu":
            return torch_noise("cpu", starts, shape)
        case "torch-cuda":
            return torch_noise("cuda", starts, shape)
        case _:
            raise InputError(f"noise {noise!r}", "jax, torch-cpu, torch-cuda, or an array", "change noise")
