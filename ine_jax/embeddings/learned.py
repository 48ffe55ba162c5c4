"""What every embedding format says: the vectors of one concept, for one text encoder or for the two of SDXL."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flax.core import FrozenDict

from ine_jax.embeddings.embedding import Embedding, slug
from ine_jax.errors import InputError
from ine_jax.storage.dtypes import MODEL_DTYPES

MAX_BYTES = 64 * 1024 * 1024
CLIP_TOKENS = 77  # what CLIP reads, its begin and end among them
CLIP_WORDS = 75
MAX_CONTEXT = 1024
WIDTHS = {"clip_l": 768, "clip_h": 1024, "clip_g": 1280}  # Stable Diffusion 1.x and XL, 2.x, XL's second encoder
CONTEXT_KEYS = ("negative_prompt_embeds", "prompt_embeds")


class FormatError(ValueError):
    """The file is read, and what it holds is no embedding of the format."""


@dataclass(frozen=True, eq=False)
class Learned:
    """An embedding, and the vectors ``[k, 1280]`` for SDXL's second text encoder where it has them."""

    embedding: Embedding
    second: np.ndarray | None = None

    @property
    def name(self) -> str:
        """The bare word, ``[A-Za-z0-9_-]{1,64}``."""
        return slug(self.embedding.concept)

    @property
    def vectors(self) -> np.ndarray:
        """Vectors ``[k, d]`` of the first or only text encoder."""
        return np.asarray(self.embedding.vectors)

    def parts(self) -> dict[str, np.ndarray]:
        """Both arrays of an SDXL pair, by the names that every tool gives them."""
        return {"clip_l": self.vectors} if self.second is None else {"clip_l": self.vectors, "clip_g": self.second}

    def renamed(self, concept: str) -> Learned:
        """The same vectors under another name."""
        return replace(self, embedding=replace(self.embedding, concept=concept))


@dataclass(frozen=True)
class Content:
    """A file as its container tells it: the value of a pickle, a mapping of arrays, or one array."""

    path: Path
    container: str  # safetensors, torch, npz or npy
    value: Any
    metadata: Mapping[str, str]
    space: str = ""  # what the user says of a format that does not tell it

    def named(self) -> set[object]:
        """Keys of a mapping; none of anything else."""
        return set(self.value) if isinstance(self.value, dict) else set()

    def only(self) -> tuple[str, np.ndarray] | None:
        """Key and array where the file is a mapping of one text to one array."""
        if isinstance(self.value, dict) and len(self.value) == 1:
            ((key, array),) = self.value.items()
            if isinstance(key, str) and isinstance(array, np.ndarray):
                return key, array
        return None

    def by_stem(self) -> str:
        """The name that A1111 and ComfyUI go by, and that of files without any: the file's own."""
        return slug(self.path.stem)


