"""Negative-prompt guidance with a scale of its own."""

from dataclasses import dataclass

import jax
import numpy as np

from ine_jax.guidance.base import Guidance, Moment, State, ThreeRows, check_number, in_float32, per_item
from ine_jax.guidance.cfg import Cfg
from ine_jax.types import BranchLatents, Latents, Scale


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Negative(ThreeRows):
    """ε = ε_u + w (ε_c - ε_u) - s (ε_n - ε_u), three rows: unconditional, prompt, negative.

    The negative text may be words or a learned embedding. s sets how strongly it is avoided, independently of how
    strongly the prompt is followed. At s = w - 1 the unconditional row cancels and `Cfg` does the same with two rows;
    at s = 0 this is plain classifier-free guidance.
    """

    scale: Scale = 7.5
    negative_scale: Scale = 6.5

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return ε_u + w (ε_c - ε_u) - s (ε_n - ε_u)."""
        uncond, prompt, negative = in_float32(eps)
        toward = per_item(self.scale) * (prompt - uncond)
        away = per_item(self.negative_scale) * (negative - uncond)
        return (uncond + toward - away).astype(eps.dtype), state


def negative_guidance(scale: Scale, negative_scale: Scale | None = None) -> Guidance:
    """Return the cheapest guard for w and s: `Cfg` (two rows) where s is None or s = w - 1, else `Negative` (three).

    With per-item scales the two-row form is used only where the equality holds for every item. Traced scales have no
    value to compare and take three rows.
    """
    guard = Cfg(scale)
    if negative_scale is None:
        return guard
    check_number("negative_scale", negative_scale)
    if isinstance(scale, jax.core.Tracer) or isinstance(negative_scale, jax.core.Tracer):
        return Negative(scale, negative_scale)
    tied = np.isclose(np.asarray(negative_scale), np.asarray(scale) - 1.0, rtol=1e-6, atol=1e-6)
    return guard if bool(np.all(tied)) else Negative(scale, negative_scale)
