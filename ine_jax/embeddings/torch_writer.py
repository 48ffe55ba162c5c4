"""Writing files that `torch.load(weights_only=True)` opens, without torch.

The layout is that of `torch.save` since PyTorch 1.6: an uncompressed zip with the pickle of the value (protocol 2) and
one member of plain numbers per tensor, each aligned to 64 bytes. Equal values give equal bytes.
"""

import io
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

from ine_jax.storage.pickles import STORAGES

_ALIGNMENT = 64
_HEADER_BYTES = 30  # of a zip member, before its name
_FOLDER = "archive"
_CLASSES = {dtype: name for name, dtype in STORAGES.items()}
_REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
_NO_HOOKS = b"ccollections\nOrderedDict\n)R"


def torch_bytes(value: object) -> bytes:
    """Return a torch file of nested dict, list, tuple, str, int, float, bool, None, and arrays in place of tensors.

    Raises:
        TypeError: any other value, or an array of a dtype that torch has no storage class for.
    """
    tensors: list[np.ndarray] = []
    stream = b"\x80\x02" + _pickled(value, tensors) + b"."
    members = {"data.pkl": stream}  # no "byteorder": A1111 before 2024 allows no such member
    members |= {f"data/{i}": array.tobytes() for i, array in enumerate(tensors)}
    members["version"] = b"3\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(f"{_FOLDER}/{name}")  # its date is fixed
            begin = buffer.tell() + _HEADER_BYTES + len(entry.filename) + 4
            padding = -begin % _ALIGNMENT
            entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
            archive.writestr(entry, data)
    return buffer.getvalue()


def _pickled(value: object, tensors: list[np.ndarray]) -> bytes:
    """Return opcodes that push `value`; its arrays are appended to `tensors` in order."""
    if value is None or isinstance(value, bool):
        return b"N" if value is None else b"\x88" if value else b"\x89"
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(text)) + text
    if isinstance(value, np.ndarray):
        return _tensor(value, tensors)
    if isinstance(value, Mapping):
        pairs = (_pickled(part, tensors) for pair in value.items() for part in pair)
        return b"}(" + b"".join(pairs) + b"u"
    if isinstance(value, list | tuple):
        items = b"".join(_pickled(item, tensors) for item in value)
        return b"(" + items + b"t" if isinstance(value, tuple) else b"](" + items + b"e"
    raise TypeError(f"a torch file of {type(value).__name__}")


def _tensor(array: np.ndarray, tensors: list[np.ndarray]) -> bytes:
    if array.dtype not in _CLASSES:
        raise TypeError(f"a torch tensor of {array.dtype}")
    strides = tuple(step // array.itemsize for step in np.empty(array.shape, array.dtype).strides)
    storage = b"(" + _pickled("storage", []) + b"ctorch\n" + _CLASSES[array.dtype].encode() + b"\n"
    storage += b"".join(_pickled(part, []) for part in (str(len(tensors)), "cpu", array.size)) + b"tQ"
    tensors.append(np.ascontiguousarray(array))
    layout = b"".join(_pickled(part, []) for part in (0, array.shape, strides, False))
    return _REBUILD + b"(" + storage + layout + _NO_HOOKS + b"tR"
