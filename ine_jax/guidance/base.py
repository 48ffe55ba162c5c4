"""The contract of a guard: how rows of network output become one prediction.

A guard is a small frozen pytree. Its scales are leaves, either one number or one per item ([batch]), so that another
scale never compiles again; how many network rows it needs is structure. The network call stays in the sampler:

    texts ─→ contexts [batch, branch, token, dim] ─→ network ─→ combine [batch, branch, h, w, c] ─→ ε [batch, h, w, c]

Nothing in a guard may look across the batch axis: the image of an item never depends on its neighbours.
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.types import Array, BranchContext, BranchLatents, Context, Latents

State: TypeAlias = Any  # a pytree of the guard's own; () where it remembers nothing
Scale: TypeAlias = float | Array | np.ndarray  # one number, or one per item: [batch]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Texts:
    """Encoded texts of a batch, each [batch, token, dim]; prepared once, outside the sampling loop.

    Attributes:
        prompt: what is asked for.
        uncond: the empty prompt.
        negative: what is to be avoided, as words or as a learned embedding, or None.
        safety: the concept of a safety guard, or None.
    """

    prompt: Context
    uncond: Context
    negative: Context | None = None
    safety: Context | None = None


class Guidance(Protocol):
    """One way of steering; all methods are pure and run inside `jit`, `vmap` and `scan`."""

    @property
    def branches(self) -> int:
        """Return the number of network rows per image and step; static."""

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the state before the first step, each leaf with a leading batch axis."""

    def contexts(self, texts: Texts, step: Array) -> BranchContext:
        """Return the text of every row at this step (the index of the network call)."""

    def combine(self, state: State, eps: BranchLatents, step: Array) -> tuple[Latents, State]:
        """Return the guided prediction, computed in float32 and given back in the dtype of `eps`, and the new state."""


def per_item(scale: Scale) -> Array:
    """Return a scale in float32 that multiplies [batch, h, w, c]: a scalar, or [batch, 1, 1, 1]."""
    value = jnp.asarray(scale, jnp.float32)
    return value if value.ndim == 0 else value.reshape(-1, 1, 1, 1)


def rows(*contexts: Context) -> BranchContext:
    """Return the contexts stacked as branches: [batch, branch, token, dim]."""
    return jnp.stack(contexts, axis=1)


def in_float32(eps: BranchLatents) -> list[Array]:
    """Return the branches of a prediction one by one, each [batch, h, w, c] in float32."""
    return [eps[:, branch].astype(jnp.float32) for branch in range(eps.shape[1])]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoGuidance:
    """The conditional prediction alone: ε = ε_c. One row."""

    @property
    def branches(self) -> int:
        """Return 1."""
        return 1

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the empty state."""
        return ()

    def contexts(self, texts: Texts, step: Array) -> BranchContext:
        """Return the prompt as the only row."""
        return rows(texts.prompt)

    def combine(self, state: State, eps: BranchLatents, step: Array) -> tuple[Latents, State]:
        """Return ε_c."""
        return eps[:, 0], state
