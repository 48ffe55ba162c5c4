"""Initial noise that belongs to the item, never to its place in a batch, on a device or in an order.

``NoiseMode`` says what numbers a seed means: JAX's own, or those of ``torch.randn`` (:mod:`.torch_noise`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.config.checks import MAX_SEED
from ine_jax.config.methods import NoiseMode
from ine_jax.errors import InputError
from ine_jax.pipeline.latents import as_noise
from ine_jax.pipeline.torch_noise import torch_noise
from ine_jax.types import Array


def item_seeds(seeds: int | Sequence[int], count: int) -> np.ndarray:
    """One seed per item, uint32 ``[count]``; a single number s means s, s + 1, s + 2, ...

    Raises ``InputError`` for a wrong number of seeds or one outside 0 ... 2^32 - 1.
    """
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        values = [int(seeds) + i for i in range(count)]
    else:
        values = [int(s) for s in seeds]  # type: ignore[union-attr]
    if len(values) != count:
        raise InputError(f"{len(values)} seeds for {count} prompts", "one seed per prompt, or one number", "mend seeds")
    wrong = [v for v in values if not 0 <= v <= MAX_SEED]
    if wrong:
        raise InputError(f"seed {wrong[0]}", f"0 to {MAX_SEED}", "choose another seed")
    return np.asarray(values, np.uint32)


def item_noise(seeds: int | Sequence[int], shape: tuple[int, int, int], count: int | None = None) -> np.ndarray:
    """Standard normal noise float32 ``[B, h, w, c]``; row i is ``jax.random.normal(jax.random.key(seeds[i]), (h, w,
    c))``.

    Items are drawn one after the other by the same loop body, so that every bit of row i depends on its seed alone.
    """
    if count is None:
        count = 1 if isinstance(seeds, int | np.integer) else len(seeds)
    return np.asarray(draw(item_seeds(seeds, count), shape))


@partial(jax.jit, static_argnames="shape")
def draw(seeds: Array | np.ndarray, shape: tuple[int, int, int]) -> Array:
    """The noise of :func:`item_noise` for uint32 seeds ``[B]``, left on the device."""
    return jax.lax.map(lambda seed: jax.random.normal(jax.random.key(seed), shape, jnp.float32), seeds)


def starts_of(
    noise: NoiseMode | np.ndarray, seeds: int | Sequence[int], count: int, shape: tuple[int, int, int]
) -> np.ndarray:
    """What sampling starts from: the seeds, uint32 ``[B]``, where the device draws the noise, else the noise, float32
    ``[B, h, w, c]``.

    Raises ``InputError`` for wrong seeds, an array that is not ``[B, h, w, c]`` or ``[B, c, h, w]``, an unknown mode,
    and torch-cuda noise whose layout depends on the GPU.
    """
    if not isinstance(noise, str):
        if np.shape(noise)[:1] != (count,):
            raise InputError(f"noise of shape {np.shape(noise)}", f"{count} rows", "give one row per prompt")
        return as_noise(np.asarray(noise), shape)
    starts = item_seeds(seeds, count)
    match noise:
        case "jax":
            return starts
        case "torch-cpu":
            return torch_noise("cpu", starts, shape)
        case "torch-cuda":
            return torch_noise("cuda", starts, shape)
        case _:
            raise InputError(f"noise {noise!r}", "jax, torch-cpu, torch-cuda, or an array", "mend noise")
