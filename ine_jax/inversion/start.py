"""Where an inversion starts: a word's row of the token table, the table's mean, or a word's context."""

from collections.abc import Sequence

import numpy as np

from ine_jax.config import InversionConfig
from ine_jax.errors import InputError
from ine_jax.pipeline import Pipeline

MEAN = "mean"


def first_vectors(pipe: Pipeline, configs: Sequence[InversionConfig]) -> list[np.ndarray]:
    """The first value of each concept's vectors, float32: [k, d] in token space, [T, D] in context space.

    Token space: all k rows start as the row of the single-token word `init`, or as the mean of the table. Context
    space: the encoded word, or for "mean" the encoded empty prompt. Raises InputError for a word of several tokens.
    """
    table = np.asarray(pipe.parts.text_params["text_model"]["embeddings"]["token_embedding"]["embedding"])
    if configs[0].space == "context":
        return list(pipe.encode(["" if config.init == MEAN else config.init for config in configs]))
    return [np.tile(_row(pipe, table, config.init), (config.vectors, 1)) for config in configs]


def _row(pipe: Pipeline, table: np.ndarray, word: str) -> np.ndarray:
    if word == MEAN:
        return table.astype(np.float32).mean(axis=0)
    ids = pipe.tokenizer.word_ids(word)
    if len(ids) != 1:
        raise InputError(f"init {word!r} is {len(ids)} tokens", "a word that is one token, or mean", "change init")
    return table[ids[0]].astype(np.float32)
