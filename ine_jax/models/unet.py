"""UNet2DConditionModel of Stable Diffusion 1.x and 2.x (arXiv 2112.10752, appendix E), NHWC.

The parameter tree equals diffusers' `FlaxUNet2DConditionModel`; the arithmetic equals its PyTorch class
(`reference="torch"`) or, where the two differ, the Flax one (`reference="flax"`): tanh instead of exact GELU in
the feed-forward layers, 1e-5 instead of 1e-6 in the transformer's GroupNorm, and the rounding of the timestep
features.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from ine_jax.errors import InputError
from ine_jax.models.attention import attention
from ine_jax.models.layers import (
    Conv,
    Dense,
    Downsample,
    GroupNorm,
    LayerNorm,
    Options,
    Reference,
    ResnetBlock,
    Upsample,
    config_from_json,
    per_row,
    sinusoidal_embedding,
)
from ine_jax.models.skips import SkipEdit
from ine_jax.types import Array, Context, FeatureMap, Latents, PerItem, Tokens

OPTIONS: Options = {
    "act_fn": ("silu", "swish"),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "only_cross_attention": (False, [False] * 4),
    "dual_cross_attention": (False,),
    "class_embed_type": (None,),
    "addition_embed_type": (None,),
    "encoder_hid_dim": (None,),
    "time_embedding_type": (None, "positional"),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "conv_in_kernel": (None, 3),
    "conv_out_kernel": (None, 3),
    "resnet_time_scale_shift": ("default",),
    "center_input_sample": (False,),
    "transformer_layers_per_block": (1,),
    "reverse_transformer_layers_per_block": (None,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1, 1.0),
}
_SYMMETRIC = ((1, 1), (1, 1))
TimeFeatures: TypeAlias = Float[Array, "batch time"]


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Shape of the UNet; field names are those of diffusers' `unet/config.json`.

    `attention_head_dim` holds the *number* of heads, per level or one for all: diffusers' historic misnomer, kept
    because every published config relies on it. `num_attention_heads` wins where a config has it.
    """

    sample_size: int = 64
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: int | tuple[int, ...] | None = None
    cross_attention_dim: int = 768
    use_linear_projection: bool = False
    norm_num_groups: int = 32
    norm_eps: int | float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int | float = 0
    reference: Reference = "torch"

    def __post_init__(self) -> None:
        for field, known in (
            ("down_block_types", ("CrossAttnDownBlock2D", "DownBlock2D")),
            ("up_block_types", ("CrossAttnUpBlock2D", "UpBlock2D")),
        ):
            for kind in getattr(self, field):
                if kind not in known:
                    raise InputError(f"{field} holds {kind!r}", f"known: {', '.join(known)}", "use an SD 1.x/2.x UNet")
        levels = len(self.block_out_channels)
        if not len(self.down_block_types) == len(self.up_block_types) == levels:
            given = f"{len(self.down_block_types)} down and {len(self.up_block_types)} up blocks for {levels} widths"
            allowed = "one down and one up block per entry of block_out_channels"
            raise InputError(given, allowed, "change unet/config.json")
        heads = self.num_attention_heads or self.attention_head_dim
        if not isinstance(heads, int) and len(heads) != levels:
            given = f"{len(heads)} numbers of attention heads for {levels} widths"
            raise InputError(given, "one number, or one per level", "change unet/config.json")

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "UNetConfig":
        """Read `unet/config.json`; raises InputError for a variant that is not SD 1.x/2.x."""
        return config_from_json(cls, values, OPTIONS)

    def heads(self, level: int) -> int:
        """Number of attention heads at a level (0 = finest)."""
        heads = self.num_attention_heads or self.attention_head_dim
        return heads if isinstance(heads, int) else heads[level]


class Attention(nn.Module):
    """Multi-head attention of `x` to `context` (to itself if None); queries, keys, values without bias."""

    heads: int
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"

    @nn.compact
    def __call__(self, x: Tokens, context: Float[Array, "batch key width"] | None = None) -> Tokens:
        context = x if context is None else context
        inner = x.shape[-1]

        def project(values: Float[Array, "batch key width"], name: str) -> Float[Array, "batch key head dim"]:
            out: Array = Dense(inner, use_bias=False, dtype=self.dtype, name=name)(values)
            return out.reshape(*out.shape[:2], self.heads, inner // self.heads)

        query, key, value = project(x, "to_q"), project(context, "to_k"), project(context, "to_v")
        out = attention(query, key, value, self.platform)
        return Dense(inner, dtype=self.dtype, name="to_out_0")(out.reshape(x.shape))


class GatedGelu(nn.Module):
    """GEGLU (arXiv 2002.05202): `a · gelu(b)` with `[a, b]` one projection of the input."""

    dim: int
    tanh: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens) -> Float[Array, "batch token {self.dim}"]:
        linear, gate = jnp.split(Dense(2 * self.dim, dtype=self.dtype, name="proj")(x), 2, axis=-1)
        return linear * nn.gelu(gate, approximate=self.tanh)


