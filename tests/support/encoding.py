"""Prompts to context with a bare text encoder, without a pipeline."""

from collections.abc import Sequence

import jax.numpy as jnp

from ine_jax.embeddings.embedding import Embedding
from ine_jax.models.clip import ClipText
from ine_jax.models.text import Tokenizer, encode_ids, learned_rows
from ine_jax.types import Context, Params


def encode_prompts(
    model: ClipText, params: Params, tokenizer: Tokenizer, prompts: Sequence[str], embeddings: Sequence[Embedding] = ()
) -> Context:
    learned = learned_rows(embeddings, model.config.hidden_size)
    return encode_ids(model, params, jnp.asarray(tokenizer.ids(prompts, embeddings)), jnp.asarray(learned))
