"""Opening a file of unknown kind: safetensors, torch, npz or npy, within bounds of size and without executing it."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from ine_jax.embeddings.learned import MAX_BYTES, Content, FormatError
from ine_jax.errors import InputError
from ine_jax.storage.dtypes import dtype_of_code
from ine_jax.storage.pickles import read_pickle

MAX_TENSORS = 64
SUFFIXES = (".safetensors", ".pt", ".bin", ".pth", ".npy", ".npz")
_STORED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def bad_file(path: Path, reason: str) -> InputError:
    """The error of a file that is no embedding."""
    return InputError(
        f"{path}: {reason}",
        "an embedding of diffusers, A1111, ComfyUI or SDXL, or one plain array",
        "see the formats in docs/formats.md, or get the file again",
    )


def open_content(path: Path, space: str = "") -> Content:
    """Return what the container at `path` holds; its kind is told by its first bytes, not by its name.

    Raises:
        InputError: no such file, over 64 MiB, none of the four containers, or a damaged one.
    """
    if not path.is_file():
        raise bad_file(path, "no such file")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise bad_file(path, error.strerror or "cannot be read") from error
    if len(raw) > MAX_BYTES:
        raise bad_file(path, f"larger than {MAX_BYTES >> 20} MiB, too large for an embedding")
    try:
        if raw[:6] == b"\x93NUMPY":
            return Content(path, "npy", npy_array(raw), {}, space)
        if raw[:4] == b"PK\x03\x04" and path.suffix == ".npz":
            return Content(path, "npz", _npz(raw), {}, space)
        # A safetensors file begins with its header's length, which may look like a pickle's first bytes.
        header = raw[8:9] == b"{" and int.from_bytes(raw[:8], "little") < len(raw)
        if raw[:4] == b"PK\x03\x04" or (raw[:1] == b"\x80" and not header):
            return Content(path, "torch", read_pickle(path, strict=True), {}, space)
        return Content(path, "safetensors", *_safetensors(raw), space)
    except FormatError as error:
        raise bad_file(path, str(error)) from error


def _safetensors(raw: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        found = list(safetensors.deserialize(raw))
        (length,) = struct.unpack("<Q", raw[:8])
        metadata = json.loads(raw[8 : 8 + length]).get("__metadata__", {})
    except Exception as error:  # the parser's exceptions are not one family
        raise FormatError(f"not a safetensors, torch, npy or npz file ({str(error)[:100]})") from error
    if len(found) > MAX_TENSORS:
        raise FormatError(f"{len(found)} tensors, too many for an embedding")
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in found:
        dtype = dtype_of_code(tensor["dtype"])
        if dtype is None:
            raise FormatError(f"dtype {tensor['dtype']}, not F32, F16 or BF16")
        arrays[name] = np.frombuffer(bytes(tensor["data"]), dtype).reshape(tensor["shape"])
    return arrays, {str(key): str(value) for key, value in metadata.items()}


def npy_array(raw: bytes) -> np.ndarray:
    """The array of an npy file; FormatError where its header and its size disagree, or it holds objects."""
    stream = io.BytesIO(raw)
    readers: dict[tuple[int, int], Callable[[Any], Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(stream)
        shape, by_column, dtype = readers[version](stream)
    except Exception as error:  # a header is Python syntax, and its parser raises what Python raises
        raise FormatError(f"a damaged npy header ({str(error)[:100]})") from error
    data = raw[stream.tell() :]
    if dtype.hasobject or dtype.kind not in "fiub" or len(shape) > 8:
        raise FormatError(f"an array of {dtype}, not of numbers")
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise FormatError(f"an array of shape {list(shape)} in {len(data)} bytes")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_column else "C")
    return array.astype(dtype.newbyteorder("="))


def _npz(raw: bytes) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_TENSORS or sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise FormatError(f"{len(entries)} arrays of together more than an embedding needs")
            if any(entry.compress_type not in _STORED for entry in entries):
                raise FormatError("an unknown compression")
            members = {entry.filename.removesuffix(".npy"): archive.read(entry) for entry in entries}
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        NotImplementedError,
        RuntimeError,
        EOFError,
        struct.error,
    ) as error:
        raise FormatError(f"a damaged npz file ({str(error)[:100]})") from error
    except (ValueError, OverflowError) as error:
        raise FormatError(str(error)[:100]) from error
    if len(members) != len(entries):
        raise FormatError("an array that stands twice")
    return {name: npy_array(data) for name, data in members.items()}
