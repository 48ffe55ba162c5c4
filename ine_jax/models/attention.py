"""Scaled dot-product attention, by the implementation that suits the devices and the shape.

All implementations compute softmax(q kᵀ / √d) v (arXiv 1706.03762, eq. 1) with the softmax in float32. They differ in
what they keep in memory: at 4,096 tokens and 8 heads the scores of one row are 0.5 GB in float32, and writing and
reading them costs more than the products do.

    implementation  keeps                      where
    cudnn           nothing                    GPUs, 16-bit numbers
    flash           nothing (Pallas kernel)    TPUs, from 1,024 tokens
    blocked         one block of one head      CPUs, from 1,024 tokens
    plain           all scores                 everywhere else
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from ine_jax.types import Array

Implementation: TypeAlias = Literal["cudnn", "flash", "blocked", "plain"]
LANES = 128  # width of a TPU's vector registers: the kernel's blocks are multiples of it
FLASH_BLOCK = 512  # queries, and keys, that the TPU kernel holds at once; more do not fit at 512 channels
CPU_BLOCK = 256  # queries of one head whose scores fit a CPU's cache


@dataclass(frozen=True)
class Rule:
    """One line of the table: which shapes an implementation takes on a platform."""

    platform: str
    implementation: Implementation
    tokens: int = 1  # least queries and keys
    token_unit: int = 1  # both are a multiple of it
    head_unit: int = 1  # so is the head size
    widest: int = 1 << 30  # largest head size
    wide_unit: int = 1  # head sizes above LANES are a multiple of it
    bits: int = 32  # widest number
    causal: bool = False

    def takes(self, queries: int, keys: int, head_dim: int, dtype: DTypeLike, causal: bool) -> bool:
        """Return whether the implementation computes this shape."""
        unit = self.wide_unit if head_dim > LANES else self.head_unit
        return (
            min(queries, keys) >= self.tokens
            and queries % self.token_unit == 0 == keys % self.token_unit
            and head_dim <= self.widest
            and head_dim % unit == 0
            and jnp.dtype(dtype).itemsize * 8 <= self.bits
            and (self.causal or not causal)
        )


# The first rule that fits decides. cuDNN takes larger heads on some GPUs only; below 1,024 tokens the scores are small.
TABLE = (
    Rule("gpu", "cudnn", head_unit=8, widest=128, bits=16, causal=True),
    Rule("tpu", "flash", tokens=1024, token_unit=LANES, head_unit=8, wide_unit=LANES),
    Rule("cpu", "blocked", tokens=1024),
)


def choose(
    platform: str, queries: int, keys: int, head_dim: int, dtype: DTypeLike, causal: bool = False
) -> Implementation:
    """Return the implementation of a shape on "cpu", "gpu" or "tpu"."""
    for rule in TABLE:
        if rule.platform == platform and rule.takes(queries, keys, head_dim, dtype, causal):
            return rule.implementation
    return "plain"


def attention(
    query: Float[Array, "batch q head dim"],
    key: Float[Array, "batch k head dim"],
    value: Float[Array, "batch k head dim"],
    platform: str = "cpu",
    causal: bool = False,
) -> Float[Array, "batch q head dim"]:
    """Return softmax(q kᵀ / √d) v per head.

    `platform` is that of the devices the program runs on, which need not be JAX's default backend. The kernels work on
    one device's rows: on a mesh of several, call this inside `jax.shard_map`.
    """
    chosen = choose(platform, query.shape[1], key.shape[1], query.shape[-1], query.dtype, causal)
    if chosen == "flash":
        return flash(query, key, value)
    if chosen == "blocked":
        return blocked(query, key, value, CPU_BLOCK)
    kernel: Literal["cudnn", "xla"] = "cudnn" if chosen == "cudnn" else "xla"
    with jax.numpy_dtype_promotion("standard"):  # JAX promotes 16-bit logits to float32 in there
        return jax.nn.dot_product_attention(query, key, value, is_causal=causal, implementation=kernel)


def blocked(
    query: Float[Array, "batch q head dim"],
    key: Float[Array, "batch k head dim"],
    value: Float[Array, "batch k head dim"],
    block: int,
) -> Float[Array, "batch q head dim"]:
    """Attention one head and one block of queries after the other.

    The backward pass computes a block's scores again instead of keeping them. `block` is lowered to a divisor of the
    number of queries.
    """
    batch, queries, heads, dim = query.shape
    size = math.gcd(queries, block)

    def by_head(x: Float[Array, "batch token head dim"]) -> Float[Array, "each token dim"]:
        return jnp.swapaxes(x, 1, 2).reshape(batch * heads, -1, dim)

    @jax.checkpoint
    def one_block(q: Array, k: Array, v: Array) -> Array:
        scores = jax.lax.dot_general(q, k, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        summed = jax.lax.dot(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        mixed: Array = (summed / weights.sum(axis=-1, keepdims=True)).astype(v.dtype)
        return mixed

    def one_head(parts: tuple[Array, Array, Array]) -> Array:
        q, k, v = parts
        rows: Array = jax.lax.map(lambda some: one_block(some, k, v), q.reshape(-1, size, dim))
        return rows.reshape(queries, dim)

    scaled = query * jnp.asarray(dim**-0.5, query.dtype)
    out = jax.lax.map(one_head, (by_head(scaled), by_head(key), by_head(value)))
    return jnp.swapaxes(out.reshape(batch, heads, queries, dim), 1, 2)


def flash(
    query: Float[Array, "batch q head dim"],
    key: Float[Array, "batch k head dim"],
    value: Float[Array, "batch k head dim"],
) -> Float[Array, "batch q head dim"]:
    """Attention by JAX's Pallas kernel for TPUs, forward and backward (arXiv 2205.14135).

    Queries and keys must be multiples of `LANES` in number.
    """
    from jax.experimental.pallas.ops.tpu import flash_attention as tpu

    q, k = _divisor(query.shape[1]), _divisor(key.shape[1])
    forward = {"block_q": q, "block_k_major": k, "block_k": k, "block_b": 1}
    towards_keys = {"block_q_major_dkv": q, "block_q_dkv": q, "block_k_major_dkv": k, "block_k_dkv": k}
    towards_queries = {"block_q_dq": q, "block_k_major_dq": k, "block_k_dq": k}
    sizes = tpu.BlockSizes(**forward, **towards_keys, **towards_queries)
    kernel = functools.partial(tpu.flash_attention, sm_scale=query.shape[-1] ** -0.5, block_sizes=sizes)
    with jax.numpy_dtype_promotion("standard"):
        out = cast(Array, kernel(*(jnp.swapaxes(x, 1, 2) for x in (query, key, value))))
    return jnp.swapaxes(out, 1, 2)


def _divisor(tokens: int) -> int:
    """Return the largest block of at most `FLASH_BLOCK` tokens that divides them."""
    return max(size for size in range(LANES, FLASH_BLOCK + 1, LANES) if tokens % size == 0)
