"""What a guard reads of a call: its slots filled from the concept to be avoided, and the texts of each batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ine_jax.errors import InputError
from ine_jax.guidance.base import Guidance, NoGuidance
from ine_jax.guidance.casg import Casg
from ine_jax.guidance.cfg import Cfg
from ine_jax.guidance.concept import Concept, Encode
from ine_jax.guidance.negative import negative_guidance
from ine_jax.guidance.safree import Safree

COLUMNS = 8  # the step in which the number of a concept's columns grows


@dataclass(frozen=True)
class Slots:
    """The texts that all items of a call share, one row each, float32.

    Attributes:
        uncond: the empty prompt [1, T, D].
        negative: what is avoided [1, T, D]; the empty prompt where nothing is, so that CFG with a negative and
            without one runs one program.
        bank: several of them [1, K, T, D], for a guard that chooses, or None.
        columns: pooled vectors [K, D] for a guard that projects, rows of zeros up to a multiple of 8, or None.
    """

    uncond: np.ndarray
    negative: np.ndarray
    bank: np.ndarray | None = None
    columns: np.ndarray | None = None


def layers(guard: Guidance) -> Iterator[Any]:
    """The guard, the guard that it wraps, and so on inwards."""
    layer: Any = guard
    while layer is not None:
        yield layer
        layer = getattr(layer, "inner", None)


def fill(guard: Guidance, concept: Concept | None, encode: Encode) -> Slots:
    """Fill the slots that the guard has.

    Raises:
        InputError: a guard that has no plain meaning without a concept, without one.
    """
    uncond = encode([""], ())[0]
    if concept is None:
        for layer in layers(guard):
            if getattr(layer, "needs_negative", False):
                name = type(layer).__name__
                given = f"guidance {name} without a negative"
                raise InputError(given, "negative: words or an embedding", "give negative, or use Cfg")
        return Slots(uncond, uncond, columns=np.zeros((COLUMNS, uncond.shape[-1]), np.float32))
    chooses = any(isinstance(layer, Casg) for layer in layers(guard))
    return Slots(
        uncond,
        concept.sequence(encode),
        concept.bank(encode)[None] if chooses else None,
        _padded(concept.columns(encode)) if projection(guard) is not None else None,
    )


def projection(guard: Guidance) -> Safree | None:
    """The layer of a guard that projects the prompt, if there is one; without what it wraps, which that needs not."""
    found = next((layer for layer in layers(guard) if isinstance(layer, Safree)), None)
    return (
        None
        if found is None
        else dataclasses.replace(found, inner=NoGuidance(), reattention="off", negative_in_cfg=False)
    )


def _padded(columns: np.ndarray) -> np.ndarray:
    """Rows of zeros up to the next multiple, so that few shapes exist."""
    return np.pad(columns, ((0, -len(columns) % COLUMNS), (0, 0)))


def resolve(guidance: Guidance | None, negative: Concept | None, negative_scale: float | None) -> Guidance:
    """The guard that a call means: plain CFG, CFG over a negative (two rows), or a negative with a scale of its own
    (three).

    Raises:
        InputError: a scale without a negative, or beside a guard other than CFG.
    """
    guard = Cfg(7.5) if guidance is None else guidance
    if negative_scale is None:
        return guard
    if negative is None:
        raise InputError(
            f"negative_scale {negative_scale} without a negative", "both or neither", "give negative as well"
        )
    if not isinstance(guard, Cfg):
        raise InputError(
            f"negative_scale beside {type(guard).__name__}", "negative_scale with Cfg", "set it in the guidance"
        )
    return negative_guidance(guard.scale, negative_scale)
