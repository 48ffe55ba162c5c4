"""The learned concept as a value, and its file.

A *token* embedding is k rows that take the place of rows of CLIP's token table (textual inversion, arXiv 2208.01618).
Its file is the one that `load_textual_inversion` of diffusers reads. A *context* embedding is a whole output sequence
of CLIP, as `negative_prompt_embeds` takes it; its file has a second tensor, so that no reader of token embeddings
accepts it.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict

from ine_jax import assets
from ine_jax.embeddings.containers import SCHEMA, FormatError, OpenedFile, parse_safetensors, read_capped, sealed
from ine_jax.errors import InputError
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.dtypes import MODEL_DTYPES
from ine_jax.storage.safetensors_writer import safetensors_bytes

SPACES = ("token", "context")
CONTEXT_KEY = "negative_prompt_embeds"
MAX_VECTORS = 1024
MAX_CONCEPT = 200

_SLUG = re.compile(r"[A-Za-z0-9_-]{1,64}")


def slug(text: str) -> str:
    """Return a name of `[A-Za-z0-9_-]{1,64}` for any text: the text itself, or its readable part and a short hash."""
    if _SLUG.fullmatch(text):
        return text
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-")[:55] or "concept"
    return f"{words}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Embedding:
    """The vectors of one concept, and where they came from; a pytree with one leaf, `vectors`.

    `vectors` are `[k, d]` in token space, `[T, d]` in context space; JAX also puts tracers and shapes here.
    `provenance` records as texts how they were made.
    """

    vectors: Any
    space: str = field(metadata={"static": True}, default="token")
    concept: str = field(metadata={"static": True}, default="concept")
    base_model: str = field(metadata={"static": True}, default="")
    provenance: Mapping[str, str] = field(metadata={"static": True}, default_factory=dict)

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise InputError(f"embedding space {self.space!r}", "token or context", "name the space of the vectors")
        if not 0 < len(self.concept) <= MAX_CONCEPT:
            given = f"a concept of {len(self.concept)} characters"
            raise InputError(given, f"1 to {MAX_CONCEPT} characters", "shorten its name")
        if not isinstance(self.provenance, FrozenDict):
            # A FrozenDict hashes, so an embedding can be an argument of a jitted function.
            object.__setattr__(self, "provenance", FrozenDict(self.provenance))

    @property
    def token(self) -> str:
        """The word for the embedding in a prompt: `<slug>`."""
        return f"<{slug(self.concept)}>"

    def __repr__(self) -> str:
        """Token, space and shape, without the numbers."""
        shape, dtype = getattr(self.vectors, "shape", None), getattr(self.vectors, "dtype", None)
        origin = f", from {self.base_model}" if self.base_model else ""
        return f"Embedding({self.token}, {self.space} space, {shape} {dtype}{origin})"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the embedding to `path` (`.safetensors`) and return the path; `ine convert` writes other formats.

        Token space: one tensor named by its token. Context space: `negative_prompt_embeds` and a marker. Equal
        embeddings give equal bytes.

        Raises:
            InputError: non-finite values, a wrong rank or dtype, a name without the suffix, or no such folder.
            OSError: the path cannot be written.
        """
        target = Path(path)
        if target.suffix != ".safetensors":
            given = f"embedding file {target.name}"
            raise InputError(given, "a name that ends in .safetensors", "change the name; for other tools: ine convert")
        if not target.parent.is_dir():
            given = f"embedding file {target}: no folder {target.parent}"
            raise InputError(given, "an existing folder", "make it, or correct the path")
        try:
            _check_vectors(np.asarray(self.vectors))
        except FormatError as error:
            raise _rejected(target, error) from error
        for key, value in self.provenance.items():
            if not isinstance(key, str) or not isinstance(value, str):
                given = f"provenance {key!r}: {type(value).__name__}"
                raise InputError(given, "text keys and text values", "convert the value to text")
        write_atomic(target, self.to_bytes(), shared=True)
        return target

    def file_of(self, tensors: Mapping[str, np.ndarray]) -> bytes:
        """Return a safetensors file of these tensors: docs/formats.md explains its header, which ends with a hash."""
        header = {
            "format": "pt",
            "schema": SCHEMA,
            "space": self.space,
            "concept": self.concept,
            "base_model": self.base_model,
            "provenance": json.dumps(dict(self.provenance), sort_keys=True),
        }
        try:
            return safetensors_bytes(tensors, sealed(tensors, header))
        except UnicodeEncodeError as error:
            raise InputError(f"{self.concept!r}: {error.reason}", "texts in Unicode", "rename the concept") from error

    def to_bytes(self) -> bytes:
        """Return the bytes of the file that `save` writes, without its checks."""
        tensors = {self.token if self.space == "token" else CONTEXT_KEY: np.asarray(self.vectors)}
        if self.space == "context":
            tensors["schema"] = np.asarray([1], np.int32)
        return self.file_of(tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Embedding":
        """Read a bundled embedding by name, a file of `save`, or one of any textual-inversion trainer for diffusers.

        Files of other tools, and pickles, first go through `ine convert`. Raises InputError for any other file: over 64
        MiB, several tensors, another rank or dtype, NaN or infinity, and where a file of `save` was changed. A token
        that no prompt can hold, such as "*", is replaced by its slug.
        """
        source = assets.file_of(path)
        try:
            arrays, metadata = parse_safetensors(read_capped(source))
            space = metadata.get("space", "token")
            if space not in SPACES:
                raise FormatError(f"space {space[:40]!r} in its header")
            name = _only_name(arrays, space)
            _check_vectors(arrays[name])
            provenance = OpenedFile(source, "safetensors", arrays, metadata).provenance()
        except FormatError as error:
            raise _rejected(source, error) from error
        bare = name.strip("<>")[:MAX_CONCEPT] or "concept"
        concept = metadata.get("concept", bare)
        if not 0 < len(concept) <= MAX_CONCEPT or (space == "token" and slug(concept) != slug(bare)):
            concept = bare  # the header cannot rename the tensor
        return cls(np.atleast_2d(arrays[name]), space, concept, metadata.get("base_model", ""), provenance)


def _rejected(path: Path, reason: FormatError) -> InputError:
    given = f"embedding file {path}: {reason}"
    allowed = "a .safetensors file with one finite [k, d] tensor named by its token"
    return InputError(given, allowed, "other formats: ine convert FILE OUT.safetensors --to native")


def _only_name(arrays: Mapping[str, np.ndarray], space: str) -> str:
    if space == "context":
        if set(arrays) != {CONTEXT_KEY, "schema"}:
            raise FormatError(f"a context embedding holds {CONTEXT_KEY} and schema, this one {len(arrays)} tensors")
        return CONTEXT_KEY
    if set(arrays) == {"clip_l", "clip_g"}:
        raise FormatError("an SDXL pair, clip_l and clip_g; --part clip_l or --part clip_g takes one of them")
    if len(arrays) != 1:
        raise FormatError(f"{len(arrays)} tensors")
    return next(iter(arrays))


def _check_vectors(vectors: np.ndarray) -> None:
    if vectors.dtype.name not in MODEL_DTYPES:
        raise FormatError(f"dtype {vectors.dtype.name}, not float32, float16 or bfloat16")
    if vectors.ndim not in (1, 2) or vectors.size == 0:
        raise FormatError(f"shape {vectors.shape}, not [d] or [k, d]")
    if vectors.ndim == 2 and vectors.shape[0] > MAX_VECTORS:
        raise FormatError(f"{vectors.shape[0]} vectors, more than {MAX_VECTORS}")
    if not np.isfinite(vectors.astype(np.float32)).all():
        raise FormatError("NaN or infinity among its values")
