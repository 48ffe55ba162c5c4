"""Prompts to CLIP context: tokenizer, learned rows spliced in, encoding.

A learned token `<name>` in a prompt becomes k consecutive placeholder ids, numbered from `PLACEHOLDER` on. They lie far
above any vocabulary, so neither the tokenizer's vocabulary nor the model's table changes; `splice` puts the learned
rows in their places after the lookup. A `<name>` without an embedding stays ordinary text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int32

from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError, is_text
from ine_jax.models.clip import ClipText, ClipTextOutput, embed_tokens
from ine_jax.models.parts import MAX_TOKENIZER, TOKENIZER_FILES
from ine_jax.storage.untrusted import open_regular
from ine_jax.types import Array, Context, Params, TokenIds, Tokens

PLACEHOLDER = 1 << 24
_FILES = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class Tokenizer:
    """CLIP's byte-pair tokenizer over local files; sequences have `max_length` ids (77 for Stable Diffusion)."""

    backend: Any  # transformers.CLIPTokenizer, which is imported only when one is read
    max_length: int

    @classmethod
    def from_dir(cls, path: str | Path, max_length: int) -> "Tokenizer":
        """Read `vocab.json` and `merges.txt` (or `tokenizer.json`) from a local folder, never from a network."""
        folder = Path(path)
        if max_length < 3:
            given = f"max_length {max_length}"
            raise InputError(given, "3 or more (begin, one token, end)", "use the text model's length")
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing and not (folder / "tokenizer.json").is_file():
            given = f"tokenizer folder {folder} has no {missing[0]}"
            raise InputError(given, "vocab.json and merges.txt", "check the path")
        for name in TOKENIZER_FILES:
            if (folder / name).exists():
                open_regular(folder / name, MAX_TOKENIZER).close()
        from transformers import CLIPTokenizer

        try:
            backend = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # the library raises many kinds for broken files
            given = f"tokenizer folder {folder}: {str(error)[:120]}"
            raise InputError(given, "CLIP tokenizer files", "copy them anew") from error
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            found = getattr(backend, name)
            if not isinstance(found, int):
                given = f"tokenizer folder {folder}: {name} is {found}"
                raise InputError(given, "the ids of begin, end and padding", "copy the files anew")
        return cls(backend, max_length)

    def ids(self, prompts: Sequence[str], embeddings: Sequence[Embedding] = ()) -> Int32[np.ndarray, "batch token"]:
        """Token ids: begin, prompt, end, padding. Rows of learned tokens are numbered from `PLACEHOLDER` on."""
        rows = [self.row(pieces) for pieces in self._split(prompts, embeddings)]
        return np.asarray(rows, np.int32).reshape(-1, self.max_length)

    def truncated(self, prompts: Sequence[str], embeddings: Sequence[Embedding] = ()) -> list[bool]:
        """For each prompt, whether it has more tokens than fit between begin and end."""
        return [len(pieces) > self.max_length - 2 for pieces in self._split(prompts, embeddings)]

    def word_ids(self, word: str) -> list[int]:
        """Ids of the bare word, without begin, end and padding."""
        return list(self.backend(word, add_special_tokens=False, truncation=False)["input_ids"]) if word else []

    def row(self, pieces: Sequence[int]) -> list[int]:
        """Ids of a whole prompt: begin, the pieces that fit, end, padding."""
        row = [self.backend.bos_token_id, *pieces[: self.max_length - 2], self.backend.eos_token_id]
        return row + [self.backend.pad_token_id] * (self.max_length - len(row))

    def _split(self, prompts: Sequence[str], embeddings: Sequence[Embedding]) -> list[list[int]]:
        if isinstance(prompts, str):
            raise InputError("prompts as one text", "a list of prompts", "put the prompt in a list")
        spans = _spans(embeddings)
        pattern = re.compile("(" + "|".join(map(re.escape, spans)) + ")") if spans else None
        rows = []
        for prompt in prompts:
            if not is_text(prompt):
                raise InputError(f"prompt {ascii(prompt)[:80]}", "text that UTF-8 can hold", "correct it")
            parts = pattern.split(prompt) if pattern else [prompt]
            rows.append([i for part in parts for i in (spans[part] if part in spans else self.word_ids(part))])
        return rows


def _spans(embeddings: Sequence[Embedding]) -> dict[str, list[int]]:
    """The placeholder ids of every learned token, rows numbered through all embeddings in order."""
    spans: dict[str, list[int]] = {}
    first = PLACEHOLDER
    for embedding in embeddings:
        if embedding.space != "token":
            given = f"{embedding.token} is a context embedding"
            raise InputError(given, "token embeddings inside a prompt", "use it as negative")
        if embedding.token in spans:
            raise InputError(f"two embeddings named {embedding.token}", "one embedding per name", "rename one of them")
        rows = int(embedding.vectors.shape[0])
        spans[embedding.token] = list(range(first, first + rows))
        first += rows
    return spans


def learned_rows(embeddings: Sequence[Embedding], dim: int, multiple: int = 8) -> Float32[np.ndarray, "row {dim}"]:
    """All learned vectors, one below the other; zero rows fill up to the next multiple, so that few shapes exist."""
    stacks = [np.asarray(e.vectors, np.float32) for e in embeddings]
    for embedding, rows in zip(embeddings, stacks, strict=True):
        if rows.shape[-1] != dim:
            given = f"{embedding.token} has {rows.shape[-1]} numbers per vector"
            raise InputError(given, f"{dim} for this text model", "invert it on this model family")
    count = sum(len(rows) for rows in stacks)
    padding = np.zeros((max(multiple, -(-count // multiple) * multiple) - count, dim), np.float32)
    return np.concatenate([*stacks, padding])


def splice(params: Params, ids: TokenIds, learned: Float[Array, "row dim"]) -> tuple[TokenIds, Tokens]:
    """In-vocabulary ids, and token embeddings in which placeholder i holds row i of `learned`."""
    is_learned = ids >= PLACEHOLDER
    known = jnp.where(is_learned, 0, ids)
    # The learned rows keep their own precision: a half-precision table must not round what the optimizer found.
    table_rows = embed_tokens(params, known).astype(learned.dtype)
    learned_at = learned[jnp.where(is_learned, ids - PLACEHOLDER, 0)]
    return known, jnp.where(is_learned[..., None], learned_at, table_rows)


def encode_ids(model: ClipText, params: Params, ids: TokenIds, learned: Float[Array, "row dim"]) -> Context:
    """CLIP's context (after the final layer norm) of ids that may hold placeholders; differentiable in `learned`."""
    known, token_embeddings = splice(params, ids, learned)
    output = model.apply({"params": params}, known, token_embeddings=token_embeddings)
    assert isinstance(output, ClipTextOutput)  # noqa: S101  flax does not type what apply returns
    return output.hidden
