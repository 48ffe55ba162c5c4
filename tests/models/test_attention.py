"""Every implementation of attention against float64, and the table that chooses one."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from ine_jax.models import attention as module
from ine_jax.models.attention import attention, blocked, choose, flash

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
Attend = Callable[..., jax.Array]


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """softmax(q kᵀ / √d) v in float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)


def exact_gradients(q: np.ndarray, k: np.ndarray, v: np.ndarray, out: np.ndarray) -> Arrays:
    """Gradients of Σ out · attention, in float64 (arXiv 2205.14135, appendix B.2)."""
    q, k, v, out = (x.astype(np.float64) for x in (q, k, v, out))
    scale = 1 / np.sqrt(q.shape[-1])
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * scale
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = np.einsum("bqhd,bkhd->bhqk", out, v)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * scale
    dq, dk = np.einsum("bhqk,bkhd->bqhd", ds, k), np.einsum("bhqk,bqhd->bkhd", ds, q)
    return dq, dk, np.einsum("bhqk,bqhd->bkhd", p, out)


def values(shape: tuple[int, ...], scale: float = 1.0) -> Arrays:
    batch, queries, keys, heads, dim = shape
    rng = np.random.default_rng(0)
    q, k, v = (scale * rng.standard_normal((batch, n, heads, dim)) for n in (queries, keys, keys))
    return q.astype(np.float32), k.astype(np.float32), v.astype(np.float32)


SHAPES = [
    ("plain", (2, 64, 7, 2, 20), 1.0),
    ("blocked", (2, 48, 80, 2, 20), 1.0),  # 48 and 32 have blocks of 16 in common
    ("blocked", (1, 33, 64, 1, 8), 1.0),  # no block divides 33: one query at a time
    ("blocked", (1, 64, 64, 1, 8), 30.0),  # scores of hundreds
    ("flash", (1, 128, 384, 1, 40), 1.0),
    ("flash", (1, 128, 256, 1, 40), 30.0),
]
ATTEND: dict[str, Attend] = {"plain": attention, "blocked": functools.partial(blocked, block=32), "flash": flash}


@pytest.mark.parametrize(("name", "shape", "scale"), SHAPES)
def test_values_and_gradients_equal_float64(name: str, shape: tuple[int, ...], scale: float) -> None:
    q, k, v = values(shape, scale)
    out = np.random.default_rng(1).standard_normal(q.shape).astype(np.float32)
    # The interpreter runs the TPU's kernel on the CPU; it knows nothing of strict promotion.
    with pltpu.force_tpu_interpret_mode(), jax.numpy_dtype_promotion("standard"):
        result, pull = jax.vjp(ATTEND[name], q, k, v)
        found = pull(jnp.asarray(out))
    size = scale * np.abs(v).max() / 4
    np.testing.assert_allclose(result, exact(q, k, v), atol=2e-5 * size)
    for got, wanted in zip(found, exact_gradients(q, k, v, out), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-4 * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("name", ["plain", "blocked", "flash"])
def test_bfloat16_keeps_the_softmax_in_float32(name: str) -> None:
    """Inputs rounded to bfloat16 beforehand, so that only the arithmetic counts: 256 weights of about 1/256 each."""
    half = [jnp.asarray(x, jnp.bfloat16) for x in values((1, 128, 256, 1, 40))]
    with pltpu.force_tpu_interpret_mode(), jax.numpy_dtype_promotion("standard"):
        result = ATTEND[name](*half)
    assert result.dtype == jnp.bfloat16
    wanted = exact(*(np.asarray(x, np.float32) for x in half))
    assert np.abs(np.asarray(result, np.float32) - wanted).max() < 2**-8


@pytest.mark.parametrize(
    ("platform", "queries", "keys", "dim", "dtype", "chosen"),
    [
        ("gpu", 4096, 4096, 40, jnp.bfloat16, "cudnn"),
        ("gpu", 64, 77, 128, jnp.float16, "cudnn"),
        ("gpu", 4096, 4096, 40, jnp.float32, "plain"),
        ("gpu", 256, 256, 160, jnp.bfloat16, "plain"),
        ("gpu", 256, 256, 20, jnp.bfloat16, "plain"),
        ("tpu", 4096, 4096, 40, jnp.bfloat16, "flash"),
        ("tpu", 1024, 1024, 80, jnp.bfloat16, "flash"),
        ("tpu", 4096, 4096, 512, jnp.bfloat16, "flash"),
        ("tpu", 4096, 4096, 200, jnp.bfloat16, "plain"),
        ("tpu", 4096, 77, 40, jnp.bfloat16, "plain"),
        ("tpu", 1088, 1088, 80, jnp.bfloat16, "plain"),  # 1,088 = 8.5 · 128
        ("tpu", 256, 256, 160, jnp.bfloat16, "plain"),
        ("cpu", 4096, 4096, 40, jnp.float32, "blocked"),
        ("cpu", 4096, 77, 40, jnp.float32, "plain"),
        ("cpu", 256, 256, 160, jnp.float32, "plain"),
        ("cpu", 64, 64, 32, jnp.float32, "plain"),  # the bundled models
    ],
)
def test_the_table(platform: str, queries: int, keys: int, dim: int, dtype: Any, chosen: str) -> None:
    assert choose(platform, queries, keys, dim, dtype) == chosen


def test_causal_attention_has_the_kernels_that_know_it() -> None:
    assert choose("gpu", 2048, 2048, 64, jnp.bfloat16, causal=True) == "cudnn"
    assert choose("tpu", 2048, 2048, 128, jnp.bfloat16, causal=True) == "plain"
    assert choose("cpu", 2048, 2048, 64, jnp.float32, causal=True) == "plain"


def test_many_tokens_on_a_cpu_keep_no_scores() -> None:
    """At 2,048 tokens and 4 heads the scores of one row are 67 MB; forward and backward keep a block of one head."""
    shape = jax.ShapeDtypeStruct((1, 2048, 4, 8), jnp.float32)

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attention(q, k, v, "cpu").sum()

    for run in (loss, jax.grad(loss, argnums=(0, 1, 2))):
        memory: Any = jax.jit(run).lower(shape, shape, shape).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 20 << 20


def test_blocks_of_the_tpu_kernel_divide_the_tokens() -> None:
    for tokens, block in ((4096, 512), (1024, 512), (2304, 384), (1152, 384), (9216, 512), (1408, 128)):
        assert module._divisor(tokens) == block
