"""SAFREE (arXiv 2410.12761): the concept is projected out of the prompt's text, before and beside any other guard.

Once per prompt, `projection.masked_copies` returns copies to encode, and `Safree.project` makes the projected text of
them. The guard `Safree` then puts that text in the prompt's place, for as many steps as the filter gives.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ine_jax.errors import InputError
from ine_jax.guidance.base import State, Texts, Wrapper
from ine_jax.guidance.cfg import Cfg
from ine_jax.guidance.projection import basis, find_triggers, mean_cosine, onto
from ine_jax.types import STATIC, Array, BranchContext, Context, Latents, PerItem, PerItemMask, Scale, Step

RELEASE_STEPS = 50  # the run length for which the release gives its numbers of steps
Reattention: TypeAlias = Literal["off", "as-released", "low", "high", "all"]
Overlong: TypeAlias = Literal["as-released", "end-token"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SafeText:
    """A prompt with the concept projected out, and the numbers that led there.

    Attributes:
        safe: the text, in the dtype of the prompt's.
        until: the last step at which it replaces the prompt; -1 is never.
        triggers: the prompt tokens that were replaced.
        distances: ||(I - P_C) m_i||, 0 where there is no token.
        shift: β = 1 - the mean cosine between the text and the text projected throughout.
    """

    safe: Context
    until: Int[Array, "batch"]
    triggers: Bool[Array, "batch copy"]
    distances: Float[Array, "batch copy"]
    shift: PerItem


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reference:
    """One more row for the network, which compares other rows with it inside (see `sampling.predict`).

    Attributes:
        context: the row's text: the original prompt.
        active: where False the comparison changes nothing.
        backbone: b1, b2, for the widest level of the UNet and the next.
        skip: s1, s2, likewise.
        mode: low, high or all; static.
        rows: the branches that hold the prompt, which are edited; static.
    """

    context: Context
    active: PerItemMask
    backbone: tuple[Scale, Scale]
    skip: tuple[Scale, Scale]
    mode: Literal["low", "high", "all"] = field(metadata=STATIC)
    rows: tuple[int, ...] = field(metadata=STATIC)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Safree(Wrapper):
    """The inner guard, with the projected prompt in place of the prompt at steps `window[0]` … `texts.until`.

    `texts.safe` and `texts.until` come from `project`. Rows, state and arithmetic are the inner guard's.

    The release also puts its phrases, joined by commas, in the unconditional row of CFG: `negative_in_cfg`. Without it
    the unconditional row of an inner `Cfg` stays the empty prompt. Other inner guards have a row of their own for the
    negative.

    Latent re-attention: the release registers its filter without the mode that would filter, and pays for a row that
    nobody reads. So "as-released" equals "off", and computes no such row. The other modes do what the paper describes:
    while the projected prompt is used, the skip connections of its rows are edited against those of the original prompt
    at the same step (`models.skips.fourier_filter`). The original prompt's row is computed on the UNet's down path
    only. The filter also edits where the two prompts agree, so prompts without triggers change too.

    Every number is one for all items or one per item.

    Attributes:
        inner: the guard that steers: `Cfg`, `Negative`, `Sld` or another.
        alpha: α, by how much a distance must exceed the mean of the others.
        up_t: the largest number of steps that the self-validating filter gives.
        steepness: k of the filter; 2.5, and 3.5 for artists.
        midpoint: t0 of the filter; 5.333, and 5.5 for artists.
        window: first and, without the filter, last step at which the projected prompt is used; (-1, 1001) is always.
        backbone: b1, b2 of re-attention: factors of half of the channels at the widest level and the next.
        skip: s1, s2 of re-attention: what replaces coefficients of the spectrum.
        validate: whether the self-validating filter sets the last step; static.
        steps_of_50: whether `up_t` counts steps of a run of 50 and is scaled to the run. As released it is not: t' is
            compared with the index of the step, however many steps there are; static.
        reattention: off, as-released, low, high or all; static.
        negative_in_cfg: whether an inner `Cfg` sees the negative; static.
        overlong: what a prompt that the encoder cannot read whole does; static. The release cuts its masked copies
            without an end token: all are pooled at the begin token and equal, no token is a trigger, and t' is nearly
            `up_t`. "end-token" ends the copies as it ends the prompt.
    """

    alpha: Scale = 0.01
    up_t: Scale = 10.0
    steepness: Scale = 2.5
    midpoint: Scale = 5.333
    window: tuple[Scale, Scale] = (-1.0, 1001.0)
    backbone: tuple[Scale, Scale] = (1.0, 1.0)
    skip: tuple[Scale, Scale] = (0.9, 0.2)
    validate: bool = field(default=True, metadata=STATIC)
    steps_of_50: bool = field(default=False, metadata=STATIC)
    reattention: Reattention = field(default="off", metadata=STATIC)
    negative_in_cfg: bool = field(default=False, metadata=STATIC)
    overlong: Overlong = field(default="as-released", metadata=STATIC)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = get_args(Reattention)
        if self.reattention not in known:
            raise InputError(f"reattention {self.reattention!r}", ", ".join(known), "choose one of them")
        if self.overlong not in get_args(Overlong):
            raise InputError(f"overlong {self.overlong!r}", ", ".join(get_args(Overlong)), "choose one of them")

    def project(
        self,
        prompt: Context,
        masked: Float[Array, "batch copy dim"],
        mask: Bool[Array, "batch copy"],
        end: Int[Array, "batch"],
        concept: Float[Array, "column dim"],
        calls: Scale = RELEASE_STEPS,
    ) -> SafeText:
        """Return the prompt's text with the concept projected out, and for how many steps the filter uses it.

            d_i = ||(I - P_C) m_i||;  e'_i = (I - P_C) P_M e_i where `find_triggers(d)`, e_i elsewhere
            t' = round(up_t · σ(2 k (10 β - t0))), halves to even

        Nothing changes for a prompt without tokens, and without a concept: until is -1 then. Prompts of any length
        and concepts of any rank share one compiled program where they are padded to the same shapes.

        Args:
            prompt: encoder output [batch, token, dim].
            masked: m, pooled vectors [batch, N, dim] of the copies: the hidden state after the final layer norm where
                they are pooled, without CLIP's projection. Row i belongs to token i + 1 of the prompt's sequence.
            mask: bool [batch, N], which of them there are.
            end: int [batch], position of the end token; β looks at positions up to it.
            concept: C, pooled vectors [K, dim] of the concept's phrases or embeddings; rows of zeros are padding.
            calls: network calls of the run, for `steps_of_50`.
        """
        text, masked = prompt.astype(jnp.float32), jnp.where(mask[..., None], masked.astype(jnp.float32), 0.0)
        avoided = basis(concept)
        distances = jnp.linalg.norm(masked - onto(avoided, masked), axis=-1)
        present = jnp.any(avoided != 0.0)
        triggers = find_triggers(distances, mask, self.alpha) & present

        moved = onto(basis(masked), text)
        moved = moved - onto(avoided, moved)
        before_and_after = (1, text.shape[1] - 1 - mask.shape[1])  # the begin token; the end token and padding
        replaced = jnp.pad(triggers, ((0, 0), before_and_after))
        safe = jnp.where(replaced[..., None], moved, text).astype(prompt.dtype)

        shift = 1.0 - mean_cosine(moved, text, jnp.arange(text.shape[1])[None, :] <= end[:, None])
        last = self._last_step(shift, calls).astype(jnp.int32)
        until = jnp.where(mask.any(axis=1) & present, last, -1)
        return SafeText(safe, until, triggers, distances, shift)

    def _last_step(self, shift: PerItem, calls: Scale) -> PerItem:
        """Return t' of the self-validating filter, or the window's last step."""
        if not self.validate:
            return jnp.broadcast_to(jnp.asarray(self.window[1], jnp.float32), shift.shape)
        most = jnp.asarray(self.up_t, jnp.float32)
        most = most * calls / RELEASE_STEPS if self.steps_of_50 else most
        return jnp.round(most * jax.nn.sigmoid(2.0 * self.steepness * (10.0 * shift - self.midpoint)))

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the inner guard's state."""
        _projected(texts)
        return super().init(texts, latents)

    def contexts(self, texts: Texts, step: Step) -> BranchContext:
        """Return the inner guard's rows, of the projected prompt where this step is one of its steps."""
        safe, _ = _projected(texts)
        active = self._active(texts, step)[:, None, None]
        texts = dataclasses.replace(texts, prompt=jnp.where(active, safe, texts.prompt))
        if isinstance(self.inner, Cfg) and not self.negative_in_cfg:
            texts = dataclasses.replace(texts, negative=None)
        return super().contexts(texts, step)

    def reference(self, texts: Texts, step: Step) -> Reference | None:
        """Return the original prompt's row and its re-attention, or None where that is off."""
        if self.reattention == "off" or self.reattention == "as-released":
            return None
        numbers = (self._active(texts, step), self.backbone, self.skip)
        return Reference(texts.prompt, *numbers, mode=self.reattention, rows=self._prompt_rows(texts))

    def _active(self, texts: Texts, step: Step) -> PerItemMask:
        """Return for which items this step uses the projected prompt."""
        _, until = _projected(texts)
        return (step <= until) & (step.astype(jnp.float32) >= jnp.asarray(self.window[0]))

    def _prompt_rows(self, texts: Texts) -> tuple[int, ...]:
        """Return the rows with the prompt: where the inner guard puts a 1 in its place among zeros."""
        with jax.ensure_compile_time_eval():
            others = dataclasses.replace(texts, safe=None, until=None)
            marks = jax.tree.map(lambda text: jnp.zeros((*text.shape[:-2], 1, 1)), others)
            marks = dataclasses.replace(marks, prompt=jnp.ones_like(marks.prompt))
            found = self.inner.contexts(marks, jnp.int32(0))
            return tuple(int(row) for row in np.flatnonzero(np.asarray(found[0, :, 0, 0])))


def _projected(texts: Texts) -> tuple[Context, Int[Array, "batch"]]:
    """Return the projected prompt and its last step, raising `InputError` where they are missing."""
    if texts.safe is None or texts.until is None:
        given = "the guard Safree without a projected prompt"
        raise InputError(given, "texts with safe and until", "project the prompt first (Safree.project)")
    return texts.safe, texts.until
