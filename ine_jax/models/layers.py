"""Building blocks shared by the UNet, the VAE and the text encoder: norms, resnet block, resampling, configs.

Everything is NHWC. `dtype` is the compute dtype; parameters keep their own. Normalisation statistics are computed in
float32 for every `dtype`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from ine_jax.errors import InputError
from ine_jax.types import Array, FeatureMap, PerItem

Options: TypeAlias = Mapping[str, tuple[object, ...]]  # config key -> the values that are supported
Reference = Literal["torch", "flax"]
C = TypeVar("C")


def config_from_json(cls: type[C], values: Mapping[str, object], options: Options) -> C:
    """Build the config dataclass `cls` from a published `config.json`. Lists become tuples.

    Keys that `cls` does not know are ignored; those in `options` change what the network computes, and only the values
    listed there are accepted.
    """
    for key, allowed in options.items():
        if key in values and values[key] not in allowed:
            raise InputError(
                f"config key {key!r} is {values[key]!r}",
                f"allowed here: {', '.join(repr(a) for a in allowed)} (Stable Diffusion 1.x and 2.x)",
                "use a checkpoint of one of these families",
            )
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    picked = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known and v is not None}
    return cls(**picked)


def sinusoidal_embedding(
    timesteps: PerItem, dim: int, flip_sin_to_cos: bool, freq_shift: int | float, reference: Reference = "torch"
) -> Float[Array, "batch {dim}"]:
    """Timestep features in float32 (arXiv 1706.03762 §3.5 with DDPM's geometric frequencies).

    `reference` sets where the exponent is rounded: a last bit of a frequency times t ≈ 1000 is 1e-4 in the angle.
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


def per_row(values: Float[Array, "item *axes"], rows: Float[Array, "row *others"]) -> Float[Array, "row *axes"]:
    """Return the values of each item repeated for its rows, which follow each other; as they are where they are rows.

    Items lie in the same order as their rows, so an array that is shared by devices stays in place.
    """
    return values if len(values) == len(rows) else jnp.repeat(values, len(rows) // len(values), axis=0)


class _Stored(nn.Module):
    """A layer that takes its parameters as they are.

    Flax evaluates the initializer of each parameter again whenever it traces a layer, to compare shapes: half of the
    time in which a UNet is traced. Here a checkpoint's shapes are compared once, when it is read.
    """

    @nn.nowrap
    def param(self, name: str, init_fn: Callable[..., Any], *init_args: Any, **init_kwargs: Any) -> Any:
        """Return the stored parameter, or a new one where the module is initialised."""
        if self.has_variable("params", name):
            return self.get_variable("params", name)
        return super().param(name, init_fn, *init_args, **init_kwargs)


class Dense(_Stored, nn.Dense):
    """Flax's linear layer."""


class Conv(_Stored, nn.Conv):
    """Flax's convolution."""


class Embed(_Stored, nn.Embed):
    """Flax's table of vectors."""


class LayerNorm(_Stored, nn.LayerNorm):
    """Flax's layer norm, which promotes 16-bit inputs to float32 even where JAX's strict promotion forbids it."""

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        with jax.numpy_dtype_promotion("standard"):
            out: Array = super().__call__(x, mask=mask)
            return out


class GroupNorm(_Stored, nn.GroupNorm):
    """Flax's group norm; see `LayerNorm`."""

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        with jax.numpy_dtype_promotion("standard"):
            out: Array = super().__call__(x, mask=mask)
            return out


class Stack(nn.Module):
    """Layers one after the other, under the names 0, 1, ...; `layer` makes one of a name."""

    layer: Callable[..., nn.Module]
    count: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch token dim"]) -> Float[Array, "batch token dim"]:
        for i in range(self.count):
            x = self.layer(name=str(i))(x)
        return x


class ResnetBlock(nn.Module):
    """GroupNorm → SiLU → conv, twice, with an additive time embedding (UNet) or without one (VAE)."""

    channels: int
    groups: int
    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: FeatureMap, time: Float[Array, "batch features"] | None = None
    ) -> Float[Array, "batch h w {self.channels}"]:
        norm = functools.partial(GroupNorm, num_groups=self.groups, epsilon=self.epsilon, dtype=self.dtype)
        conv = functools.partial(Conv, self.channels, (3, 3), padding=1, dtype=self.dtype)
        h = conv(name="conv1")(nn.silu(norm(name="norm1")(x)))
        if time is not None:
            shift = Dense(self.channels, dtype=self.dtype, name="time_emb_proj")(nn.silu(time))
            h = h + shift[:, None, None, :]
        h = conv(name="conv2")(nn.silu(norm(name="norm2")(h)))
        if x.shape[-1] != self.channels:
            x = Conv(self.channels, (1, 1), dtype=self.dtype, name="conv_shortcut")(x)
        return x + h


class Downsample(nn.Module):
    """3×3 convolution with stride 2; `padding` is symmetric in the UNet, right and bottom only in the VAE."""

    channels: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap) -> Float[Array, "batch h/2 w/2 {self.channels}"]:
        return Conv(self.channels, (3, 3), strides=2, padding=self.padding, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling followed by a 3×3 convolution."""

    channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap) -> Float[Array, "batch 2*h 2*w {self.channels}"]:
        b, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
        return Conv(self.channels, (3, 3), padding=1, dtype=self.dtype, name="conv")(x)
