"""The one writer of safetensors files: equal tensors and metadata give equal bytes, one tensor is in memory at a time.

The format's own library orders the metadata by a hash that differs between processes.
"""

import hashlib
import io
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from ine_jax.errors import InputError
from ine_jax.storage.atomic import atomic_file
from ine_jax.storage.dtypes import CODE_OF_NAME, WEIGHT_DTYPES
from ine_jax.storage.provenance import value_hash


@runtime_checkable
class Tensor(Protocol):
    """An array, or what becomes one through `numpy.asarray` when it is written."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        ...

    @property
    def dtype(self) -> np.dtype | str:
        """NumPy's dtype or its name, bfloat16 through ml_dtypes."""
        ...


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file that is complete or absent; arguments and errors as for `safetensors_bytes`."""
    header, order = _header(tensors, metadata or {})
    with atomic_file(path, shared=True) as file:
        _write(file, header, tensors, order)


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file with sorted `metadata`; its "format" is "pt" unless given."""
    header, order = _header(tensors, metadata or {})
    buffer = io.BytesIO()
    _write(buffer, header, tensors, order)
    return buffer.getvalue()


def tensors_hash(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256 over the name, dtype, shape and bytes of every tensor, and over all metadata."""
    digests = {
        name: [array.dtype.name, list(array.shape), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]
        for name, array in tensors.items()
    }
    return value_hash({"tensors": digests, "metadata": dict(metadata)})


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    for name, tensor in tensors.items():
        if str(tensor.dtype) not in WEIGHT_DTYPES:
            raise InputError(f"{name} is {tensor.dtype}", ", ".join(WEIGHT_DTYPES), "convert it first")
    order = sorted(tensors, key=lambda name: (WEIGHT_DTYPES.index(str(tensors[name].dtype)), name))
    header: dict[str, object] = {"__metadata__": dict(sorted({"format": "pt", **metadata}.items()))}
    end = 0
    for name in order:
        start, dtype, shape = end, str(tensors[name].dtype), list(tensors[name].shape)
        end += math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": CODE_OF_NAME[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data stay aligned
    return struct.pack("<Q", len(text)) + text, order


def _write(file: io.BufferedIOBase, header: bytes, tensors: Mapping[str, Tensor], order: list[str]) -> None:
    file.write(header)
    for name in order:
        file.write(np.ascontiguousarray(np.asarray(tensors[name])).reshape(-1).view(np.uint8).data)
