"""Building blocks shared by the UNet, the VAE and the text encoder: attention, resnet block, resampling, configs.

Everything is NHWC. ``dtype`` is the compute dtype; parameters keep their own. Normalisation statistics and the
softmax are computed in float32 whatever ``dtype`` is.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from ine_jax.errors import InputError
from ine_jax.types import Array

Dtype = Any
Reference = Literal["torch", "flax"]
C = TypeVar("C")


def config_from_json(cls: type[C], values: Mapping[str, Any], refused: Mapping[str, tuple[Any, ...]]) -> C:
    """Build the config dataclass ``cls`` from a published ``config.json``.

    Keys that ``cls`` does not know are passed over, except those in ``refused``: they change what the network
    computes, so any value other than the listed ones raises :class:`InputError`. Lists become tuples.
    """
    for key, allowed in refused.items():
        if key in values and values[key] not in allowed:
            raise InputError(
                f"config key {key!r} is {values[key]!r}",
                f"allowed here: {', '.join(repr(a) for a in allowed)} (Stable Diffusion 1.x and 2.x)",
                "use a checkpoint of one of these families",
            )
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    picked = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known and v is not None}
    return cls(**picked)


def attention(query: Array, key: Array, value: Array, platform: str = "cpu") -> Array:
    """Return scaled dot-product attention over [batch, token, head, dim], softmax in float32 (arXiv 1706.03762, eq. 1).

    `platform` is that of the devices the program runs on, which need not be JAX's default backend.
    """
    kernel = attention_kernel(platform, query.dtype, query.shape[-1])
    return jax.nn.dot_product_attention(query, key, value, implementation=kernel)


def attention_kernel(platform: str, dtype: Dtype, head_dim: int) -> Literal["cudnn", "xla"]:
    """Return which implementation computes attention: cuDNN's fused kernel where it takes the shape, else XLA's.

    cuDNN takes 16-bit numbers and head sizes that are a multiple of 8 up to 128, on GPUs.
    """
    fits = dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0 and head_dim <= 128
    return "cudnn" if platform == "gpu" and fits else "xla"


def sinusoidal_embedding(
    timesteps: Array, dim: int, flip_sin_to_cos: bool, freq_shift: float, reference: Reference = "torch"
) -> Array:
    """Timestep features ``[batch, dim]`` in float32 (arXiv 1706.03762 §3.5 with DDPM's geometric frequencies).

    ``reference`` sets where the exponent is rounded: a last bit of a frequency times t ≈ 1000 is 1e-4 in the angle.
    """
    half = dim // 2
    steps = jnp.arange(half, dtype=jnp.float32)
    if reference == "flax":
        frequencies = jnp.exp(steps * -(math.log(10_000.0) / (half - freq_shift)))
    else:
        frequencies = jnp.exp(-jnp.log(10_000.0) * steps / (half - freq_shift))
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None, :]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate([cos, sin] if flip_sin_to_cos else [sin, cos], axis=-1)


class ResnetBlock(nn.Module):
    """GroupNorm → SiLU → conv, twice, with an additive time embedding (UNet) or without one (VAE)."""

    channels: int
    groups: int
    epsilon: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, time: Array | None = None) -> Array:
        norm = functools.partial(nn.GroupNorm, num_groups=self.groups, epsilon=self.epsilon, dtype=self.dtype)
        conv = functools.partial(nn.Conv, self.channels, (3, 3), padding=1, dtype=self.dtype)
        h = conv(name="conv1")(nn.silu(norm(name="norm1")(x)))
        if time is not None:
            shift = nn.Dense(self.channels, dtype=self.dtype, name="time_emb_proj")(nn.silu(time))
            h = h + shift[:, None, None, :]
        h = conv(name="conv2")(nn.silu(norm(name="norm2")(h)))
        if x.shape[-1] != self.channels:
            x = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="conv_shortcut")(x)
        return x + h


class Downsample(nn.Module):
    """3×3 convolution with stride 2; ``padding`` is symmetric in the UNet, right and bottom only in the VAE."""

    channels: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Conv(self.channels, (3, 3), strides=2, padding=self.padding, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling followed by a 3×3 convolution."""

    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
        return nn.Conv(self.channels, (3, 3), padding=1, dtype=self.dtype, name="conv")(x)
