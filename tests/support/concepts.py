"""A text encoder made of random numbers, and small embeddings for it."""

import zlib
from collections.abc import Sequence

import numpy as np

from ine_jax.embeddings.embedding import Embedding

TOKENS, DIM = 6, 4


def numbers(text: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(text.encode())).standard_normal((TOKENS, DIM)).astype(np.float32)


def encode(prompts: Sequence[str], embeddings: Sequence[Embedding]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that the text alone decides, moved by the vectors of the tokens in it; the end follows the words."""
    contexts = []
    for prompt in prompts:
        found = [e for e in embeddings if e.token in prompt]
        contexts.append(numbers(prompt) + sum(np.asarray(e.vectors).sum(axis=0) for e in found))
    return np.stack(contexts), np.asarray([min(len(prompt.split()) + 1, TOKENS - 1) for prompt in prompts])


def one(prompt: str, *embeddings: Embedding) -> np.ndarray:
    return encode([prompt], embeddings)[0][0]


def learned(name: str, value: float, rows: int = 1) -> Embedding:
    return Embedding(np.full((rows, DIM), value, np.float32), "token", name, "tiny")


ONE, TWO = learned("one", 1.0), learned("two", 2.0, 3)
