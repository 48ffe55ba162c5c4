"""The learned concept as a value, and its file.

A *token* embedding is k rows that stand in for rows of CLIP's token table (textual inversion, arXiv 2208.01618); its
file is the one that diffusers' ``load_textual_inversion`` reads. A *context* embedding is a whole sequence out of
CLIP, the thing that ``negative_prompt_embeds`` takes; its file holds a second tensor, so that a reader of token
embeddings refuses it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct as binary
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from flax.core import FrozenDict

from ine_jax.errors import InputError
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.dtypes import MODEL_DTYPES, dtype_of_code
from ine_jax.storage.safetensors_writer import safetensors_bytes

SCHEMA = "ine_jax.embedding/1"
SPACES = ("token", "context")
MAX_BYTES = 64 * 1024 * 1024
MAX_VECTORS = 1024
MAX_CONCEPT = 200

_SLUG = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAME = re.compile(r"<[A-Za-z0-9_-]{1,64}>|[A-Za-z0-9_-]{1,64}")
_CONTEXT_NAMES = frozenset({"negative_prompt_embeds", "schema"})


def slug(text: str) -> str:
    """Name made of ``[A-Za-z0-9_-]{1,64}`` for any text: the text itself where it is one, else its readable part and
    a short hash.
    """
    if _SLUG.fullmatch(text):
        return text
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-")[:55] or "concept"
    return f"{words}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors ``[k, d]`` (token space) or ``[T, d]`` (context space) of one concept, with where they came from.

    A pytree with one leaf, ``vectors``; the rest is static. Raises ``InputError`` for an unknown space or an empty
    concept.
    """

    vectors: Any
    space: str = field(metadata={"static": True}, default="token")
    concept: str = field(metadata={"static": True}, default="concept")
    base_model: str = field(metadata={"static": True}, default="")
    provenance: Mapping[str, str] = field(metadata={"static": True}, default_factory=FrozenDict)

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise InputError(
                f"embedding space {self.space!r}", "token or context", "name the space that the vectors live in"
            )
        if not 0 < len(self.concept) <= MAX_CONCEPT:
            raise InputError(
                f"a concept of {len(self.concept)} characters", f"1 to {MAX_CONCEPT} characters", "shorten its name"
            )
        if not isinstance(self.provenance, FrozenDict):
            # FrozenDict hashes, so an embedding may be an argument of a jitted function.
            object.__setattr__(self, "provenance", FrozenDict(self.provenance))

    @property
    def token(self) -> str:
        """The word that stands for the embedding in a prompt: ``<slug>``."""
        return f"<{slug(self.concept)}>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the embedding to ``path`` (``.safetensors``) and return the path; equal embeddings give equal bytes.

        Token space: one tensor named by its token, which diffusers' ``load_textual_inversion`` reads. Context space:
        ``negative_prompt_embeds`` and a marker. For other tools: ``ine convert``.

        The file appears complete or not at all. Raises ``InputError`` for non-finite values, a wrong rank or dtype,
        or an unwritable path.
        """
        target = Path(path)
        if target.suffix != ".safetensors":
            raise InputError(
                f"embedding file {target.name}",
                "a name that ends in .safetensors",
                "change the name; for other tools: ine convert",
            )
        _check_vectors(np.asarray(self.vectors), target)
        _check_provenance(self.provenance)
        _write_whole(target, self.to_bytes())
        return target

    def header(self) -> dict[str, str]:
        """The metadata of the file: text by text, sorted out in docs/formats.md."""
        return {
            "format": "pt",
            "schema": SCHEMA,
            "space": self.space,
            "concept": self.concept,
            "base_model": self.base_model,
            "provenance": json.dumps(dict(self.provenance), sort_keys=True),
        }

    def to_bytes(self) -> bytes:
        """The bytes of the file that ``save`` writes; values and provenance are taken as they are."""
        vectors = np.asarray(self.vectors)
        if self.space == "token":
            tensors = {self.token: vectors}
        else:
            tensors = {"negative_prompt_embeds": vectors, "schema": np.asarray([1], np.int32)}
        return safetensors_bytes(tensors, self.header())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Embedding:
        """Read an embedding that ``save`` or any textual-inversion trainer for diffusers wrote, both as
        ``.safetensors``. Files of other tools, and pickles, first go through ``ine convert``.

        Raises ``InputError``, naming the file and the reason, for anything else: no file, over 64 MiB, not
        safetensors, more than one tensor, a name outside the allow-list, rank other than 1 or 2, dtype other than
        float32, float16 or bfloat16, NaN or infinity.
        """
        source = Path(path)
        raw = _read_capped(source)
        try:
            tensors = dict(safetensors.deserialize(raw))
            metadata = _metadata(raw)
        except Exception as error:  # the parser's exceptions are not one family
            raise _bad(source, f"not a safetensors file ({str(error)[:120]})") from error
        space = str(metadata.get("space", "token"))
        if space not in SPACES:
            raise _bad(source, f"space {space[:40]!r} in its header")
        name = _only_name(tensors, space, source)
        vectors = _array(tensors[name], source)
        _check_vectors(vectors, source)
        bare = name.strip("<>")
        concept = metadata.get("concept", bare)
        if not 0 < len(concept) <= MAX_CONCEPT or (space == "token" and slug(concept) != bare):
            concept = bare
        provenance = _provenance(metadata, source)
        return cls(np.atleast_2d(vectors), space, concept, str(metadata.get("base_model", "")), FrozenDict(provenance))


def _bad(path: Path, reason: str) -> InputError:
    return InputError(
        f"embedding file {path}: {reason}",
        "a .safetensors file with one finite [k, d] tensor named by its token",
        "other formats: ine convert FILE OUT.safetensors --to native",
    )


def _read_capped(path: Path) -> bytes:
    if not path.is_file():
        raise _bad(path, "no such file")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _bad(path, error.strerror or "cannot be read") from error
    if len(raw) > MAX_BYTES:
        raise _bad(path, f"larger than {MAX_BYTES >> 20} MiB")
    return raw


def _metadata(raw: bytes) -> dict[str, str]:
    (length,) = binary.unpack("<Q", raw[:8])
    found = json.loads(raw[8 : 8 + length]).get("__metadata__", {})
    return {str(key): str(value) for key, value in found.items()}


def _only_name(tensors: Mapping[str, Any], space: str, path: Path) -> str:
    if space == "context":
        if set(tensors) != _CONTEXT_NAMES:
            raise _bad(
                path, f"a context embedding holds {sorted(_CONTEXT_NAMES)}, this one {len(tensors)} other tensors"
            )
        return "negative_prompt_embeds"
    if len(tensors) != 1:
        raise _bad(path, f"{len(tensors)} tensors")
    (name,) = tensors
    if not _NAME.fullmatch(name):
        raise _bad(path, f"tensor name {name[:80]!r} is not <name> with letters, digits, _ and -")
    return str(name)


def _array(tensor: Mapping[str, Any], path: Path) -> np.ndarray:
    dtype = dtype_of_code(tensor["dtype"])
    if dtype is None or dtype.name not in MODEL_DTYPES:
        raise _bad(path, f"dtype {tensor['dtype']}, not F32, F16 or BF16")
    return np.frombuffer(bytes(tensor["data"]), dtype).reshape(tensor["shape"])


def _check_vectors(vectors: np.ndarray, path: Path) -> None:
    if vectors.dtype.name not in MODEL_DTYPES:
        raise _bad(path, f"dtype {vectors.dtype.name}, not float32, float16 or bfloat16")
    if vectors.ndim not in (1, 2) or vectors.size == 0:
        raise _bad(path, f"shape {vectors.shape}, not [d] or [k, d]")
    if vectors.ndim == 2 and vectors.shape[0] > MAX_VECTORS:
        raise _bad(path, f"{vectors.shape[0]} vectors, more than {MAX_VECTORS}")
    if not np.isfinite(vectors.astype(np.float32)).all():
        raise _bad(path, "NaN or infinity among its values")


def _check_provenance(provenance: Mapping[str, str]) -> None:
    for key, value in provenance.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InputError(
                f"provenance {key!r}: {type(value).__name__}", "text keys and text values", "turn the value into text"
            )


def _provenance(metadata: Mapping[str, str], path: Path) -> dict[str, str]:
    try:
        found = json.loads(metadata.get("provenance", "{}"))
        return {str(key): str(value) for key, value in found.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise _bad(path, "its provenance is not a JSON object") from error


def _write_whole(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data, shared=True)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}", "a writable folder", "choose another place"
        ) from error
