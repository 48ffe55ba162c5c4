"""Files of `torch.save` without torch: tensors as arrays, and nothing executed.

Both layouts are read: the zip archive (PyTorch 1.6 and later; tensors are views of the mapped file) and the sequence of
pickles before it. `opcodes.interpret` records what the pickle asks for; here a short list of what a file of tensors
needs is carried out. Every other name is rejected, or becomes an inert `Placeholder`, like a trainer's own objects in a
Stable Diffusion `.ckpt`.
"""

import math
import os
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import ml_dtypes
import numpy as np

from ine_jax.errors import InputError
from ine_jax.storage import untrusted
from ine_jax.storage.pickles.archives import ArchiveError, open_archive
from ine_jax.storage.pickles.opcodes import Call, Global, Pairs, Persistent, PickleError, Value, interpret

MAX_PICKLE_BYTES = 32 * 1024 * 1024
MAX_DEPTH = 64
MAX_VALUES = 2_000_000
MAX_RANK = 8
MAX_SHARING = 4  # all tensors together may be this many times the file: tied weights, never a bomb of views
CHECKED_BYTES = 64 * 1024 * 1024  # files up to this size have all their checksums verified

STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
# Names that no model or embedding needs and that attacks begin with. Nothing is executed without this list either; it
# is here so that the error says what the file tried.
_HOSTILE = re.compile(
    r"(os|posix|nt|subprocess|sys|shutil|socket|runpy|importlib|webbrowser|pty|ctypes|code|commands|pickle|marshal"
    r"|asyncio|multiprocessing|signal|timeit|pdb|bdb|profile|cProfile|platform|tempfile|urllib|http|ftplib|smtplib"
    r"|requests|pip|ensurepip)[.].*"
    r"|(builtins|__builtin__)[.](eval|exec|execfile|compile|open|getattr|setattr|delattr|apply|input|breakpoint|file"
    r"|globals|locals|vars|map|filter|reload|__import__|help|exit|quit)([.].*)?",
    re.DOTALL,
)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclass(frozen=True)
class Placeholder:
    """The name of something that a pickle wanted to import; it can do nothing."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A flat array of the file."""

    key: str
    dtype: np.dtype
    count: int


def read_pickle(path: str | os.PathLike[str], *, strict: bool = False) -> Value:
    """Return the value of a file of `torch.save`: nested containers and constants, and an array for every tensor.

    The arrays are read-only views of the mapped file: a checkpoint costs no memory until its numbers are used. With
    `strict`, for files that hold only tensors, unknown names are rejected instead of returned as a `Placeholder`.

    Raises:
        InputError: a missing or damaged file, neither layout, too deep or too large, a tensor outside its storage, or
            a name that runs programs.
    """
    source = Path(path)
    raw: np.ndarray = np.asarray(untrusted.map_file(source, _rejected))
    try:
        reader = _from_archive if raw[:4].tobytes() == b"PK\x03\x04" else _from_sequence
        value, storages = reader(source, raw)
        return _Resolver(storages, strict, MAX_SHARING * len(raw)).value(value, 0)
    except (PickleError, ArchiveError) as error:
        raise _rejected(source, str(error)) from error


def _rejected(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path}: {reason}",
        "a file that torch.save wrote, of tensors, dictionaries, lists, text and numbers",
        "get the file again from its author, as .safetensors if there is one; nothing of it was executed",
    )


def _from_archive(path: Path, raw: np.ndarray) -> tuple[Value, Callable[[_Storage], np.ndarray]]:
    archive = open_archive(path, raw)
    stream = archive.member("data.pkl")
    if len(stream) > MAX_PICKLE_BYTES:
        raise PickleError(f"its data.pkl is larger than {MAX_PICKLE_BYTES >> 20} MiB")
    for name in archive.members if len(raw) <= CHECKED_BYTES else ("data.pkl",):
        archive.check_sum(name)
    if "byteorder" in archive.members and archive.member("byteorder").tobytes() != b"little":
        raise PickleError("its byte order is not little")
    value, end, _ = interpret(stream.data)
    if end != len(stream):
        raise PickleError("bytes after the end of its data.pkl")
    return value, lambda storage: _numbers(archive.member(f"data/{storage.key}"), storage)


