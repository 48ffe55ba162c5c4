"""Negative guidance that acts as far as the prompt heads for the concept; this project's own."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from ine_jax.guidance.base import Moment, Scale, State, Texts, in_float32, per_item, rows
from ine_jax.guidance.negative import required_negative
from ine_jax.types import Array, BranchContext, BranchLatents, Latents

_TINY = 1e-12


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gated:
    """ε = ε_u + w (ε_c - ε_u) - s g (ε_n - ε_u), three rows: unconditional, prompt, negative.

    The gate g opens with the angle between the directions of prompt and concept,

        m ← β m + (1 - β) cos(ε_c - ε_u, ε_n - ε_u);  m̂ = m / (1 - β^n);  g = clip((m̂ - low) / (high - low), 0, 1)

    with one cosine for each item and step, over the whole latents, and n the steps so far (the correction of a mean
    that starts at 0, arXiv 1412.6980, section 3). A prompt that has nothing to do with the concept is left alone, so
    that safety costs it nothing. Where high ≤ low the gate is a step at low. At low = high = -1 this is `Negative`.

    Attributes:
        scale: w, the guidance scale.
        negative_scale: s, the negative's own scale where the gate is open.
        low: cosine up to which the gate is shut.
        high: cosine from which it is open.
        momentum: β, how much of the earlier steps' evidence is kept; 0 looks at the present step alone.
    """

    scale: Scale = 7.5
    negative_scale: Scale = 6.5
    low: Scale = 0.0
    high: Scale = 0.5
    momentum: Scale = 0.0

    needs_negative: ClassVar[bool] = True

    @property
    def branches(self) -> int:
        """Return 3."""
        return 3

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return (m, β^n) before the first step: 0 and 1 for every item, float32 [batch, 1, 1, 1] each.

        Raises:
            InputError: the texts hold no negative.
        """
        required_negative(texts, "Gated")
        shape = (latents.shape[0], 1, 1, 1)
        return jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32)

    def contexts(self, texts: Texts, step: Array) -> BranchContext:
        """Return (unconditional, prompt, negative)."""
        return rows(texts.uncond, texts.prompt, required_negative(texts, "Gated"))

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return ε_u + w (ε_c - ε_u) - s g (ε_n - ε_u) and the new (m, β^n)."""
        uncond, prompt, negative = in_float32(eps)
        toward, away = prompt - uncond, negative - uncond
        mean, kept = state
        beta = per_item(self.momentum)
        mean, kept = beta * mean + (1.0 - beta) * _cosine(toward, away), beta * kept
        low, high = per_item(self.low), per_item(self.high)
        evidence = mean / jnp.maximum(1.0 - kept, _TINY)
        ramp = (evidence - low) / jnp.where(high > low, high - low, 1.0)
        gate = jnp.where(high > low, jnp.clip(ramp, 0.0, 1.0), evidence >= low)
        guided = uncond + per_item(self.scale) * toward - per_item(self.negative_scale) * gate * away
        return guided.astype(eps.dtype), (mean, kept)


def _cosine(a: Latents, b: Latents) -> Array:
    """Return the cosine of each item's pair, [batch, 1, 1, 1]; 0 where one of them vanishes."""
    axes = (1, 2, 3)
    inner = jnp.sum(a * b, axes, keepdims=True)
    norms = jnp.sqrt(jnp.sum(a * a, axes, keepdims=True) * jnp.sum(b * b, axes, keepdims=True))
    return inner / jnp.maximum(norms, _TINY)
