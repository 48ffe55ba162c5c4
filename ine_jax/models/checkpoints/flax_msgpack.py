"""Legacy Flax weights (`flax_model.msgpack`, `diffusion_flax_model.msgpack`): arrays mapped from the file; written.

The format is msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md) of nested maps with text keys; an array
is extension type 1, whose payload is again msgpack: `(shape, dtype name, bytes)`, as `flax.serialization` has it.
Only maps, texts, numbers and that extension are read; nothing is executed and no array is copied.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ine_jax.errors import InputError
from ine_jax.storage import untrusted
from ine_jax.storage.dtypes import WEIGHT_DTYPES

_ARRAY = 1  # flax.serialization's extension type of an array
_DEPTH = 32
_RANK = 8
# First byte → width in bytes of the length that follows.
_TEXT = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_MAP = {0xDE: 2, 0xDF: 4}
_LIST = {0xDC: 2, 0xDD: 4}
_EXTENSION = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTENSION = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_NUMBER = {0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q", 0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q"}
_PLAIN = {0xC0: None, 0xC2: False, 0xC3: True}


def read_msgpack_leaves(path: Path) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Path of keys and array of every leaf, in the file's order; InputError for anything but maps of arrays."""
    mapped = untrusted.map_file(path)
    try:
        yield from _Reader(mapped).walk((), 0)
    except (ValueError, IndexError, struct.error, TypeError, OverflowError) as error:
        given = f"{path}: {error}"
        raise InputError(given, "nested maps of arrays, as Flax writes them", "take another copy") from error


def write_msgpack(file: BinaryIO, state: Mapping[tuple[str, ...], Any]) -> None:
    """Write tensors by path as `flax.serialization.to_bytes` writes the nested tree, one in memory at a time."""
    heads: dict[str, dict[tuple[str, ...], Any]] = {}
    for path, tensor in state.items():
        heads.setdefault(path[0], {})[path[1:]] = tensor
    file.write(_head(len(heads), 0x80, 16, {0xDE: 2, 0xDF: 4}))
    for key, below in heads.items():
        file.write(_text(key))
        if () in below:
            values = np.asarray(below[()])
            before = _head(3, 0x90, 16, _LIST) + _head(len(values.shape), 0x90, 16, _LIST)
            before += b"".join(_count(side) for side in values.shape) + _text(str(values.dtype))
            before += _head(values.nbytes, None, 0, _BYTES)
            size = len(before) + values.nbytes
            fixed = {width: bytes([code]) for code, width in _FIXED_EXTENSION.items()}
            file.write(fixed.get(size) or _head(size, None, 0, _EXTENSION))
            file.write(bytes([_ARRAY]) + before)
            file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        else:
            write_msgpack(file, below)


def _head(length: int, short: int | None, below: int, wide: Mapping[int, int]) -> bytes:
    """The shortest encoding of a length: in the first byte where it is `below` a bound, else after it."""
    if short is not None and length < below:
        return bytes([short | length])
    code, width = next((code, width) for code, width in wide.items() if length < 256**width)
    return bytes([code]) + length.to_bytes(width, "big")


def _count(number: int) -> bytes:
    return _head(number, 0, 0x80, {0xCC: 1, 0xCD: 2, 0xCE: 4})


def _text(text: str) -> bytes:
    return _head(len(text.encode()), 0xA0, 32, _TEXT) + text.encode()


class _Reader:
    """A place in the bytes; each method reads one thing and moves on."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.at = data, 0

    def walk(self, where: tuple[str, ...], depth: int) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """Leaves of the value here."""
        head = int(self.data[self.at])
        if 0x80 <= head <= 0x8F or head in _MAP:
            if depth == _DEPTH:
                raise ValueError("maps nested too deep")
            for _ in range(self.length(_MAP, 0x80, 0x0F)):
                key = self.value()
                if not isinstance(key, str):
                    raise ValueError(f"key {key!r} is no text")
                yield from self.walk((*where, key), depth + 1)
        elif head in _EXTENSION or head in _FIXED_EXTENSION:
            yield where, self.array()
        else:
            raise ValueError(f"{'/'.join(where) or 'the file'} holds byte {head:#x}, no map and no array")

    def array(self) -> np.ndarray:
        """The array here, as a view of the file."""
        head = self.byte()
        size = self.number(_EXTENSION[head]) if head in _EXTENSION else _FIXED_EXTENSION[head]
        kind, end = self.byte(), self.at + size
        if kind != _ARRAY:
            raise ValueError(f"extension type {kind}, not an array")
        if self.length(_LIST, 0x90, 0x0F) != 3:
            raise ValueError("an array without shape, dtype and bytes")
        rank = self.length(_LIST, 0x90, 0x0F)
        if rank > _RANK:
            raise ValueError(f"an array of rank {rank}")
        shape, dtype, raw = [self.value() for _ in range(rank)], self.value(), self.value()
        if dtype not in WEIGHT_DTYPES or not all(type(side) is int and side >= 0 for side in shape) or self.at != end:
            raise ValueError(f"an array of dtype {dtype!r} and shape {shape!r}")
        return np.asarray(raw.view(np.dtype(dtype)).reshape(shape))

    def value(self) -> Any:
        """A text, a number, or bytes (as a view)."""
        head = int(self.data[self.at])
        if 0xA0 <= head <= 0xBF or head in _TEXT:
            return bytes(self.take(self.length(_TEXT, 0xA0, 0x1F))).decode()
        if head in _BYTES:
            return self.take(self.length(_BYTES, 0, 0))
        self.at += 1
        if head <= 0x7F:
            return head
        if head in _PLAIN:
            return _PLAIN[head]
        if head in _NUMBER:
            return struct.unpack(f">{_NUMBER[head]}", bytes(self.take(struct.calcsize(_NUMBER[head]))))[0]
        raise ValueError(f"byte {head:#x}")

    def length(self, wide: dict[int, int], short: int, mask: int) -> int:
        """Length of a text, list or map: in its first byte (`short` with the bits of `mask`), or after it."""
        head = self.byte()
        if head in wide:
            return self.number(wide[head])
        if not mask or head & ~mask & 0xFF != short:
            raise ValueError(f"byte {head:#x}")
        return head & mask

    def byte(self) -> int:
        """One byte as a number."""
        return self.number(1)

    def number(self, width: int) -> int:
        """A big-endian number of `width` bytes."""
        return int.from_bytes(bytes(self.take(width)), "big")

    def take(self, count: int) -> np.ndarray:
        """The next `count` bytes."""
        found = self.data[self.at : self.at + count]
        if len(found) != count:
            raise ValueError("the file ends too early")
        self.at += count
        return found