class FeedForward(nn.Module):
    """GEGLU of width 4·dim and a projection back."""

    dim: int
    tanh: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        h = GatedGelu(4 * self.dim, self.tanh, dtype=self.dtype, name="net_0")(x)
        return Dense(self.dim, dtype=self.dtype, name="net_2")(h)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; each pre-normalised and residual.

    Several texts per item make as many rows of it, from the cross-attention on.
    """

    heads: int
    tanh: bool
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"

    @nn.compact
    def __call__(self, x: Tokens, context: Float[Array, "row key width"]) -> Float[Array, "row token dim"]:
        norm = functools.partial(LayerNorm, epsilon=1e-5, dtype=self.dtype)
        attention = functools.partial(Attention, self.heads, self.dtype, self.platform)
        x = per_row(x + attention(name="attn1")(norm(name="norm1")(x)), context)
        x = x + attention(name="attn2")(norm(name="norm2")(x), context)
        return x + FeedForward(x.shape[-1], self.tanh, self.dtype, name="ff")(norm(name="norm3")(x))


class SpatialTransformer(nn.Module):
    """A transformer block over the flattened pixels (Transformer2DModel with one block)."""

    heads: int
    config: UNetConfig
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"

    @nn.compact
    def __call__(self, x: FeatureMap, context: Float[Array, "row key width"]) -> Float[Array, "row h w c"]:
        b, h, w, c = x.shape
        as_flax = self.config.reference == "flax"
        epsilon = 1e-5 if as_flax else 1e-6
        y = GroupNorm(self.config.norm_num_groups, epsilon=epsilon, dtype=self.dtype, name="norm")(x)
        y = self._project(y, "proj_in").reshape(b, h * w, c)
        block = TransformerBlock(self.heads, as_flax, self.dtype, self.platform, name="transformer_blocks_0")
        y = self._project(block(y, context).reshape(-1, h, w, c), "proj_out")
        return per_row(x, y) + y

    def _project(self, x: FeatureMap, name: str) -> FeatureMap:
        # A 1×1 convolution and a dense layer compute the same; the published kernels differ in rank.
        if self.config.use_linear_projection:
            return Dense(x.shape[-1], dtype=self.dtype, name=name)(x)
        return Conv(x.shape[-1], (1, 1), dtype=self.dtype, name=name)(x)


class DownBlock(nn.Module):
    """Resnets (each followed by a transformer where `cross`), then a strided convolution unless last."""

    level: int
    config: UNetConfig
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"

    @nn.compact
    def __call__(
        self, x: FeatureMap, time: Float[Array, "item time"], context: Float[Array, "row key dim"]
    ) -> tuple[Float[Array, "kept h2 w2 width"], tuple[Array, ...]]:
        cfg, skips = self.config, []
        cross = cfg.down_block_types[self.level] == "CrossAttnDownBlock2D"
        width = cfg.block_out_channels[self.level]
        for i in range(cfg.layers_per_block):
            x = ResnetBlock(width, cfg.norm_num_groups, cfg.norm_eps, self.dtype, name=f"resnets_{i}")(
                x, per_row(time, x)
            )
            if cross:
                heads, name = cfg.heads(self.level), f"attentions_{i}"
                x = SpatialTransformer(heads, cfg, self.dtype, self.platform, name=name)(x, context)
            skips.append(x)
        if self.level < len(cfg.block_out_channels) - 1:
            x = Downsample(width, _SYMMETRIC, self.dtype, name="downsamplers_0")(x)
            skips.append(x)
        return x, tuple(skips)


class MidBlock(nn.Module):
    """Resnet, transformer, resnet at the coarsest level."""

    config: UNetConfig
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"

    @nn.compact
    def __call__(self, x: FeatureMap, time: TimeFeatures, context: Context) -> FeatureMap:
        cfg, level = self.config, len(self.config.block_out_channels) - 1
        width = cfg.block_out_channels[level]
        x = ResnetBlock(width, cfg.norm_num_groups, cfg.norm_eps, self.dtype, name="resnets_0")(x, time)
        x = SpatialTransformer(cfg.heads(level), cfg, self.dtype, self.platform, name="attentions_0")(x, context)
        return ResnetBlock(width, cfg.norm_num_groups, cfg.norm_eps, self.dtype, name="resnets_1")(x, time)


class UpBlock(nn.Module):
    """Mirror of `DownBlock`: each resnet takes one skip connection; `index` counts from the coarsest.

    With an `edit` the skips still hold the reference rows that `x` has lost.
    """

    index: int
    config: UNetConfig
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"

    @nn.compact
    def __call__(
        self,
        x: FeatureMap,
        skips: tuple[Array, ...],
        time: TimeFeatures,
        context: Context,
        edit: SkipEdit | None = None,
    ) -> Float[Array, "batch h2 w2 width"]:
        cfg, level = self.config, len(self.config.block_out_channels) - 1 - self.index
        cross = cfg.up_block_types[self.index] == "CrossAttnUpBlock2D"
        width = cfg.block_out_channels[level]
        for i, skip in enumerate(reversed(skips)):
            if edit is not None:
                x, skip = edit(x, skip, cfg.block_out_channels)
            x = jnp.concatenate([x, skip], axis=-1)
            x = ResnetBlock(width, cfg.norm_num_groups, cfg.norm_eps, self.dtype, name=f"resnets_{i}")(x, time)
            if cross:
                heads, name = cfg.heads(level), f"attentions_{i}"
                x = SpatialTransformer(heads, cfg, self.dtype, self.platform, name=name)(x, context)
        return x if level == 0 else Upsample(width, self.dtype, name="upsamplers_0")(x)


class TimeEmbedding(nn.Module):
    """Two dense layers on the sinusoidal timestep features; `[batch, 4 · first width]`."""

    dim: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "batch features"]) -> TimeFeatures:
        h = nn.silu(Dense(self.dim, dtype=self.dtype, name="linear_1")(features))
        return Dense(self.dim, dtype=self.dtype, name="linear_2")(h)


class UNet(nn.Module):
    """The denoiser ε_θ(z_t, t, c) (or v_θ): what it predicts is the scheduler config's `prediction_type`."""

    config: UNetConfig
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"  # of the devices it runs on; see `ine_jax.models.attention`

    @nn.compact
    def __call__(
        self,
        latents: Latents,
        timesteps: PerItem,
        context: Float[Array, "row key width"],
        edit: SkipEdit | None = None,
    ) -> Float[Array, "kept h w {self.config.out_channels}"]:
        """Predict an array like the latents of every text, in the compute dtype.

        h and w must be divisible by 2^(levels - 1). There may be several texts for each of the latents, one after the
        other. All layers before the first cross-attention are then computed once for them.

        With an `edit` the last of every `branches + 1` rows is a reference. It runs through the down path only; where
        skip connections enter the up path, the edit compares those of the other rows with the reference's. The result
        has `branches` rows per item.
        """
        cfg = self.config
        first = cfg.block_out_channels[0]
        features = sinusoidal_embedding(timesteps, first, cfg.flip_sin_to_cos, cfg.freq_shift, cfg.reference)
        time = TimeEmbedding(4 * first, self.dtype, name="time_embedding")(features.astype(self.dtype))
        context = context.astype(self.dtype)
        x = Conv(first, (3, 3), padding=1, dtype=self.dtype, name="conv_in")(latents.astype(self.dtype))

        skips: tuple[Array, ...] = (x,)
        for level in range(len(cfg.block_out_channels)):
            x, new = DownBlock(level, cfg, self.dtype, self.platform, name=f"down_blocks_{level}")(x, time, context)
            skips += new
        x, time, *skips_of_rows = (per_row(each, context) for each in (x, time, *skips))
        skips = tuple(skips_of_rows)
        if edit is not None:
            x, time, context = edit.kept(x), edit.kept(time), edit.kept(context)
        x = MidBlock(cfg, self.dtype, self.platform, name="mid_block")(x, time, context)
        taken = cfg.layers_per_block + 1
        for index in range(len(cfg.block_out_channels)):
            block = UpBlock(index, cfg, self.dtype, self.platform, name=f"up_blocks_{index}")
            x = block(x, skips[-taken:], time, context, edit)
            skips = skips[:-taken]
        x = GroupNorm(cfg.norm_num_groups, epsilon=cfg.norm_eps, dtype=self.dtype, name="conv_norm_out")(x)
        return Conv(cfg.out_channels, (3, 3), padding=1, dtype=self.dtype, name="conv_out")(nn.silu(x))
