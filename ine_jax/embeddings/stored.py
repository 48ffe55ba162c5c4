"""An embedding as the file of any tool holds it: vectors for one text encoder, or for both of Stable Diffusion XL."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ine_jax.embeddings.containers import FormatError, OpenedFile
from ine_jax.embeddings.embedding import CONTEXT_KEY, Embedding, slug
from ine_jax.errors import InputError
from ine_jax.storage.dtypes import MODEL_DTYPES

CLIP_TOKENS = 77  # what CLIP reads, its begin and its end included
CLIP_WORDS = 75
MAX_CONTEXT = 1024
WIDTHS = {"clip_l": 768, "clip_h": 1024, "clip_g": 1280}  # Stable Diffusion 1.x and XL, 2.x, XL's second encoder
CONTEXT_KEYS = (CONTEXT_KEY, "prompt_embeds")
UNNAMED = ("embedding", "emb_params", "vectors")  # keys that name no token; the file's stem does


@dataclass(frozen=True, eq=False)
class StoredEmbedding:
    """An embedding, with the vectors `[k, 1280]` for SDXL's second text encoder where the file has them."""

    embedding: Embedding
    clip_g: np.ndarray | None = None

    @property
    def name(self) -> str:
        """The bare word, `[A-Za-z0-9_-]{1,64}`."""
        return slug(self.embedding.concept)

    @property
    def vectors(self) -> np.ndarray:
        """Vectors `[k, d]` of the first or only text encoder."""
        return np.asarray(self.embedding.vectors)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by the names that every tool gives to the two encoders of SDXL."""
        return {"clip_l": self.vectors} | ({} if self.clip_g is None else {"clip_g": self.clip_g})

    def renamed(self, concept: str) -> "StoredEmbedding":
        """Return the same vectors under another name."""
        return replace(self, embedding=replace(self.embedding, concept=concept))


def stem_name(file: OpenedFile) -> str:
    """Return the name that A1111 and ComfyUI use, which is also that of files without one: the file's own."""
    return slug(file.path.stem)


def embedding_of(
    file: OpenedFile,
    vectors: object,
    concept: str,
    space: str = "",
    clip_g: object = None,
    *,
    provenance: Mapping[str, str] | None = None,
    base_model: str = "",
) -> StoredEmbedding:
    """Check the arrays of a file and return them as an embedding.

    Args:
        space: what the format says; without it the user's choice counts, else token space.
        provenance: what the format records; by default that of our own safetensors header, like `base_model`.

    Raises:
        FormatError: not finite `[k, d]` of a text encoder, or the user named another space than the format.
    """
    if space and file.space and space != file.space:
        raise FormatError(f"it holds a {space} embedding, not a {file.space} one")
    space = space or file.space or "token"
    rows = _checked_rows(vectors, space)
    other = None if clip_g is None else _checked_rows(clip_g, space)
    if other is not None and len(other) != len(rows):
        raise FormatError(f"{len(rows)} vectors for the first text encoder and {len(other)} for the second")
    facts = file.provenance() if provenance is None else provenance
    cut = {key[:200]: text[:2000] for key, text in facts.items()}
    base = base_model or file.metadata.get("base_model", "")[:2000]
    return StoredEmbedding(Embedding(rows, space, concept.strip("<>")[:200] or "concept", base, cut), other)


def _checked_rows(found: object, space: str) -> np.ndarray:
    """Return the array as `[k, d]`; FormatError where it cannot be an embedding of `space`."""
    if not isinstance(found, np.ndarray):
        raise FormatError(f"a {type(found).__name__} instead of vectors")
    if found.dtype.name not in MODEL_DTYPES:
        raise FormatError(f"dtype {found.dtype}, not float32, float16 or bfloat16")
    array: np.ndarray = found[0] if space == "context" and found.ndim == 3 and len(found) == 1 else found
    if array.ndim not in (1, 2) or array.size == 0:
        raise FormatError(f"shape {list(array.shape)}, not [d] or [k, d]")
    rows = np.atleast_2d(array)
    count, width = rows.shape
    limit = CLIP_TOKENS if space == "token" else MAX_CONTEXT
    if count > limit:
        raise FormatError(f"{count} vectors, more than {limit}")
    if width % 8 or width > 8192:
        raise FormatError(f"vectors of {width} numbers, which no text encoder has")
    if not np.isfinite(rows.astype(np.float32)).all():
        raise FormatError("NaN or infinity among its values")
    return np.ascontiguousarray(rows)


def require_plain_stem(path: str | os.PathLike[str], tool: str) -> str:
    """Return the stem of a file, the embedding's name in `tool`; InputError where a prompt cannot hold it."""
    stem = Path(path).stem
    if slug(stem) != stem:
        allowed = "letters, digits, _ and -, at most 64: the file's name is the word in the prompt"
        given = f"{Path(path).name}: a name that {tool} cannot read in a prompt"
        raise InputError(given, allowed, f"use {slug(stem)}")
    return stem


def require_token_space(item: StoredEmbedding, tool: str) -> None:
    """Raise InputError for a context embedding: `tool` has only words, which are in token space."""
    if item.embedding.space != "token":
        count, width = item.vectors.shape
        raise InputError(
            f"a context embedding [{count}, {width}]: it comes out of CLIP, and {tool} puts vectors in before CLIP",
            "formats of context space: native, tensor, npy, npz (diffusers' negative_prompt_embeds)",
            "for this tool invert in token space: ine invert CONFIG --inversion.space token",
        )


def require_one_encoder(item: StoredEmbedding, tool: str) -> None:
    """Raise InputError for an SDXL pair, where the format holds vectors of one text encoder."""
    if item.clip_g is not None:
        given = f"an SDXL pair, clip_l and clip_g, for a file of one tensor for {tool}"
        raise InputError(given, "--part clip_l or --part clip_g", "or --to sdxl, which A1111 and ComfyUI read")


def require_one_prompt(item: StoredEmbedding, tool: str) -> None:
    """Raise InputError unless the vectors fit into one prompt of `tool`."""
    if len(item.vectors) > CLIP_WORDS:
        given = f"{len(item.vectors)} vectors for {tool}"
        allowed = f"at most {CLIP_WORDS}, the words of one prompt"
        raise InputError(given, allowed, "invert with fewer vectors: ine invert CONFIG --inversion.vectors 4")


def encoder_of(vectors: np.ndarray, widths: Mapping[str, int], tool: str) -> str:
    """Return the encoder of `tool` that reads vectors of this width; InputError where there is none."""
    for encoder, width in widths.items():
        if vectors.shape[1] == width:
            return encoder
    raise InputError(
        f"vectors of {vectors.shape[1]} numbers, which {tool} would ignore without an error",
        "the widths of its text encoders: " + ", ".join(f"{width} ({encoder})" for encoder, width in widths.items()),
        "use diffusers for other models: --to native",
    )
