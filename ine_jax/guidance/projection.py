"""Projections of text: spans of vectors, and the tokens of a prompt that lie in one (SAFREE, arXiv 2410.12761)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ine_jax.types import AnyArray, Array, Context, PerItem, Scale, TokenIds


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MaskedCopies:
    """Copies of the prompts with one token hidden, to find the tokens that carry the concept.

    Attributes:
        ids: copy i has prompt token i hidden; there are as many copies as tokens fit between begin and end.
        mask: which copies hide a token of the prompt. The others need not be encoded.
        end: position of the end token.
        pooled: position at which all copies of a prompt are pooled: `end`, or 0 where `cut`.
    """

    ids: Int[Array, "batch copy token"]
    mask: Bool[Array, "batch copy"]
    end: Int[Array, "batch"]
    pooled: Int[Array, "batch"]


def masked_copies(
    ids: TokenIds, end: int | Int[AnyArray, ""], hidden: int = 0, cut: Bool[AnyArray, "batch"] | None = None
) -> MaskedCopies:
    """Return a copy of every prompt for each of its tokens, with that token replaced by `hidden`.

    `ids` start with the begin token; a prompt's tokens are those up to its first end token, and the rest stays as it
    is. Sequences may be cut to the longest prompt first: CLIP attends backwards only. The release hides by id 0, which
    is "!" in CLIP's vocabulary. Where `cut`, the copies have no end token, as those of the release, and CLIP pools them
    at the begin token.
    """
    ids = jnp.asarray(ids, jnp.int32)
    last = jnp.argmax(ids == end, axis=1).astype(jnp.int32)
    position = jnp.arange(1, ids.shape[1] - 1)
    here = position[None, :, None] == jnp.arange(ids.shape[1])[None, None, :]
    pooled = last if cut is None else jnp.where(jnp.asarray(cut), 0, last)
    return MaskedCopies(jnp.where(here, hidden, ids[:, None, :]), position[None, :] < last[:, None], last, pooled)


def basis(columns: Float[Array, "*axes column dim"]) -> Float[Array, "*axes rank dim"]:
    """Return an orthonormal basis of the span of C's columns, float32: Q with P_C = C (CᵀC)⁺ Cᵀ = QᵀQ.

    `columns` holds a column of C in each row; rows of zeros are padding. The result has min(K, D) rows, zeros where the
    rank is lower. Singular values below max(K, D) · 2⁻²³ of the largest count as zero.
    """
    with jax.default_matmul_precision("highest"):
        _, sizes, rows = jnp.linalg.svd(columns.astype(jnp.float32), full_matrices=False)
    least = max(columns.shape[-2:]) * jnp.finfo(jnp.float32).eps * sizes.max(axis=-1, keepdims=True)
    return jnp.where((sizes > least)[..., None], rows, 0.0)


def onto(span: Float[Array, "*axes rank dim"], vectors: Float[Array, "*more dim"]) -> Float[Array, "*most dim"]:
    """Return P v for vectors and the basis of a span; the D × D matrix P is never formed."""
    with jax.default_matmul_precision("highest"):
        return jnp.matmul(jnp.matmul(vectors, jnp.swapaxes(span, -1, -2)), span)


def find_triggers(
    distances: Float[Array, "batch copy"], mask: Bool[Array, "batch copy"], alpha: Scale
) -> Bool[Array, "batch copy"]:
    """Return which tokens carry the concept: d_i ≥ (1 + α) · the mean of the other d_j.

    Hiding such a token moves the prompt away from the concept. A single token has no others; it counts as a trigger,
    as in the release (there by comparison with NaN, here with 0).
    """
    distances = jnp.where(mask, distances, 0.0)
    others = distances.sum(axis=1, keepdims=True) - distances
    count = jnp.maximum(mask.sum(axis=1, keepdims=True) - 1, 1).astype(distances.dtype)
    return mask & (distances >= (1.0 + _per_prompt(alpha)) * others / count)


def mean_cosine(a: Context, b: Context, mask: Bool[Array, "batch token"]) -> PerItem:
    """Return the mean cosine of the rows of a and b over the positions of the mask; 0 for a zero vector."""
    lengths = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    cosine = (a * b).sum(axis=-1) / jnp.maximum(lengths, 1e-8)
    return jnp.where(mask, cosine, 0.0).sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1).astype(cosine.dtype)


def _per_prompt(value: Scale) -> Float[Array, ""] | Float[Array, "batch 1"]:
    """Return a number in float32 that multiplies [batch, N]: a scalar, or [batch, 1]."""
    number = jnp.asarray(value, jnp.float32)
    return number if number.ndim == 0 else number.reshape(-1, 1)
