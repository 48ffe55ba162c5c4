"""The rows of a step that one device computes, and random numbers that belong to a row and not to its device.

The batch of step t is a pure function of (seed, t). Its rows lie over the devices in order; each device generates the
random numbers of its own and of no others, so that a step needs the memory of its own rows on every host, whatever the
number of hosts is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ine_jax.types import Array

_LOWEST = np.nextafter(np.float32(-1), np.float32(0))


@dataclass(frozen=True)
class Share:
    """Part `index` (from 0) of the `count` parts into which the rows of a step are cut: one for every device."""

    index: Array | int
    count: int

    def rows(self, total: int) -> tuple[Int[Array, "row"], Bool[Array, "row"]]:
        """Numbers of this part's rows, and which of them count.

        All parts have the same length, so the last ones may be padded: with row total - 1, which does not count there.
        """
        length = -(-total // self.count)
        numbers = jnp.int32(self.index) * length + jnp.arange(length, dtype=jnp.int32)
        return jnp.minimum(numbers, total - 1), numbers < total


ALL = Share(0, 1)


def normal_rows(key: Array, rows: Int[Array, "row"], shape: Sequence[int]) -> Float[Array, "row ..."]:
    """Rows of `jax.random.normal(key, (batch, *shape))`, float32, without generating the others.

    JAX's default generator numbers the elements of an array and encrypts each number with the key, so every element can
    be had alone. `fold_in` is that encryption (Threefry 2x32). The rest is `jax.random.normal`: the mantissa of a
    uniform number in (-1, 1), and the inverse of its distribution function.
    """
    size = math.prod(shape)
    number = rows.astype(jnp.uint32)[:, None] * np.uint32(size) + jnp.arange(size, dtype=jnp.uint32)[None]
    each = jax.vmap(jax.vmap(lambda n: jax.random.key_data(jax.random.fold_in(key, n))))(number)
    bits = (each[..., 0] ^ each[..., 1]) >> np.uint32(9) | np.float32(1).view(np.uint32)
    unit = jax.lax.bitcast_convert_type(bits, jnp.float32) - np.float32(1)
    uniform = jnp.maximum(_LOWEST, unit * (np.float32(1) - _LOWEST) + _LOWEST)
    return (np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)).reshape(len(rows), *shape)
