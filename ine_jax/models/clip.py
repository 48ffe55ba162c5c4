"""Text encoder of CLIP (arXiv 2103.00020 §2.4): causal pre-norm transformer over token embeddings.

The parameter tree equals transformers' `FlaxCLIPTextModel`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from ine_jax.models.attention import attention
from ine_jax.models.layers import Dense, Embed, LayerNorm, Options, Stack, config_from_json
from ine_jax.types import Array, Params, TokenIds, Tokens

OPTIONS: Options = {"hidden_act": ("quick_gelu", "gelu")}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Shape of a stack of CLIP layers, in either tower."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "quick_gelu"
    layer_norm_eps: int | float = 1e-5


@dataclasses.dataclass(frozen=True)
class ClipTextConfig(EncoderConfig):
    """Shape of the text encoder; field names are those of transformers' `text_encoder/config.json`.

    `eos_token_id` marks the pooled position. Configs older than transformers 4.31 hold 2 there although the
    tokenizer's end token is the last id of the vocabulary, so 2 is read as `vocab_size - 1`.
    """

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    eos_token_id: int = 49407

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "ClipTextConfig":
        """Read `text_encoder/config.json`; raises InputError for an activation that CLIP does not use."""
        config = config_from_json(cls, values, OPTIONS)
        end = config.vocab_size - 1 if values.get("eos_token_id", 2) == 2 else config.eos_token_id
        return dataclasses.replace(config, eos_token_id=end)


class ClipTextOutput(NamedTuple):
    """Hidden states after the final layer norm, and the hidden state at the first end token."""

    hidden: Tokens
    pooled: Float[Array, "batch dim"]


def embed_tokens(params: Params, input_ids: TokenIds) -> Tokens:
    """Rows of the token table for `input_ids`, without positions."""
    table: Array = params["text_model"]["embeddings"]["token_embedding"]["embedding"]
    return table[input_ids]


def pool_at_end_token(hidden: Tokens, input_ids: TokenIds, config: ClipTextConfig) -> ClipTextOutput:
    """`hidden`, and its row at the first end token of each prompt."""
    end = jnp.argmax(input_ids == config.eos_token_id, axis=-1)
    return ClipTextOutput(hidden, jnp.take_along_axis(hidden, end[:, None, None], axis=1)[:, 0])


class _Attention(nn.Module):
    heads: int
    causal: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        b, t, d = x.shape

        def project(name: str) -> Float[Array, "batch token head width"]:
            out: Array = Dense(d, dtype=self.dtype, name=name)(x).reshape(b, t, self.heads, d // self.heads)
            return out

        query, key, value = project("q_proj"), project("k_proj"), project("v_proj")
        out = attention(query, key, value, causal=self.causal)
        return Dense(d, dtype=self.dtype, name="out_proj")(out.reshape(b, t, d))


class _Mlp(nn.Module):
    config: EncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        h = Dense(self.config.intermediate_size, dtype=self.dtype, name="fc1")(x)
        quick = self.config.hidden_act == "quick_gelu"
        h = h * nn.sigmoid(1.702 * h) if quick else nn.gelu(h, approximate=False)
        return Dense(x.shape[-1], dtype=self.dtype, name="fc2")(h)


class _Layer(nn.Module):
    config: EncoderConfig
    causal: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        cfg = self.config
        norm = functools.partial(LayerNorm, epsilon=cfg.layer_norm_eps, dtype=self.dtype)
        attend = _Attention(cfg.num_attention_heads, self.causal, self.dtype, name="self_attn")
        x = x + attend(norm(name="layer_norm1")(x))
        return x + _Mlp(cfg, self.dtype, name="mlp")(norm(name="layer_norm2")(x))


class Encoder(nn.Module):
    """The stack of pre-norm layers of both towers; causal in the text tower."""

    config: EncoderConfig
    causal: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        layer = functools.partial(_Layer, self.config, self.causal, self.dtype)
        return Stack(layer, self.config.num_hidden_layers, name="layers")(x)


class _Embeddings(nn.Module):
    config: ClipTextConfig
    dtype: DTypeLike

    def setup(self) -> None:
        cfg = self.config
        self.token_embedding = Embed(cfg.vocab_size, cfg.hidden_size, dtype=self.dtype)
        self.position_embedding = Embed(cfg.max_position_embeddings, cfg.hidden_size, dtype=self.dtype)

    def __call__(self, input_ids: TokenIds, token_embeddings: Tokens | None) -> Tokens:
        tokens = self.token_embedding(input_ids) if token_embeddings is None else token_embeddings.astype(self.dtype)
        return tokens + self.position_embedding(jnp.arange(input_ids.shape[1]))[None]


class TextModel(nn.Module):
    """Hidden states after the final layer norm."""

    config: ClipTextConfig
    dtype: DTypeLike

    def setup(self) -> None:
        self.embeddings = _Embeddings(self.config, self.dtype)
        self.encoder = Encoder(self.config, True, self.dtype)
        self.final_layer_norm = LayerNorm(epsilon=self.config.layer_norm_eps, dtype=self.dtype)

    def __call__(self, input_ids: TokenIds, token_embeddings: Tokens | None) -> Tokens:
        hidden: Array = self.final_layer_norm(self.encoder(self.embeddings(input_ids, token_embeddings)))
        return hidden


class ClipText(nn.Module):
    """CLIP's text encoder without the projection to the shared space (Stable Diffusion does not use it)."""

    config: ClipTextConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.text_model = TextModel(self.config, self.dtype)

    def __call__(self, input_ids: TokenIds, token_embeddings: Tokens | None = None) -> ClipTextOutput:
        """Encode `input_ids`.

        `token_embeddings` replace the table's rows (this is where learned vectors are spliced in); `input_ids` then
        only locate the end token.
        """
        return pool_at_end_token(self.text_model(input_ids, token_embeddings), input_ids, self.config)
