"""Negative guidance that acts where the prompt points towards the concept; this project's own method."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ine_jax.errors import InputError
from ine_jax.guidance.base import Moment, State, Texts, ThreeRows, in_float32, per_item
from ine_jax.types import STATIC, Array, BranchLatents, Latents, Scale

_TINY = 1e-12


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gated(ThreeRows):
    """ε = ε_u + w (ε_c - ε_u) - s g (ε_n - ε_u), three rows: unconditional, prompt, negative.

    The gate g opens with the angle between the directions of prompt and concept,

        m ← β m + (1 - β) cos(ε_c - ε_u, ε_n - ε_u);  m̂ = m / (1 - β^n);  g = clip((m̂ - low) / (high - low), 0, 1)

    with n the steps so far (the bias correction of a mean that starts at 0, arXiv 1412.6980, section 3). The cosine is
    one number per item, over the whole latents, or one per latent cell, over the square `window` around it: then only
    the part of the image that shows the concept is steered. Prompts unrelated to the concept are not changed, so safety
    costs them nothing. Where high ≤ low the gate is a step at low. At low = high = -1 this is `Negative`.

    Attributes:
        scale: w, the guidance scale.
        negative_scale: s, the negative scale where the gate is open.
        low: cosine up to which the gate is closed.
        high: cosine from which it is open.
        momentum: β, the weight of earlier steps' evidence; 0 uses the present step alone.
        window: side of the square in latent cells, odd; 0 is the whole latents; static.

    Raises:
        InputError: a window that is even (but 0) or negative.
    """

    scale: Scale = 7.5
    negative_scale: Scale = 6.5
    low: Scale = 0.0
    high: Scale = 0.5
    momentum: Scale = 0.0
    window: int = field(default=0, metadata=STATIC)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window and (self.window < 0 or self.window % 2 == 0):
            raise InputError(f"window {self.window}", "0, or an odd number of cells", "3 or 5 are usual")

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return (m, β^n) at the start: zeros [batch, h, w, 1], or [batch, 1, 1, 1] without a window, and ones."""
        super().init(texts, latents)
        places = (1, 1) if self.window == 0 else latents.shape[1:3]
        each = (latents.shape[0], 1, 1, 1)
        return jnp.zeros((latents.shape[0], *places, 1), jnp.float32), jnp.ones(each, jnp.float32)

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return ε_u + w (ε_c - ε_u) - s g (ε_n - ε_u) and the new (m, β^n)."""
        uncond, prompt, negative = in_float32(eps)
        toward, away = prompt - uncond, negative - uncond
        mean, kept = state
        beta = per_item(self.momentum)
        mean, kept = beta * mean + (1.0 - beta) * _cosine(toward, away, self.window), beta * kept
        low, high = per_item(self.low), per_item(self.high)
        evidence = mean / jnp.maximum(1.0 - kept, _TINY)
        ramp = (evidence - low) / jnp.where(high > low, high - low, 1.0)
        gate = jnp.where(high > low, jnp.clip(ramp, 0.0, 1.0), (evidence >= low).astype(jnp.float32))
        guided = uncond + per_item(self.scale) * toward - per_item(self.negative_scale) * gate * away
        return guided.astype(eps.dtype), (mean, kept)


def _cosine(a: Latents, b: Latents, window: int) -> Float[Array, "batch rows columns 1"]:
    """Return each item's cosine [batch, 1, 1, 1], or with a window [batch, h, w, 1]; 0 for a zero vector."""
    products = [jnp.sum(x * y, axis=-1, keepdims=True) for x, y in ((a, b), (a, a), (b, b))]
    if window == 0:
        inner, first, second = (jnp.sum(each, (1, 2), keepdims=True) for each in products)
    else:
        shape = (1, window, window, 1)
        inner, first, second = (jax.lax.reduce_window(p, 0.0, jax.lax.add, shape, (1,) * 4, "SAME") for p in products)
    return inner / jnp.maximum(jnp.sqrt(first * second), _TINY)
