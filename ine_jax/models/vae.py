"""AutoencoderKL of Stable Diffusion (arXiv 2112.10752 §3.1), encoder and decoder, NHWC.

The parameter tree equals diffusers' `FlaxAutoencoderKL`.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from ine_jax.errors import InputError
from ine_jax.models.attention import attention
from ine_jax.models.layers import Conv, Dense, Downsample, GroupNorm, Options, ResnetBlock, Upsample, config_from_json
from ine_jax.types import Array, FeatureMap, Images, Latents

_EPSILON = 1e-6
_BOTTOM_RIGHT = ((0, 1), (0, 1))
_LOGVAR_RANGE = (-30.0, 20.0)
OPTIONS: Options = {
    "act_fn": ("silu", "swish"),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
    "mid_block_add_attention": (True,),
    "shift_factor": (None,),
    "latents_mean": (None,),
    "latents_std": (None,),
}


@dataclasses.dataclass(frozen=True)
class VaeConfig:
    """Shape of the autoencoder; field names are those of diffusers' `vae/config.json`.

    `scaling_factor` multiplies latents so that their standard deviation is about 1 for the UNet.
    """

    sample_size: int = 512
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: int | float = 0.18215

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "VaeConfig":
        """Read `vae/config.json`; raises InputError for a variant that is not SD 1.x/2.x."""
        for field, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            given = values.get(field) or ()
            for name in given if isinstance(given, list | tuple) else (given,):
                if name != kind:
                    raise InputError(f"vae {field} holds {name!r}", f"known: {kind}", "use an SD 1.x/2.x VAE")
        return config_from_json(cls, values, OPTIONS)

    @property
    def downscale(self) -> int:
        """Pixels per latent cell along one side."""
        return 1 << (len(self.block_out_channels) - 1)


class SpatialAttention(nn.Module):
    """Single-head self-attention over the pixels, residual."""

    groups: int
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        b, h, w, c = x.shape
        y = GroupNorm(self.groups, epsilon=_EPSILON, dtype=self.dtype, name="group_norm")(x).reshape(b, h * w, 1, c)
        query, key, value = (Dense(c, dtype=self.dtype, name=name)(y) for name in ("query", "key", "value"))
        y = Dense(c, dtype=self.dtype, name="proj_attn")(attention(query, key, value, self.platform))
        return x + y.reshape(b, h, w, c)


class MidBlock(nn.Module):
    """Resnet, attention, resnet."""

    groups: int
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        width = x.shape[-1]
        x = ResnetBlock(width, self.groups, _EPSILON, self.dtype, name="resnets_0")(x)
        x = SpatialAttention(self.groups, self.dtype, self.platform, name="attentions_0")(x)
        return ResnetBlock(width, self.groups, _EPSILON, self.dtype, name="resnets_1")(x)


class Level(nn.Module):
    """Resnets of one width and, where asked for, a resampling layer after them."""

    width: int
    layers: int
    groups: int
    resample: str | None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap) -> Float[Array, "batch H W width"]:
        for i in range(self.layers):
            x = ResnetBlock(self.width, self.groups, _EPSILON, self.dtype, name=f"resnets_{i}")(x)
        if self.resample == "down":
            return Downsample(self.width, _BOTTOM_RIGHT, self.dtype, name="downsamplers_0")(x)
        if self.resample == "up":
            return Upsample(self.width, self.dtype, name="upsamplers_0")(x)
        return x


class Encoder(nn.Module):
    """Image to the moments of its latent, before `quant_conv`."""

    config: VaeConfig
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"

    @nn.compact
    def __call__(self, x: FeatureMap) -> Float[Array, "batch H W width"]:
        cfg, widths = self.config, self.config.block_out_channels
        x = Conv(widths[0], (3, 3), padding=1, dtype=self.dtype, name="conv_in")(x)
        for i, width in enumerate(widths):
            resample = "down" if i < len(widths) - 1 else None
            layers, name = cfg.layers_per_block, f"down_blocks_{i}"
            x = Level(width, layers, cfg.norm_num_groups, resample, self.dtype, name=name)(x)
        x = MidBlock(cfg.norm_num_groups, self.dtype, self.platform, name="mid_block")(x)
        x = GroupNorm(cfg.norm_num_groups, epsilon=_EPSILON, dtype=self.dtype, name="conv_norm_out")(x)
        return Conv(2 * cfg.latent_channels, (3, 3), padding=1, dtype=self.dtype, name="conv_out")(nn.silu(x))


class Decoder(nn.Module):
    """Latent, after `post_quant_conv`, to image."""

    config: VaeConfig
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"

    @nn.compact
    def __call__(self, x: FeatureMap) -> Float[Array, "batch H W width"]:
        cfg, widths = self.config, self.config.block_out_channels[::-1]
        x = Conv(widths[0], (3, 3), padding=1, dtype=self.dtype, name="conv_in")(x)
        x = MidBlock(cfg.norm_num_groups, self.dtype, self.platform, name="mid_block")(x)
        for i, width in enumerate(widths):
            resample = "up" if i < len(widths) - 1 else None
            layers, name = cfg.layers_per_block + 1, f"up_blocks_{i}"
            x = Level(width, layers, cfg.norm_num_groups, resample, self.dtype, name=name)(x)
        x = GroupNorm(cfg.norm_num_groups, epsilon=_EPSILON, dtype=self.dtype, name="conv_norm_out")(x)
        return Conv(cfg.out_channels, (3, 3), padding=1, dtype=self.dtype, name="conv_out")(nn.silu(x))


class Vae(nn.Module):
    """Variational autoencoder between images in [−1, 1] and unscaled latents."""

    config: VaeConfig
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"  # of the devices it runs on; see `ine_jax.models.attention`

    def setup(self) -> None:
        cfg = self.config
        self.encoder = Encoder(cfg, self.dtype, self.platform)
        self.decoder = Decoder(cfg, self.dtype, self.platform)
        self.quant_conv = Conv(2 * cfg.latent_channels, (1, 1), dtype=self.dtype)
        self.post_quant_conv = Conv(cfg.latent_channels, (1, 1), dtype=self.dtype)

    def encode(self, images: Images) -> tuple[Latents, Latents]:
        """Mean and log-variance of the posterior of `images`, unscaled."""
        mean, logvar = jnp.split(self.quant_conv(self.encoder(images.astype(self.dtype))), 2, axis=-1)
        return mean, jnp.clip(logvar, *_LOGVAR_RANGE)

    def decode(self, latents: Latents) -> Images:
        """Images (about [-1, 1], not clipped) of unscaled `latents`."""
        return self.decoder(self.post_quant_conv(latents.astype(self.dtype)))

    def __call__(self, images: Images) -> Images:
        """Reconstruction from the posterior mean; what `init` traces."""
        return self.decode(self.encode(images)[0])
