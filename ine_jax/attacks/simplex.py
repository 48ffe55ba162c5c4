"""Tokens as points of the vocabulary's simplex (UnlearnDiffAtk, arXiv 2310.11868): one is sampled, weights learn."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ine_jax.types import Array, Step

HALVINGS = 40  # of an interval of at most 2, in float32


@jax.custom_vjp
def sampled(
    weights: Float[Array, "*some word"], choice: Int[Array, "*some"], table: Float[Array, "word dim"]
) -> Float[Array, "*some dim"]:
    """Return the table's rows of the sampled words.

    Straight through: the gradient is that of weights @ table, each number of it clipped to [-1, 1] as by a hardtanh.
    """
    return table[choice]


def _forward(
    weights: Float[Array, "*some word"], choice: Int[Array, "*some"], table: Float[Array, "word dim"]
) -> tuple[Float[Array, "*some dim"], Float[Array, "word dim"]]:
    return table[choice], table


def _backward(
    table: Float[Array, "word dim"], gradient: Float[Array, "*some dim"]
) -> tuple[Float[Array, "*some word"], None, None]:
    return jnp.clip(gradient @ table.T, -1.0, 1.0), None, None


sampled.defvjp(_forward, _backward)


def project(weights: Float[Array, "*some word"]) -> Float[Array, "*some word"]:
    """Return the nearest point of the simplex: clip(w - μ, 0, 1) with μ such that the sum is 1, found by bisection.

    Where clip(w, 0, 1) has that sum already, to 1e-5, it is the result, as in the authors' code, which stops the
    bisection at an interval of 1e-5; here it goes on to the precision of float32.
    """
    clipped = jnp.clip(weights, 0.0, 1.0)

    def halve(_: Step, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        above = jnp.clip(weights - middle, 0.0, 1.0).sum(axis=-1, keepdims=True) > 1.0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    bounds = weights.min(axis=-1, keepdims=True) - 1.0, weights.max(axis=-1, keepdims=True)
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, bounds)
    kept = jnp.abs(clipped.sum(axis=-1, keepdims=True) - 1.0) <= 1e-5
    return jnp.where(kept, clipped, jnp.clip(weights - 0.5 * (low + high), 0.0, 1.0))
