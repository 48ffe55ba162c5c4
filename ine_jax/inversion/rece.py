"""The closed form of RECE (arXiv 2407.12383, ECCV 2024): a concept's context in an unlearned model, without images.

For one position c [D] of the context of the explicit words, over the keys and values i of all cross-attention,

    c' = argmin_c'  Σ_i ||W_i c' - W°_i c||² + λ ||c'||²  =  (Σ_i W_iᵀ W_i + λ I)^-1 (Σ_i W_iᵀ W°_i) c

with W of the unlearned and W° of the original model: read with c', the unlearned attention gets the keys and values
that the original got from c. The regulariser pulls towards zero, as in the authors' runs (`close_regzero`); they used
λ = 0.1 for nudity, unsafe concepts and easy objects, 0.001 for styles and hard objects (README of CharlesGong12/RECE).
The start in token space, `nearest_row`, is this project's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ine_jax.errors import InputError
from ine_jax.models.text import learned_rows
from ine_jax.models.trees import flatten_params
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.types import Array, Params

Kernels = dict[str, np.ndarray]  # [D, out] by dotted path; the transpose of W
ROWS = 256  # vocabulary rows that are encoded at a time


@dataclass(frozen=True)
class ClosedForm:
    """What RECE found for some words, and how far keys and values stay from the original's (`residual`)."""

    context: np.ndarray  # c', float32 [T, D]
    residual: float  # of c'
    explicit: float  # of the words' own context, in its place


def projections(unet_params: Params) -> Kernels:
    """Kernels of all cross-attention keys and values of a UNet (attn2's to_k and to_v), float64 [D, out]."""
    flat = flatten_params(unet_params)
    wanted = [path for path in flat if path[-3:-1] in (("attn2", "to_k"), ("attn2", "to_v")) and path[-1] == "kernel"]
    if not wanted:
        raise InputError("a UNet without cross-attention", "keys and values that read a text", "use another model")
    return {".".join(path): np.asarray(flat[path]).astype(np.float64) for path in sorted(wanted)}


def closed_form(
    new: Mapping[str, np.ndarray], old: Mapping[str, np.ndarray], context: np.ndarray, regularizer: float = 0.1
) -> np.ndarray:
    """c' [T, D] of every position of `context` [T, D], the explicit words in the original model's encoder; in float64.

    `new` and `old` are kernels [D, out_i] of the unlearned and the original model by name, as from `projections`;
    `regularizer` is λ >= 0. Raises InputError where kernels do not match, or λ is too small for keys and values that
    leave c' open.
    """
    _check(new, old, context)
    gram = sum((new[name] @ new[name].T for name in new), np.zeros((context.shape[1],) * 2))
    cross = sum((new[name] @ old[name].T for name in new), np.zeros_like(gram))
    values, axes = np.linalg.eigh(gram)
    if values[0] + regularizer <= len(values) * np.finfo(np.float64).eps * values[-1]:
        given = f"regularizer {regularizer:g}: keys and values do not determine a context"
        raise InputError(given, "a larger regularizer, published: 0.1 and 0.001", "change regularizer")
    wanted = np.asarray(context, np.float64) @ cross.T
    solved: np.ndarray = (wanted @ axes / (values + regularizer)) @ axes.T
    return solved


def residual(
    new: Mapping[str, np.ndarray], old: Mapping[str, np.ndarray], found: np.ndarray, context: np.ndarray
) -> float:
    """Σ_i ||W_i c' - W°_i c||² / Σ_i ||W°_i c||² over all positions of c' = `found` and c = `context`, both [T, D]."""
    far = sum(float(np.square(found @ new[name] - context @ old[name]).sum()) for name in new)
    return far / max(sum(float(np.square(context @ old[name]).sum()) for name in old), 1e-300)


def solve(pipe: Pipeline, base: Pipeline, words: str, regularizer: float = 0.1) -> ClosedForm:
    """The closed form for `words` in the unlearned `pipe`, against the original `base`, whose encoder reads them."""
    if base.tokenizer.truncated([words])[0]:
        given = f"words {words[:60]!r}: more tokens than the text encoder reads"
        raise InputError(given, f"at most {base.tokenizer.max_length - 2} tokens", "shorten them")
    context = base.encode([words])[0].astype(np.float64)
    new, old = projections(pipe.parts.unet_params), projections(base.parts.unet_params)
    found = closed_form(new, old, context, regularizer).astype(np.float32)
    return ClosedForm(found, residual(new, old, found, context), residual(new, old, context, context))


def nearest_row(pipe: Pipeline, base: Pipeline, words: str, before: str = "", regularizer: float = 0.1) -> int:
    """Id of the token whose context, after the text `before`, is nearest (Euclidean) to the closed form of the words.

    RECE finds contexts, and no least squares leads from those back through the encoder; so token space starts at an
    existing token. Compared are the closed form at the words' last token and every token at its own place; what
    follows a token cannot matter there, for the encoder is causal. Tokens that begin and end a prompt are left out.
    """
    backend = pipe.tokenizer.backend
    place = len(base.tokenizer.word_ids(before + words))  # one further, for the begin
    wanted = solve(pipe, base, before + words, regularizer).context[place]
    start = [backend.bos_token_id, *pipe.tokenizer.word_ids(before)]
    vocabulary = np.arange(pipe.parts.text_config.vocab_size, dtype=np.int32)
    ids = np.concatenate([np.tile(np.asarray(start, np.int32), (len(vocabulary), 1)), vocabulary[:, None]], axis=1)
    learned = learned_rows((), pipe.parts.text_config.hidden_size)

    def last(chunk: Array) -> Float[Array, "batch dim"]:
        return pipe.programs.encode(pipe.parts.text_params, chunk, learned)[:, -1]

    found = pipe.programs.batched(last, [ids], pipe.rows(ROWS))
    distance = np.linalg.norm(found - wanted, axis=1)
    distance[[backend.bos_token_id, backend.eos_token_id, backend.pad_token_id]] = np.inf
    return int(distance.argmin())


def _check(new: Mapping[str, np.ndarray], old: Mapping[str, np.ndarray], context: np.ndarray) -> None:
    shapes = [{name: kernel.shape for name, kernel in kernels.items()} for kernels in (new, old)]
    widths = {shape[0] for shape in shapes[0].values()}
    if shapes[0] != shapes[1] or widths != {context.shape[1]}:
        given = f"{len(new)} and {len(old)} keys and values that read {sorted(widths)}, a context of {context.shape[1]}"
        raise InputError(given, "an unlearned model and its own original", "name the model that it was made from")