def _from_sequence(path: Path, raw: np.ndarray) -> tuple[Value, Callable[[_Storage], np.ndarray]]:
    """Read the layout before 1.6: magic number, protocol, machine, value, keys; then each storage, count first."""
    head = raw.data[:MAX_PICKLE_BYTES]
    found: list[Value] = []
    outside: list[Persistent] = []
    at = 0
    for _ in range(5):
        value, at, named = interpret(head, at)
        found.append(value)
        outside += named
        if found[0] != _LEGACY_MAGIC:
            raise PickleError("neither a zip archive nor a pickle sequence of torch.save")
    _, protocol, machine, value, keys = found
    about = machine.pairs if isinstance(machine, Pairs) else []
    if protocol != _LEGACY_PROTOCOL or not any(key == "little_endian" and held is True for key, held in about):
        raise PickleError("an unknown protocol or byte order")
    storages = {storage.key: storage for storage in map(_storage, outside)}
    if not isinstance(keys, list) or len(keys) != len(storages) or not all(isinstance(key, str) for key in keys):
        raise PickleError("its list of storages is damaged")
    numbers: dict[str, np.ndarray] = {}
    for key in keys:
        if key not in storages or key in numbers:
            raise PickleError("its list of storages is damaged")
        begin = at + 8
        count = int.from_bytes(raw[at:begin].tobytes(), "little")
        at = begin + count * storages[key].dtype.itemsize
        numbers[key] = _numbers(raw[begin:at], storages[key])
    if at != len(raw):
        raise PickleError("bytes after its last storage, or too few")
    return value, lambda storage: _numbers(numbers[storage.key].view(np.uint8), storage)


def _storage(outside: Persistent) -> _Storage:
    """Return the storage of a persistent identifier ("storage", class, key, device, count[, view])."""
    match outside.identifier:
        case ("storage", Global("torch", name), str(key), str(), int(count), *view) if name in STORAGES and (
            not view or view == [None]
        ):
            return _Storage(key, STORAGES[name], count)
    raise PickleError("an outside object that is not a plain storage of numbers")


def _numbers(raw: np.ndarray, storage: _Storage) -> np.ndarray:
    if len(raw) != storage.count * storage.dtype.itemsize:
        raise PickleError(f"storage {storage.key[:40]!r} should hold {storage.count} numbers and has {len(raw)} bytes")
    if storage.dtype == np.bool_ and len(raw) and raw.max() > 1:
        raise PickleError(f"storage {storage.key[:40]!r} holds booleans that are neither true nor false")
    return raw.view(storage.dtype)


