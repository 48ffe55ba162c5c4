"""CLIP with both towers (arXiv 2103.00020 §2): images and texts as vectors of one space.

The parameter tree equals transformers' `FlaxCLIPModel`; the vision tower is a pre-norm vision transformer
(arXiv 2010.11929 §3.1) with one layer norm more, before the layers.
"""

import dataclasses
import math
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from ine_jax.models.clip import OPTIONS, ClipTextConfig, Encoder, EncoderConfig, TextModel, pool_at_end_token
from ine_jax.models.layers import Conv, Dense, Embed, LayerNorm, config_from_json
from ine_jax.types import Array, Images, TokenIds, Tokens

LOGIT_SCALE = math.log(1 / 0.07)  # where training starts it (§2.5)


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig(EncoderConfig):
    """Shape of the vision tower; field names and defaults are those of transformers' `vision_config`."""

    image_size: int = 224
    patch_size: int = 32

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "ClipVisionConfig":
        """Read a `vision_config`; raises InputError for an activation that CLIP does not use."""
        return config_from_json(cls, values, OPTIONS)


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Shape of both towers and of the space they share."""

    text: ClipTextConfig
    vision: ClipVisionConfig
    projection_dim: int = 512


class _Embeddings(nn.Module):
    config: ClipVisionConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, pixels: Images) -> Tokens:
        cfg, width = self.config, self.config.hidden_size
        patch = (cfg.patch_size, cfg.patch_size)
        first = self.param("class_embedding", nn.initializers.normal(0.02), (width,))
        conv = Conv(width, patch, patch, "VALID", use_bias=False, dtype=self.dtype, name="patch_embedding")
        patches = conv(pixels).reshape(pixels.shape[0], -1, width)
        first = jnp.broadcast_to(first.astype(self.dtype), (pixels.shape[0], 1, width))
        x = jnp.concatenate([first, patches], axis=1)
        positions = Embed(x.shape[1], width, dtype=self.dtype, name="position_embedding")
        return x + positions(jnp.arange(x.shape[1]))[None]


class _VisionModel(nn.Module):
    config: ClipVisionConfig
    dtype: DTypeLike

    def setup(self) -> None:
        eps = self.config.layer_norm_eps
        self.embeddings = _Embeddings(self.config, self.dtype)
        self.pre_layrnorm = LayerNorm(epsilon=eps, dtype=self.dtype)  # spelt as in every published file
        self.encoder = Encoder(self.config, False, self.dtype)
        self.post_layernorm = LayerNorm(epsilon=eps, dtype=self.dtype)

    def __call__(self, pixels: Images) -> Float[Array, "batch dim"]:
        hidden = self.encoder(self.pre_layrnorm(self.embeddings(pixels)))
        first: Array = self.post_layernorm(hidden[:, 0])
        return first


class Clip(nn.Module):
    """Both towers with their projections; features are not normalised.

    `image_features` runs on the parameters without `text_model` and `text_projection`, `text_features` on
    those without `vision_model` and `visual_projection`.
    """

    config: ClipConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.text_model = TextModel(self.config.text, self.dtype)
        self.vision_model = _VisionModel(self.config.vision, self.dtype)
        self.text_projection = Dense(self.config.projection_dim, use_bias=False, dtype=self.dtype)
        self.visual_projection = Dense(self.config.projection_dim, use_bias=False, dtype=self.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(LOGIT_SCALE), ())

    def image_features(self, pixels: Images) -> Float[Array, "batch {self.config.projection_dim}"]:
        """Features of normalised pixels."""
        return self.visual_projection(self.vision_model(pixels))

    def text_features(self, input_ids: TokenIds) -> Float[Array, "batch {self.config.projection_dim}"]:
        """Features of texts, read at their first end token."""
        hidden = self.text_model(input_ids, None)
        return self.text_projection(pool_at_end_token(hidden, input_ids, self.config.text).pooled)

    def __call__(
        self, pixels: Float[Array, "image H W 3"], input_ids: Int[Array, "text token"]
    ) -> Float[Array, "image text"]:
        """Logits: cosines times exp(logit_scale) (§2.3, figure 3)."""
        images, texts = self.image_features(pixels), self.text_features(input_ids)
        images, texts = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts))
        scale: Array = jnp.exp(self.logit_scale).astype(images.dtype)
        logits: Array = scale * images @ texts.T
        return logits
