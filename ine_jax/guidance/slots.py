"""The texts that a guard reads: its slots, filled from the concept to avoid."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real

import numpy as np
from jaxtyping import Float

from ine_jax.config import GuidanceConfig
from ine_jax.errors import InputError, InputTypeError
from ine_jax.guidance.base import Guidance, NoGuidance
from ine_jax.guidance.casg import Casg
from ine_jax.guidance.cfg import Cfg
from ine_jax.guidance.concept import Concept, Encode
from ine_jax.guidance.negative import negative_guidance
from ine_jax.guidance.safree import Safree

COLUMNS = 8  # a concept's columns are padded to a multiple of this


@dataclass(frozen=True)
class Slots:
    """The texts that all items of a call share, one row each, float32.

    Attributes:
        uncond: the empty prompt.
        negative: the concept to avoid; the empty prompt where there is none, so that CFG runs one program with a
            negative and without.
        bank: several of them, for a guard that chooses, or None.
        columns: pooled vectors for a guard that projects, with rows of zeros up to a multiple of 8, or None.
    """

    uncond: Float[np.ndarray, "1 token dim"]
    negative: Float[np.ndarray, "1 token dim"]
    bank: Float[np.ndarray, "1 choice token dim"] | None = None
    columns: Float[np.ndarray, "column dim"] | None = None


def layers(guard: Guidance) -> Iterator[Guidance]:
    """Yield the guard, the guard that it wraps, and so on inwards."""
    layer: Guidance | None = guard
    while layer is not None:
        yield layer
        layer = getattr(layer, "inner", None)


def fill(guard: Guidance, concept: Concept | None, encode: Encode) -> Slots:
    """Return the texts for the guard's slots."""
    uncond = encode([""], ())[0]
    if concept is None:
        for layer in layers(guard):
            if getattr(layer, "needs_negative", False):
                name = type(layer).__name__
                given = f"guidance {name} without a negative"
                raise InputError(given, "negative: words or an embedding", "give negative, or use Cfg")
        return Slots(uncond, uncond, columns=np.zeros((COLUMNS, uncond.shape[-1]), np.float32))
    chooses = any(isinstance(layer, Casg) for layer in layers(guard))
    bank = concept.bank(encode)[None] if chooses else None
    columns = None if projection(guard) is None else _padded(concept.columns(encode))
    return Slots(uncond, concept.sequence(encode), bank, columns)


def projection(guard: Guidance) -> Safree | None:
    """Return the layer of a guard that projects the prompt, without the guard that it wraps, or None."""
    found = next((layer for layer in layers(guard) if isinstance(layer, Safree)), None)
    if found is None:
        return None
    return dataclasses.replace(found, inner=NoGuidance(), reattention="off", negative_in_cfg=False)


def network_rows(guard: Guidance, concept: Concept | None) -> int:
    """Return the rows of the network per image and step: the guard's own, those of its bank, and a reference row."""
    found = list(layers(guard))
    bank = 0 if concept is None else len(concept.words) + len(concept.embeddings)
    banks = sum(bank for layer in found if isinstance(layer, Casg))
    edits = any(isinstance(layer, Safree) and layer.reattention not in ("off", "as-released") for layer in found)
    return guard.branches + banks + edits


def _padded(columns: Float[np.ndarray, "column dim"]) -> Float[np.ndarray, "padded dim"]:
    """Add rows of zeros up to the next multiple, so that few shapes exist."""
    return np.pad(columns, ((0, -len(columns) % COLUMNS), (0, 0)))


def resolve(guidance: Guidance | float | None, negative: Concept | None, negative_scale: float | None) -> Guidance:
    """Return the guard of a call: CFG for a guidance scale or None; with a negative scale, with a row for the negative.

    Raises:
        InputTypeError: `guidance` is neither a number nor a guard.
        InputError: a negative scale without a negative, or beside a guard other than CFG.
    """
    number = GuidanceConfig.scale if guidance is None else guidance
    guard = Cfg(float(number)) if isinstance(number, Real) and not isinstance(number, bool) else number
    if not isinstance(guard, Guidance):
        allowed = "a number (the guidance scale), or a guard such as Cfg(7.5)"
        raise InputTypeError(f"guidance: {guidance!r}", allowed, "change guidance")
    if negative_scale is None:
        return guard
    if negative is None:
        given = f"negative_scale {negative_scale} without a negative"
        raise InputError(given, "both or neither", "give negative as well")
    if not isinstance(guard, Cfg):
        given = f"negative_scale beside {type(guard).__name__}"
        raise InputError(given, "negative_scale with Cfg", "set it in the guidance")
    return negative_guidance(guard.scale, negative_scale)
