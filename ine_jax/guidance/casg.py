"""Conflict-aware adaptive safety guidance (CASG, arXiv 2602.20880): of several concepts, avoid only the nearest."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ine_jax.errors import InputError
from ine_jax.guidance.base import Checked, Guidance, Moment, State, Texts, phases, rows
from ine_jax.types import Array, BranchContext, BranchLatents, Latents, Step

_TINY = 1e-12  # as in the released code


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Casg(Checked):
    """A guard that avoids one of the K texts of `texts.bank`, chosen anew at every step and for every item.

        h* = argmax_i cos(ε_{h_i} - ε_u, ε_c - ε_u)

    over all elements of the latents; the inner guard receives the rows (ε_u, ε_c, ε_{h*}). Averaging the concepts in
    one text would make their directions cancel. K + 2 rows: unconditional, prompt, and one per text of the bank. Among
    equals the first is chosen. The inner guard's state (the momentum of SLD) continues whatever is chosen, as in the
    released code (tmllab/2026_CVPR_CASG, src/sld).

    Attributes:
        inner: a guard of three rows (unconditional, prompt, negative): `Sld`, at its preset max in the paper, or
            `Negative`.
    """

    inner: Guidance

    branches: ClassVar[int] = 2  # without the bank's rows
    needs_negative: ClassVar[bool] = True

    def phases(self, calls: int) -> list[tuple[Guidance, int]]:
        """Return the inner guard's phases; a phase without a row for a negative has nothing to choose."""
        parts = phases(self.inner, calls)
        return [(Casg(part) if part.branches == 3 else part, count) for part, count in parts]

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the inner guard's state."""
        bank = _bank(texts)
        if self.inner.branches != 3:
            given = f"Casg over {type(self.inner).__name__} of {self.inner.branches} rows"
            raise InputError(given, "a guard of three rows, such as Sld or Negative", "wrap one of these")
        return self.inner.init(dataclasses.replace(texts, negative=bank[:, 0]), latents)

    def contexts(self, texts: Texts, step: Step) -> BranchContext:
        """Return (unconditional, prompt, each text of the bank)."""
        return jnp.concatenate([rows(texts.uncond, texts.prompt), _bank(texts)], axis=1)

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return the inner guard's result on (ε_u, ε_c, ε_{h*})."""
        chosen = closest_direction(eps)[:, None, None, None, None]
        nearest = jnp.take_along_axis(eps, 2 + chosen, axis=1)
        return self.inner.combine(state, jnp.concatenate([eps[:, :2], nearest], axis=1), at)


def closest_direction(eps: BranchLatents) -> Int[Array, "batch"]:
    """Return h* of each item from the rows (ε_u, ε_c, ε_{h_1}, …)."""
    branches = eps.astype(jnp.float32)
    toward = branches[:, 1:2] - branches[:, :1]
    away = branches[:, 2:] - branches[:, :1]
    axes = (2, 3, 4)
    lengths = jnp.sqrt(jnp.sum(away * away, axes))
    # without |ε_c - ε_u|, which all choices have in common
    return jnp.argmax(jnp.sum(away * toward, axes) / (lengths + _TINY), axis=1)


def _bank(texts: Texts) -> Float[Array, "batch choice token dim"]:
    """Return the texts to choose from, raising `InputError` where there are none."""
    if texts.bank is None:
        given = "the guard Casg without texts to choose from"
        raise InputError(given, "several negatives, as words or embeddings", "give them, or use the inner guard alone")
    return texts.bank