class _Resolver:
    """Turns what the interpreter recorded into plain values and arrays, within bounds of depth, count and bytes."""

    def __init__(self, storages: Callable[[_Storage], np.ndarray], strict: bool, max_bytes: int) -> None:
        self.storages, self.strict = storages, strict
        self.values_left, self.bytes_left = MAX_VALUES, max_bytes

    def value(self, found: Value, depth: int) -> Value:
        self.values_left -= 1
        if self.values_left < 0 or depth > MAX_DEPTH:
            raise PickleError(f"more than {MAX_VALUES:,} values, or nested deeper than {MAX_DEPTH}")
        if isinstance(found, Pairs):
            return {self.key(key, depth): self.value(held, depth + 1) for key, held in found.pairs}
        if isinstance(found, list | tuple):
            return type(found)(self.value(item, depth + 1) for item in found)
        if isinstance(found, Call):
            return self.call(found, depth)
        if isinstance(found, Global):
            return self.placeholder(found)
        if isinstance(found, Persistent):
            raise PickleError("a storage outside a tensor")
        return found

    def key(self, found: Value, depth: int) -> Hashable:
        """Return a dictionary key: plain, or an inert name where hashing the value may take forever."""
        made = self.value(found, depth + 1)
        if made is None or isinstance(made, str | bytes | int | float | Placeholder):
            return made
        if self.strict:
            raise PickleError(f"a dictionary key that is a {type(made).__name__}")
        return Placeholder(f"key {type(made).__name__} {self.values_left}")

    def placeholder(self, name: Global) -> Placeholder:
        if _HOSTILE.fullmatch(str(name)):
            raise PickleError(f"it names {name}, which runs programs and does not belong in a file of tensors")
        if self.strict:
            raise PickleError(f"it names {name}, which a file of tensors does not need")
        return Placeholder(str(name))

    def call(self, call: Call, depth: int) -> Value:
        match call.what, call.args:
            case Global("collections", "OrderedDict"), () | ([],):
                return self.value(Pairs(call.pairs), depth)
            case Global("collections", "OrderedDict"), ([*pairs],) if all(_is_pair(pair) for pair in pairs):
                given = [(pair[0], pair[1]) for pair in pairs if _is_pair(pair)]
                return self.value(Pairs(given + call.pairs), depth)
            case Global("torch._utils", "_rebuild_tensor_v2"), (outside, offset, size, stride, _, _, *_):
                return self.tensor(outside, offset, size, stride)
            case Global("torch._utils", "_rebuild_tensor"), (outside, offset, size, stride):
                return self.tensor(outside, offset, size, stride)
            case Global("torch._utils", "_rebuild_parameter"), (data, bool(), _):
                return self.value(data, depth + 1)
            case Global("builtins" | "__builtin__", "set"), ():
                return self.value(call.items, depth)
            case Global("builtins" | "__builtin__", "set"), ([*items],):
                return self.value(items + call.items, depth)
            case Global("torch.nn.modules.container", "ParameterDict"), ():
                return self.parameters(call.state, depth)
        made = self.value(call.what, depth + 1)
        for part in (call.args, call.items, call.pairs, call.state):  # a name that runs programs is found anywhere
            self.value(part, depth + 1)
        return made if isinstance(made, Placeholder) else Placeholder("a nested call")

    def parameters(self, state: Value, depth: int) -> Value:
        """Return the `_parameters` of a module, in which the first textual inversions kept their vectors."""
        held = self.value(state, depth + 1) if isinstance(state, Pairs) else None
        found = held.get("_parameters") if isinstance(held, dict) else None
        if not isinstance(found, dict):
            raise PickleError("a ParameterDict without parameters")
        return found

    def tensor(self, outside: Value, offset: Value, size: Value, stride: Value) -> np.ndarray:
        if not isinstance(outside, Persistent):
            raise PickleError("a tensor without a storage")
        if not (isinstance(offset, int) and _counts((offset,)) and _counts(size) and _counts(stride)):
            raise PickleError("a tensor whose offset, size or strides are not counts")
        if len(size) != len(stride):
            raise PickleError("a tensor with another number of strides than of axes")
        storage = _storage(outside)
        numbers = self.storages(storage)
        total = math.prod(size)
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True)) if total else offset
        if len(size) > MAX_RANK or total > len(numbers) or last >= len(numbers) + (total == 0):
            raise PickleError(f"a tensor of size {list(size)[:MAX_RANK]} outside its storage of {len(numbers)} numbers")
        self.bytes_left -= total * storage.dtype.itemsize
        if self.bytes_left < 0:
            raise PickleError(f"tensors that together are more than {MAX_SHARING} times the file")
        if total == 0:
            return np.empty(size, storage.dtype)
        steps = [step * storage.dtype.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(numbers[offset:], size, steps, writeable=False)


def _counts(found: Value) -> TypeGuard[tuple[int, ...]]:
    """Whether `found` is a tuple of whole numbers from 0 to 2^48."""
    return isinstance(found, tuple) and all(type(count) is int and 0 <= count < 1 << 48 for count in found)


def _is_pair(found: Value) -> TypeGuard[list[Value] | tuple[Value, Value]]:
    return isinstance(found, list | tuple) and len(found) == 2
