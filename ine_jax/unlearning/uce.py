"""Unified Concept Editing (UCE, arXiv 2308.14761, WACV 2024): cross-attention keys and values in closed form.

For each kernel W [D, out] of `to_k` and `to_v`, with contexts c_e of concepts to erase, g_e of what they become, and
c_p of concepts to preserve (rows, [D]),

    W' = argmin_W'  a Σ_e ||c_e W' - g_e W||² + r Σ_p ||c_p W' - c_p W||² + λ ||W' - W||²
       = (λI + a Σ_e c_eᵀ c_e + r Σ_p c_pᵀ c_p)^-1 (λI + a Σ_e c_eᵀ g_e + r Σ_p c_pᵀ c_p) W

(equation 7 of the paper). All kernels share the matrix in front of W, so it is computed once, in float64.

A context is the encoder's output at the concept's last token (the authors' `uce_sd_erase.py`, a = r = 1, λ = 0.5); an
empty text has the begin token there. Their older code, from which RECE starts, edits all positions from that token to
the end, and preserves all positions of a text (λ = 0.1).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ine_jax.config import UceConfig
from ine_jax.errors import InputError
from ine_jax.inversion.rece import Kernels, projections
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.training import loop
from ine_jax.types import Params
from ine_jax.unlearning.layers import merged
from ine_jax.unlearning.result import Result, origin_of, write

Rows = Float[np.ndarray, "row dim"]
Matrix = Float[np.ndarray, "dim dim"]

# What the authors' code puts before a concept (its option expand_prompts).
PHRASES = {
    "none": (),
    "object": ("image of", "photo of", "portrait of", "picture of", "painting of"),
    "art": ("painting by", "art by", "artwork by", "picture by", "style of"),
}


class Edit(NamedTuple):
    """Contexts whose keys and values become those of others: row i of `source` answers as row i of `target`."""

    source: Rows
    target: Rows
    weight: float


def edit_matrix(edits: Sequence[Edit], regularizer: float) -> Matrix:
    """The matrix M of W' = M W, in float64; `regularizer` is λ > 0."""
    dim = edits[0].source.shape[1]
    left, right = regularizer * np.eye(dim), regularizer * np.eye(dim)
    for edit in edits:
        source = np.asarray(edit.source, np.float64)
        left += edit.weight * source.T @ source
        right += edit.weight * source.T @ np.asarray(edit.target, np.float64)
    solved: Matrix = np.linalg.solve(left, right)
    return solved


def edited(params: Params, matrix: Matrix) -> Params:
    """A UNet's parameters with every key and value W of its cross-attention replaced by M W, each in its own dtype."""
    kernels = projections(params)
    return merged(params, {name: jnp.asarray(matrix @ kernel, jnp.float32) for name, kernel in kernels.items()})


def residual(kernels: Kernels, matrix: Matrix, edits: Sequence[Edit]) -> float:
    """Σ ||c M W - g W||² / Σ ||g W||² over the rows of all edits and all kernels; 0 is a complete edit."""
    far = wanted = 0.0
    for kernel in kernels.values():
        for edit in edits:
            there = edit.target @ kernel
            far += float(np.square(edit.source @ matrix @ kernel - there).sum())
            wanted += float(np.square(there).sum())
    return far / max(wanted, 1e-300)


def context_rows(pipe: Pipeline, text: str) -> tuple[Rows, int]:
    """The encoder's output of a text [token, dim] in float64, and the position of its last token (0: it has none)."""
    tokens = len(pipe.tokenizer.word_ids(text))
    if tokens > pipe.tokenizer.max_length - 2:
        given = f"concept {text[:60]!r}: more tokens than the text encoder reads"
        raise InputError(given, f"at most {pipe.tokenizer.max_length - 2} tokens", "shorten it")
    return pipe.encode([text])[0].astype(np.float64), tokens


def last_token(pipe: Pipeline, concept: str, guide: str, weight: float) -> Edit:
    """The edit at the last token of both texts."""
    (source, i), (target, j) = context_rows(pipe, concept), context_rows(pipe, guide)
    return Edit(source[i : i + 1], target[j : j + 1], weight)


def from_last_token(pipe: Pipeline, concept: str, guide: str, weight: float) -> Edit:
    """The edit of all positions from the last token of each text on, as many as the longer text leaves."""
    (source, i), (target, j) = context_rows(pipe, concept), context_rows(pipe, guide)
    rows = len(source) - max(i, j)
    return Edit(source[i : i + rows], target[j : j + rows], weight)


def whole(pipe: Pipeline, text: str, weight: float) -> Edit:
    """The edit that keeps every position of a text."""
    rows, _ = context_rows(pipe, text)
    return Edit(rows, rows, weight)


def pairs(erase: Sequence[str], guide: Sequence[str]) -> list[tuple[str, str]]:
    """Each concept with its guide; one guide serves all. InputError where there is no concept."""
    if not erase:
        raise InputError("erase: empty", "at least one concept", "name the concepts to erase")
    return list(zip(erase, guide if len(guide) > 1 else tuple(guide) * len(erase), strict=True))


def erasures(pipe: Pipeline, config: UceConfig) -> list[Edit]:
    """The edits of the concepts to erase, with their phrases."""
    edit = last_token if config.tokens == "last" else from_last_token
    named = pairs(config.erase, config.guide)
    named += [(f"{p} {concept}", f"{p} {guide}") for p in PHRASES[config.expand] for concept, guide in named]
    return [edit(pipe, concept, guide, config.erase_scale) for concept, guide in named]


def preservations(pipe: Pipeline, config: UceConfig) -> list[Edit]:
    """The edits that keep the concepts to preserve."""
    if config.tokens == "last":
        return [last_token(pipe, text, text, config.preserve_scale) for text in config.preserve]
    return [whole(pipe, text, config.preserve_scale) for text in config.preserve]


def unlearn(pipe: Pipeline, config: UceConfig, directory: Path | str, progress: loop.Progress | None = None) -> Result:
    """Edit the UNet's keys and values, write them, and return the result; `pipe` itself stays as it is.

    A run of one step. Its log has the residual of the erased concepts, as "loss", and of the preserved ones.

    Raises:
        InputError: no concept, a concept that the text encoder cannot read whole, or another run's directory.
    """
    folder, base = Path(directory), pipe.parts.unet_params
    old, gone, kept = projections(base), erasures(pipe, config), preservations(pipe, config)

    def step(_: np.ndarray, i: int) -> tuple[np.ndarray, dict[str, float]]:
        matrix = edit_matrix([*gone, *kept], config.regularizer)
        metrics = {"loss": residual(old, matrix, gone)}
        return matrix, {**metrics, "preserve": residual(old, matrix, kept)} if kept else metrics

    settings = dataclasses.asdict(config)
    with loop.owned(folder):
        matrix = loop.run(
            step,
            np.eye(gone[0].source.shape[1]),
            steps=1,
            directory=folder,
            save_every=1,
            config={**origin_of(pipe), "uce": settings},
            progress=progress,
        )
        return write(pipe, edited(base, matrix), folder, {"method": "uce", "config": settings, **origin_of(pipe)})