def facts_of(content: Content) -> dict[str, Any]:
    """Base model and provenance as our own safetensors files tell them; nothing where there is nothing."""
    try:
        found = json.loads(content.metadata.get("provenance", "{}"))
        told = {str(key)[:200]: str(value) for key, value in found.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise FormatError("its provenance is not a JSON object") from error
    return told | {"base_model": content.metadata.get("base_model")}


def learned(
    content: Content,
    vectors: Any,
    concept: str,
    space: str = "",
    second: Any = None,
    facts: Mapping[str, Any] = FrozenDict(),
) -> Learned:
    """Check the arrays of a file and return them as an embedding; `facts` are its provenance, of which ``base_model``
    is kept apart. `space` is what the format says, else the user's word, else token.

    Raises:
        FormatError: values that are no finite float32, float16 or bfloat16 ``[k, d]`` of a text encoder, or a
            space that the user named otherwise.
    """
    if space and content.space and space != content.space:
        raise FormatError(f"it holds a {space} embedding, not a {content.space} one")
    space = space or content.space or "token"
    rows = checked(vectors, space)
    other = None if second is None else checked(second, space)
    if other is not None and len(other) != len(rows):
        raise FormatError(f"{len(rows)} vectors for the first text encoder and {len(other)} for the second")
    told = {key: str(value)[:2000] for key, value in facts.items() if value is not None}
    base = told.pop("base_model", "")
    return Learned(Embedding(rows, space, concept.strip("<>")[:200] or "concept", base, told), other)


def checked(found: Any, space: str) -> np.ndarray:
    """The array as ``[k, d]``; FormatError where it is no embedding of `space`."""
    if not isinstance(found, np.ndarray):
        raise FormatError(f"a {type(found).__name__} where the vectors belong")
    if found.dtype.name not in MODEL_DTYPES:
        raise FormatError(f"dtype {found.dtype}, not float32, float16 or bfloat16")
    if space == "context" and found.ndim == 3 and len(found) == 1:
        found = found[0]
    if found.ndim not in (1, 2) or found.size == 0:
        raise FormatError(f"shape {list(found.shape)}, not [d] or [k, d]")
    rows = np.atleast_2d(found)
    count, width = rows.shape
    limit = CLIP_TOKENS if space == "token" else MAX_CONTEXT
    if count > limit:
        raise FormatError(f"{count} vectors, more than {limit}")
    if width % 8 or width > 8192:
        raise FormatError(f"vectors of {width} numbers, which no text encoder has")
    if not np.isfinite(rows.astype(np.float32)).all():
        raise FormatError("NaN or infinity among its values")
    return np.ascontiguousarray(rows)


def plain_stem(path: str | os.PathLike[str], tool: str) -> str:
    """The stem of a file that `tool` will know the embedding by.

    Raises:
        InputError: a stem with commas, spaces or anything else that a prompt cannot say.
    """
    stem = Path(path).stem
    if slug(stem) != stem:
        allowed = "letters, digits, _ and -, at most 64: the file's name is the word in the prompt"
        raise InputError(f"{Path(path).name}: a name that {tool} cannot read in a prompt", allowed, f"say {slug(stem)}")
    return stem


def need_token(item: Learned, tool: str) -> None:
    """InputError unless the embedding is in token space, the only one that `tool` has words for."""
    if item.embedding.space != "token":
        count, width = item.vectors.shape
        raise InputError(
            f"a context embedding [{count}, {width}]: it comes out of CLIP, and {tool} puts vectors in before CLIP",
            "formats of context space: native, tensor, npy, npz (diffusers' negative_prompt_embeds)",
            "for this tool invert in token space: ine invert CONFIG --inversion.space token",
        )


def need_one(item: Learned, tool: str) -> None:
    """InputError for an SDXL pair, where the format holds vectors of one text encoder."""
    if item.second is not None:
        raise InputError(
            f"an SDXL pair, clip_l and clip_g, for a file of one tensor for {tool}",
            "--part clip_l or --part clip_g",
            "or --to sdxl, which A1111 and ComfyUI read",
        )


def need_short(item: Learned, tool: str) -> None:
    """InputError unless the vectors fit into one prompt of `tool`."""
    if len(item.vectors) > CLIP_WORDS:
        raise InputError(
            f"{len(item.vectors)} vectors for {tool}",
            f"at most {CLIP_WORDS}, the words of one prompt",
            "invert with fewer vectors: ine invert CONFIG --inversion.vectors 4",
        )


def need_width(found: np.ndarray, widths: Mapping[str, int], tool: str) -> str:
    """The encoder that reads vectors of this width; InputError where `tool` has none."""
    for encoder, width in widths.items():
        if found.shape[1] == width:
            return encoder
    told = ", ".join(f"{width} ({encoder})" for encoder, width in widths.items())
    raise InputError(
        f"vectors of {found.shape[1]} numbers for {tool}, which would leave them aside without a word",
        f"the widths of its text encoders: {told}",
        "use diffusers for other models: --to native",
    )
