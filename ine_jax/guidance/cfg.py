"""Classifier-free guidance (arXiv 2207.12598, eq. 6)."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from ine_jax.guidance.base import Checked, Moment, State, Texts, in_float32, per_item, rows
from ine_jax.types import BranchContext, BranchLatents, Latents, Scale, Step


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cfg(Checked):
    """ε = ε_u + w (ε_c - ε_u), two rows: unconditional, prompt.

    A negative text takes the unconditional slot, ε = ε_n + w (ε_c - ε_n): the usual negative prompt. Its strength is
    tied to w: this is `Negative` at s = w - 1.

    Attributes:
        scale: w, the guidance scale; 1 is the conditional prediction, 7.5 is usual.
    """

    scale: Scale = 7.5

    branches: ClassVar[int] = 2

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the empty state."""
        return ()

    def contexts(self, texts: Texts, step: Step) -> BranchContext:
        """Return (negative or unconditional, prompt)."""
        return rows(texts.uncond if texts.negative is None else texts.negative, texts.prompt)

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return ε_u + w (ε_c - ε_u)."""
        uncond, prompt = in_float32(eps)
        return (uncond + per_item(self.scale) * (prompt - uncond)).astype(eps.dtype), state
