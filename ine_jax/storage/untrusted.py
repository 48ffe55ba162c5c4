"""The one place where files are opened for reading: regular files only, without waiting, of at most a given size.

The name of a file from outside may lead to a device without an end, to a pipe that nobody writes to, or to a folder. A
size is checked before anything is read, and again by what is read: some files report none.
"""

import errno
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ine_jax.errors import InputError
from ine_jax.storage import publishing

MAX_JSON = 8 << 20  # bytes; the index of a large sharded model, and the header of a weight file, stay below 1 MiB
MAX_RECORDS = 128 << 20  # JSON lines of one block, log or list
MAX_WEIGHTS = 64 << 30

Reject = Callable[[Path, str], Exception]  # path, reason -> the error to raise

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def unreadable(path: Path, reason: str) -> InputError:
    """Make the error for a file that cannot be read."""
    return InputError(f"{path}: {reason}", "a regular file", "check the path")


def open_regular(path: str | os.PathLike[str], limit: int, reject: Reject = unreadable) -> io.BufferedReader:
    """Open a regular file of at most `limit` bytes, or raise what `reject` makes of the reason. Links are followed."""
    try:
        handle = _open(path)
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        reason = "no such file" if missing else error.strerror or "cannot be read"
        raise reject(Path(path), reason) from error
    except ValueError as error:  # NUL, or half of a surrogate pair
        raise reject(Path(path), "no file can have this name") from error
    file = os.fdopen(handle, "rb") if stat.S_ISREG((state := os.fstat(handle)).st_mode) else None
    if file is None:
        os.close(handle)
        kind = next((name for test, name in _KINDS if test(state.st_mode)), "something else")
        raise reject(Path(path), f"{kind}, not a file")
    if state.st_size > limit:
        file.close()
        raise reject(Path(path), _larger(limit))
    return file


def _open(path: str | os.PathLike[str]) -> int:
    # O_NONBLOCK: opening a pipe would otherwise wait for its writer
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        if not publishing.fetched(path):
            raise
        return os.open(path, flags)


def read(path: str | os.PathLike[str], limit: int, reject: Reject = unreadable) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes; errors as of `open_regular`."""
    with open_regular(path, limit, reject) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise reject(Path(path), error.strerror or "cannot be read") from error
    if len(data) > limit:
        raise reject(Path(path), _larger(limit))
    return data


def map_file(path: str | os.PathLike[str], reject: Reject = unreadable) -> Any:
    """Map a file of weights as a NumPy array of bytes, read-only; errors as of `open_regular`."""
    import numpy as np

    with open_regular(path, MAX_WEIGHTS, reject) as file:
        try:
            return np.memmap(file, np.uint8, "r")
        except (OSError, ValueError) as error:
            reason = "it is empty" if isinstance(error, ValueError) else error.strerror or "cannot be mapped"
            raise reject(Path(path), reason) from error


def open_safetensors(path: str | os.PathLike[str], reject: Reject = unreadable) -> Any:
    """Open a safetensors file whose header is within bounds, as `safetensors.safe_open` does for NumPy."""
    import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy
    import safetensors

    with open_regular(path, MAX_WEIGHTS, reject) as file:
        if int.from_bytes(file.read(8), "little") > MAX_JSON:
            raise reject(Path(path), f"not a safetensors file, or a header {_larger(MAX_JSON)}")
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise reject(Path(path), str(error)) from error


def _larger(limit: int) -> str:
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB" if limit >= 1024 else f"{limit} bytes"
    return f"larger than {size}"
