"""Initial noise that belongs to the item, never to its place in a batch, on a device or in an order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.checks import MAX_SEED
from ine_jax.errors import InputError
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
