"""Prompts to CLIP context: tokenizer, learned rows spliced in, encoding.

A learned token ``<name>`` in a prompt becomes k consecutive placeholder ids, numbered from ``PLACEHOLDER`` on. They
lie far above any vocabulary, so neither the tokenizer's vocabulary nor the model's table is ever changed; ``splice``
puts the learned rows in their places after the lookup. A ``<name>`` that no given embedding owns stays ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.models.clip import ClipText, embed_tokens
from ine_jax.types import Array, Context, Params

PLACEHOLDER = 1 << 24
_FILES = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class Tokenizer:
    """CLIP's byte-pair tokenizer over local files, fixed to sequences of ``max_length`` ids (77 for Stable
    Diffusion).
    """

    backend: Any
    max_length: int

    @classmethod
    def from_dir(cls, path: str | Path, max_length: int) -> Tokenizer:
        """Read ``vocab.json`` and ``merges.txt`` (or ``tokenizer.json``) from a local folder; never asks a network.

        Raises ``InputError`` where the folder has no such files, they cannot be read, or ``max_length`` is below 3.
        """
        folder = Path(path)
        if max_length < 3:
            raise InputError(
                f"max_length {max_length}", "3 or more (begin, one token, end)", "use the text model's length"
            )
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing and not (folder / "tokenizer.json").is_file():
            raise InputError(
                f"tokenizer folder {folder} has no {missing[0]}", "vocab.json and merges.txt", "check the path"
            )
        from transformers import CLIPTokenizer

        try:
            backend = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # the library raises many kinds for broken files
            raise InputError(
                f"tokenizer folder {folder}: {str(error)[:120]}", "CLIP tokenizer files", "copy them anew"
            ) from error
        return cls(backend, max_length)

    def ids(self, prompts: Sequence[str], embeddings: Sequence[Embedding] = ()) -> np.ndarray:
        """Token ids int32 ``[B, T]``: begin, prompt, end, padding; learned tokens as ids from ``PLACEHOLDER`` on, row
        by row in order.
        """
        return np.asarray([self._row(pieces) for pieces in self._split(prompts, embeddings)], np.int32).reshape(
            -1, self.max_length
        )

    def truncated(self, prompts: Sequence[str], embeddings: Sequence[Embedding] = ()) -> list[bool]:
        """For each prompt, whether it has more tokens than fit between begin and end."""
        return [len(pieces) > self.max_length - 2 for pieces in self._split(prompts, embeddings)]

    def word_ids(self, word: str) -> list[int]:
        """Ids of the bare word, without begin, end and padding."""
        return list(self.backend(word, add_special_tokens=False, truncation=False)["input_ids"]) if word else []

    def _row(self, pieces: list[int]) -> list[int]:
        row = [self.backend.bos_token_id, *pieces[: self.max_length - 2], self.backend.eos_token_id]
        return row + [self.backend.pad_token_id] * (self.max_length - len(row))

    def _split(self, prompts: Sequence[str], embeddings: Sequence[Embedding]) -> list[list[int]]:
        if isinstance(prompts, str):
            raise InputError("prompts as one text", "a list of prompts", "put the prompt in a list")
        spans = _spans(embeddings)
        pattern = re.compile("(" + "|".join(map(re.escape, spans)) + ")") if spans else None
        rows = []
        for prompt in prompts:
            parts = pattern.split(prompt) if pattern else [prompt]
            rows.append([i for part in parts for i in (spans[part] if part in spans else self.word_ids(part))])
        return rows


def _spans(embeddings: Sequence[Embedding]) -> dict[str, list[int]]:
    """The placeholder ids of every learned token, rows numbered through all embeddings in order."""
    spans: dict[str, list[int]] = {}
    first = PLACEHOLDER
    for embedding in embeddings:
        if embedding.space != "token":
            raise InputError(
                f"{embedding.token} is a context embedding", "token embeddings inside a prompt", "use it as negative"
            )
        if embedding.token in spans:
            raise InputError(f"two embeddings named {embedding.token}", "one embedding per name", "rename one of them")
        rows = int(embedding.vectors.shape[0])
        spans[embedding.token] = list(range(first, first + rows))
        first += rows
    return spans


def learned_rows(embeddings: Sequence[Embedding], dim: int, multiple: int = 8) -> np.ndarray:
    """All learned vectors one under the other, float32 ``[R, dim]``, zero rows up to the next multiple so that few
    shapes exist.

    Raises ``InputError`` where an embedding was made for a text model of another width.
    """
    stacks = [np.asarray(e.vectors, np.float32) for e in embeddings]
    for embedding, rows in zip(embeddings, stacks, strict=True):
        if rows.shape[-1] != dim:
            raise InputError(
                f"{embedding.token} has {rows.shape[-1]} numbers per vector",
                f"{dim} for this text model",
                "invert it on this model family",
            )
    count = sum(len(rows) for rows in stacks)
    padding = np.zeros((max(multiple, -(-count // multiple) * multiple) - count, dim), np.float32)
    return np.concatenate([*stacks, padding])


def splice(params: Params, ids: Array, learned: Array) -> tuple[Array, Array]:
    """In-vocabulary ids ``[B, T]`` and token embeddings ``[B, T, D]`` in which placeholder i holds row i of ``learned
    [R, D]``.
    """
    is_learned = ids >= PLACEHOLDER
    known = jnp.where(is_learned, 0, ids)
    # The learned rows keep their own precision: a half-precision table must not round what the optimizer found.
    table_rows = embed_tokens(params, known).astype(learned.dtype)
    learned_at = learned[jnp.where(is_learned, ids - PLACEHOLDER, 0)]
    return known, jnp.where(is_learned[..., None], learned_at, table_rows)


def encode_ids(model: ClipText, params: Params, ids: Array, learned: Array) -> Context:
    """CLIP's context ``[B, T, D]`` (after the final layer norm) of ids that may hold placeholders; pure,
    differentiable in ``learned``.
    """
    known, token_embeddings = splice(params, ids, learned)
    return model.apply({"params": params}, known, token_embeddings=token_embeddings).hidden


def encode(
    model: ClipText, params: Params, tokenizer: Tokenizer, prompts: Sequence[str], embeddings: Sequence[Embedding] = ()
) -> Context:
    """The context ``[B, T, D]`` of prompts in which the token of every given embedding means its learned rows."""
    ids = jnp.asarray(tokenizer.ids(prompts, embeddings))
    learned = jnp.asarray(learned_rows(embeddings, text_width(params)))
    return encode_ids(model, params, ids, learned)


def text_width(params: Params) -> int:
    """D, the width of the text model's token table."""
    one = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return int(jax.eval_shape(embed_tokens, params, one).shape[-1])
