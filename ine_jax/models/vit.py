"""Vision transformer with a classifier on its first token (arXiv 2010.11929 §3.1).

The parameter tree equals transformers' `FlaxViTForImageClassification`.
"""

import dataclasses
import functools
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from ine_jax.models.attention import attention
from ine_jax.models.layers import Conv, Dense, LayerNorm, Options, Stack, config_from_json
from ine_jax.types import Array, Images, Tokens

OPTIONS: Options = {"hidden_act": ("gelu",)}


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """Shape and labels; field names and defaults are those of transformers' `ViTConfig`.

    `labels` name the logits. If `independent`, each logit goes through its own sigmoid, else all through one softmax.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    layer_norm_eps: int | float = 1e-12
    image_size: int = 224
    patch_size: int = 16
    qkv_bias: bool = True
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    independent: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "VitConfig":
        """Read a `config.json`; raises InputError for an activation that published ones do not use."""
        return config_from_json(cls, values, OPTIONS)


class _Embeddings(nn.Module):
    config: VitConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, pixels: Images) -> Tokens:
        width = self.config.hidden_size
        patches = _Projection(self.config, self.dtype, name="patch_embeddings")(pixels)
        first = self.param("cls_token", nn.initializers.zeros, (1, 1, width))
        positions = self.param("position_embeddings", nn.initializers.normal(0.02), (1, patches.shape[1] + 1, width))
        first = jnp.broadcast_to(first.astype(self.dtype), (pixels.shape[0], 1, width))
        return jnp.concatenate([first, patches], axis=1) + positions.astype(self.dtype)


class _Projection(nn.Module):
    config: VitConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, pixels: Images) -> Tokens:
        width, patch = self.config.hidden_size, (self.config.patch_size,) * 2
        x = Conv(width, patch, patch, "VALID", dtype=self.dtype, name="projection")(pixels)
        return x.reshape(pixels.shape[0], -1, width)


class _Named(nn.Module):
    """A dense layer under the one name `dense`, as transformers nests it."""

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Tokens) -> Float[Array, "batch token {self.width}"]:
        return Dense(self.width, dtype=self.dtype, name="dense")(x)


class _SelfAttention(nn.Module):
    config: VitConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        b, t, d = x.shape
        heads = self.config.num_attention_heads

        def project(name: str) -> Float[Array, "batch token head width"]:
            dense = Dense(d, use_bias=self.config.qkv_bias, dtype=self.dtype, name=name)
            out: Array = dense(x).reshape(b, t, heads, d // heads)
            return out

        return attention(project("query"), project("key"), project("value")).reshape(b, t, d)


class _Attention(nn.Module):
    config: VitConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        x = _SelfAttention(self.config, self.dtype, name="attention")(x)
        return _Named(self.config.hidden_size, self.dtype, name="output")(x)


class _Layer(nn.Module):
    config: VitConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        cfg = self.config
        norm = functools.partial(LayerNorm, epsilon=cfg.layer_norm_eps, dtype=self.dtype)
        x = x + _Attention(cfg, self.dtype, name="attention")(norm(name="layernorm_before")(x))
        h = _Named(cfg.intermediate_size, self.dtype, name="intermediate")(norm(name="layernorm_after")(x))
        return x + _Named(cfg.hidden_size, self.dtype, name="output")(nn.gelu(h, approximate=False))


class _Encoder(nn.Module):
    config: VitConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        layer = functools.partial(_Layer, self.config, self.dtype)
        return Stack(layer, self.config.num_hidden_layers, name="layer")(x)


class _Vit(nn.Module):
    config: VitConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, pixels: Images) -> Float[Array, "batch dim"]:
        x = _Embeddings(self.config, self.dtype, name="embeddings")(pixels)
        x = _Encoder(self.config, self.dtype, name="encoder")(x)
        first: Array = LayerNorm(epsilon=self.config.layer_norm_eps, dtype=self.dtype, name="layernorm")(x[:, 0])
        return first


class Vit(nn.Module):
    """Classifier of normalised pixels."""

    config: VitConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.vit = _Vit(self.config, self.dtype)
        self.classifier = Dense(len(self.config.labels), dtype=self.dtype)

    def __call__(self, pixels: Images) -> Float[Array, "batch label"]:
        """Logits of the labels."""
        return self.classifier(self.vit(pixels))
