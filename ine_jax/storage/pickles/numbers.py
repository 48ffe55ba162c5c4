"""One array of numbers in a plain pickle (not torch.save's), read without executing it: NumPy's, or nested lists."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ine_jax.errors import InputError
from ine_jax.storage.pickles.opcodes import Call, Global, PickleError, interpret

MAX_BYTES = 16 * 1024 * 1024
_DTYPES = {"f2": np.float16, "f4": np.float32, "f8": np.float64}
_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2


def read_numbers(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of floating-point numbers that ``pickle.dump`` wrote, in its own dtype; nested lists as float32.

    Raises:
        InputError: no such file, too large, damaged, or anything else than one such array; nothing of it is executed.
    """
    source = Path(path)
    try:
        with source.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise PickleError(f"larger than {MAX_BYTES >> 20} MiB")
        value, end, _ = interpret(raw)
        if end != len(raw):
            raise PickleError("bytes after its end")
        return _array(value) if isinstance(value, Call) else _nested(value)
    except (PickleError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"{source}: {reason}",
            "a pickle of one NumPy array of floats, or of lists of them",
            "get the file again from its author; nothing of it was executed",
        ) from error


def _array(call: Call) -> np.ndarray:
    """NumPy pickles an array as ``_reconstruct(ndarray, (0,), b"b")`` with state (version, shape, dtype, order, bytes).

    The dtype is ``dtype("f4", align, copy)`` with a state that begins by (version, byte order).
    """
    match call:
        case Call(
            what=Global(module=module, name="_reconstruct"),
            args=(Global(module="numpy", name="ndarray"), *_),
            state=(
                int(),
                tuple() as shape,
                Call(what=Global("numpy", "dtype"), args=(str(name), *_), state=(int(), "<", *_)),
                by_column,
                data,
            ),
        ) if module in _CORES and name in _DTYPES and all(type(side) is int and side >= 0 for side in shape):
            dtype, raw = np.dtype(_DTYPES[name]), _bytes(data)
            if len(shape) > 8 or math.prod(shape) * dtype.itemsize != len(raw):
                raise PickleError(f"an array of shape {list(shape)[:8]} in {len(raw)} bytes")
            return np.frombuffer(raw, dtype).reshape(shape, order="F" if by_column is True else "C")
    raise PickleError(f"it asks for {call.what if isinstance(call.what, Global) else 'a call'}, not for a float array")


def _bytes(data: Any) -> bytes:
    """Bytes as protocols 3 and 4 write them, or protocol 2: as text in Latin-1, from Python 3 by way of a codec."""
    if isinstance(data, Call) and data.what == Global("_codecs", "encode") and data.args[1:] == ("latin1",):
        data = data.args[0]
    try:
        return data if isinstance(data, bytes) else str.encode(data, "latin-1")
    except (TypeError, UnicodeEncodeError) as error:
        raise PickleError("an array without its bytes") from error


def _nested(value: Any) -> np.ndarray:
    rows = value if isinstance(value, list | tuple) else []
    if not all(isinstance(row, list | tuple) and all(type(x) in (int, float) for x in row) for row in rows):
        rows = []
    if not rows or len({len(row) for row in rows}) != 1:
        raise PickleError(f"a {type(value).__name__}, not a float array")
    try:
        return np.asarray(rows, np.float32)
    except OverflowError as error:
        raise PickleError("a number beyond float32") from error
