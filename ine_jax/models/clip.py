"""Text encoder of CLIP (arXiv 2103.00020 §2.4): causal pre-norm transformer over token embeddings.

The parameter tree equals transformers' ``FlaxCLIPTextModel``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ine_jax.models.layers import Dtype, config_from_json
from ine_jax.types import Array, Params

REFUSED: dict[str, tuple[Any, ...]] = {"hidden_act": ("quick_gelu", "gelu")}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Shape of a stack of CLIP's layers, of either tower."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class ClipTextConfig(EncoderConfig):
    """Shape of the text encoder; field names are those of transformers' ``text_encoder/config.json``.

    ``eos_token_id`` marks the pooled position. Configs older than transformers 4.31 say 2 there although the
    tokenizer's end token is the last id of the vocabulary; 2 is therefore read as ``vocab_size − 1``.
    """

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    eos_token_id: int = 49407

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ClipTextConfig":
        """Read ``text_encoder/config.json``; raises :class:`InputError` for an activation that CLIP does not use."""
        config = config_from_json(cls, values, REFUSED)
        end = config.vocab_size - 1 if values.get("eos_token_id", 2) == 2 else config.eos_token_id
        return dataclasses.replace(config, eos_token_id=end)


class ClipTextOutput(NamedTuple):
    """``hidden [batch, token, dim]`` after the final layer norm; ``pooled [batch, dim]`` its row at the first EOS."""

    hidden: Array
    pooled: Array


def embed_tokens(params: Params, input_ids: Array) -> Array:
    """Rows ``[batch, token, dim]`` of the token table for ``input_ids [batch, token]``, without positions."""
    return params["text_model"]["embeddings"]["token_embedding"]["embedding"][input_ids]


def pooled(hidden: Array, input_ids: Array, config: ClipTextConfig) -> ClipTextOutput:
    """``hidden`` with its row at the first end token of each of ``input_ids``."""
    end = jnp.argmax(input_ids == config.eos_token_id, axis=-1)
    return ClipTextOutput(hidden, jnp.take_along_axis(hidden, end[:, None, None], axis=1)[:, 0])


class _Attention(nn.Module):
    heads: int
    causal: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, t, d = x.shape

        def project(name: str) -> Array:
            return nn.Dense(d, dtype=self.dtype, name=name)(x).reshape(b, t, self.heads, d // self.heads)

        query, key, value = project("q_proj"), project("k_proj"), project("v_proj")
        out = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal)
        return nn.Dense(d, dtype=self.dtype, name="out_proj")(out.reshape(b, t, d))


class _Mlp(nn.Module):
    config: EncoderConfig
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.Dense(self.config.intermediate_size, dtype=self.dtype, name="fc1")(x)
        quick = self.config.hidden_act == "quick_gelu"
        h = h * nn.sigmoid(1.702 * h) if quick else nn.gelu(h, approximate=False)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="fc2")(h)


class _Layer(nn.Module):
    config: EncoderConfig
    causal: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cfg = self.config

        def norm(name: str, h: Array) -> Array:
            return nn.LayerNorm(epsilon=cfg.layer_norm_eps, dtype=self.dtype, name=name)(h)

        attend = _Attention(cfg.num_attention_heads, self.causal, self.dtype, name="self_attn")
        x = x + attend(norm("layer_norm1", x))
        return x + _Mlp(cfg, self.dtype, name="mlp")(norm("layer_norm2", x))


class _Layers(nn.Module):
    config: EncoderConfig
    causal: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.config.num_hidden_layers):
            x = _Layer(self.config, self.causal, self.dtype, name=str(i))(x)
        return x


class Encoder(nn.Module):
    """The stack of pre-norm layers that both towers have; causal in the text tower."""

    config: EncoderConfig
    causal: bool
    dtype: Dtype

    def setup(self) -> None:
        self.layers = _Layers(self.config, self.causal, self.dtype)

    def __call__(self, x: Array) -> Array:
        return self.layers(x)


class _Embeddings(nn.Module):
    config: ClipTextConfig
    dtype: Dtype

    def setup(self) -> None:
        cfg = self.config
        self.token_embedding = nn.Embed(cfg.vocab_size, cfg.hidden_size, dtype=self.dtype)
        self.position_embedding = nn.Embed(cfg.max_position_embeddings, cfg.hidden_size, dtype=self.dtype)

    def __call__(self, input_ids: Array, token_embeddings: Array | None) -> Array:
        tokens = self.token_embedding(input_ids) if token_embeddings is None else token_embeddings.astype(self.dtype)
        return tokens + self.position_embedding(jnp.arange(input_ids.shape[1]))[None]


class TextModel(nn.Module):
    """Hidden states ``[batch, token, dim]`` after the final layer norm."""

    config: ClipTextConfig
    dtype: Dtype

    def setup(self) -> None:
        self.embeddings = _Embeddings(self.config, self.dtype)
        self.encoder = Encoder(self.config, True, self.dtype)
        self.final_layer_norm = nn.LayerNorm(epsilon=self.config.layer_norm_eps, dtype=self.dtype)

    def __call__(self, input_ids: Array, token_embeddings: Array | None) -> Array:
        return self.final_layer_norm(self.encoder(self.embeddings(input_ids, token_embeddings)))


class ClipText(nn.Module):
    """CLIP's text encoder without the projection to the shared space (Stable Diffusion does not use it)."""

    config: ClipTextConfig
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        self.text_model = TextModel(self.config, self.dtype)

    def __call__(self, input_ids: Array, token_embeddings: Array | None = None) -> ClipTextOutput:
        """Encode ``input_ids [batch, token]``.

        ``token_embeddings [batch, token, dim]`` replace the table's rows (that is where learned vectors are spliced
        in); ``input_ids`` then only locate the end token.
        """
        return pooled(self.text_model(input_ids, token_embeddings), input_ids, self.config)
