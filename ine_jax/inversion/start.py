"""Where an inversion starts: a word's row of the token table or its context, the mean, or the closed form of RECE."""

from collections.abc import Sequence

import numpy as np

from ine_jax.config import InversionConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.inversion import rece
from ine_jax.inversion.stored import RECE, explicit_words
from ine_jax.inversion.templates import usable
from ine_jax.pipeline.pipeline import Pipeline

MEAN = "mean"


def first_vectors(pipe: Pipeline, configs: Sequence[InversionConfig], base: Pipeline | None = None) -> list[np.ndarray]:
    """The first value of each concept's vectors, float32: [k, d] in token space, [T, D] in context space.

    Token space: all k rows start as one row of the token table, that of the single-token word `init`; or as the
    table's mean; or, for "rece", as the row nearest to RECE's closed form in the first template (`rece.nearest_row`).
    Context space: the encoded word; for "mean" the encoded empty prompt; for "rece" the closed form itself, against
    the original model `base`. Raises InputError for a word of several tokens, or "rece" without the original model.
    """
    one = _context if configs[0].space == "context" else _rows
    return [one(pipe, config, base) for config in configs]


def _context(pipe: Pipeline, config: InversionConfig, base: Pipeline | None) -> np.ndarray:
    if config.init == RECE:
        return rece.solve(pipe, _original(base), explicit_words(config), config.regularizer).context
    # One row per device, so that the bits do not depend on the number of devices.
    context: np.ndarray = pipe.encode(["" if config.init == MEAN else config.init], batch_size=1)[0]
    return context


def _rows(pipe: Pipeline, config: InversionConfig, base: Pipeline | None) -> np.ndarray:
    table = np.asarray(pipe.parts.text_params["text_model"]["embeddings"]["token_embedding"]["embedding"])
    if config.init == MEAN:
        row = table.astype(np.float32).mean(axis=0)
    elif config.init == RECE:
        probe = Embedding(np.zeros((config.vectors, table.shape[1]), np.float32), concept=config.concept)
        before = usable(config.templates, probe, pipe.tokenizer)[0].partition("{}")[0]
        words = explicit_words(config)
        row = table[rece.nearest_row(pipe, _original(base), words, before, config.regularizer)].astype(np.float32)
    else:
        row = table[_word(pipe, config.init)].astype(np.float32)
    return np.tile(row, (config.vectors, 1))


def _word(pipe: Pipeline, word: str) -> int:
    ids = pipe.tokenizer.word_ids(word)
    if len(ids) != 1:
        given = f"init {word!r} is {len(ids)} tokens"
        raise InputError(given, "a word that is one token, mean, or rece", "change init")
    return ids[0]


def _original(base: Pipeline | None) -> Pipeline:
    if base is None:
        raise InputError("init rece without the original model", "the model that was unlearned", "give base")
    return base
