"""Opening an embedding file of unknown kind: safetensors, torch, npz or npy, with bounds on size, executing nothing."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import safetensors

from ine_jax.errors import InputError
from ine_jax.storage import untrusted
from ine_jax.storage.dtypes import dtype_of_code
from ine_jax.storage.npy import parse_npy
from ine_jax.storage.pickles import read_pickle
from ine_jax.storage.safetensors_writer import tensors_hash

SCHEMA = "ine_jax.embedding/2"  # 1 had no hash
HASH = "content_sha256"
MAX_BYTES = 64 * 1024 * 1024
MAX_TENSORS = 64
_STORED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError, EOFError)
_NPZ_ERRORS = (*_ZIP_ERRORS, struct.error, ValueError, OverflowError)

Container: TypeAlias = Literal["safetensors", "torch", "npz", "npy"]


class FormatError(ValueError):
    """The file can be read and does not hold an embedding of the format."""


@dataclass(frozen=True)
class OpenedFile:
    """What a file's container holds: the value of a pickle, arrays by name, or one array.

    Attributes:
        metadata: the texts of a safetensors header.
        space: what the user says about a format that does not record its space.
    """

    path: Path
    container: Container
    value: object
    metadata: Mapping[str, str]
    space: str = ""

    @property
    def entries(self) -> dict[object, object]:
        """Entries of a mapping; empty for any other value."""
        return self.value if isinstance(self.value, dict) else {}

    def single_array(self) -> tuple[str, np.ndarray] | None:
        """Return key and array where the value maps one text to one array."""
        if len(self.entries) == 1:
            ((key, array),) = self.entries.items()
            if isinstance(key, str) and isinstance(array, np.ndarray):
                return key, array
        return None

    def provenance(self) -> dict[str, str]:
        """Return the provenance that our own safetensors files record; empty for other files."""
        try:
            found = json.loads(self.metadata.get("provenance", "{}"))
            return {str(key): str(value) for key, value in found.items()}
        except (ValueError, AttributeError, RecursionError) as error:
            raise FormatError("its provenance is not a JSON object") from error


def not_an_embedding(path: Path, reason: str) -> InputError:
    """Make the error for a file that is not an embedding."""
    allowed = "an embedding of diffusers, A1111, ComfyUI or SDXL, or one plain array"
    return InputError(f"{path}: {reason}", allowed, "see the formats in docs/formats.md, or get the file again")


def read_capped(path: Path) -> bytes:
    """Return the bytes of a file of at most 64 MiB; FormatError where it is missing or larger."""
    return untrusted.read(path, MAX_BYTES, lambda _, reason: FormatError(reason))


def open_file(path: Path, space: str = "") -> OpenedFile:
    """Return what the container at `path` holds. The first bytes decide its kind, not its name."""
    try:
        raw = read_capped(path)
        if raw[:6] == b"\x93NUMPY":
            return OpenedFile(path, "npy", _parse_npy(raw), {}, space)
        if raw[:4] == b"PK\x03\x04" and path.suffix == ".npz":
            return OpenedFile(path, "npz", _parse_npz(raw), {}, space)
        # A safetensors file begins with the length of its header, which can look like a pickle's first bytes.
        header = raw[8:9] == b"{" and int.from_bytes(raw[:8], "little") < len(raw)
        if raw[:4] == b"PK\x03\x04" or (raw[:1] == b"\x80" and not header):
            return OpenedFile(path, "torch", read_pickle(path, strict=True), {}, space)
        arrays, metadata = parse_safetensors(raw)
        return OpenedFile(path, "safetensors", arrays, metadata, space)
    except FormatError as error:
        raise not_an_embedding(path, str(error)) from error


def sealed(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of one of our files with the hash of tensors and metadata."""
    return {**metadata, HASH: tensors_hash(tensors, metadata)}


def parse_safetensors(raw: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file; FormatError where one of ours was changed."""
    try:
        found = list(safetensors.deserialize(raw))
        (length,) = struct.unpack("<Q", raw[:8])
        metadata = json.loads(raw[8 : 8 + length]).get("__metadata__") or {}  # the parser takes null
    except Exception as error:  # the parser's exceptions have no common base
        raise FormatError(f"not a safetensors file, nor torch, npy or npz ({str(error)[:100]})") from error
    if len(found) > MAX_TENSORS:
        raise FormatError(f"{len(found)} tensors, too many for an embedding")
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in found:
        dtype = dtype_of_code(tensor["dtype"])
        if dtype is None:
            raise FormatError(f"dtype {tensor['dtype']}, not F32, F16 or BF16")
        arrays[name] = np.frombuffer(bytes(tensor["data"]), dtype).reshape(tensor["shape"])
    texts = {str(key): str(value) for key, value in metadata.items()}
    plain = {key: text for key, text in texts.items() if key != HASH}
    hashed = HASH in texts or texts.get("schema") == SCHEMA  # one of the two outlives any single changed byte
    try:
        sound = not hashed or sealed(arrays, plain) == texts
    except UnicodeEncodeError:
        sound = False
    if not sound:
        raise FormatError("damaged: its sha256 is not the recorded one")
    return arrays, texts


def _parse_npy(raw: bytes) -> np.ndarray:
    try:
        return parse_npy(raw)
    except ValueError as error:
        raise FormatError(str(error)) from error


def _parse_npz(raw: bytes) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_TENSORS or sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise FormatError(f"{len(entries)} arrays, together larger than an embedding")
            if any(entry.compress_type not in _STORED for entry in entries):
                raise FormatError("an unknown compression")
            members = {entry.filename.removesuffix(".npy"): archive.read(entry) for entry in entries}
    except FormatError:
        raise
    except _NPZ_ERRORS as error:
        raise FormatError(f"a damaged npz file ({str(error)[:100]})") from error
    if len(members) != len(entries):
        raise FormatError("two arrays of one name")
    return {name: _parse_npy(data) for name, data in members.items()}
