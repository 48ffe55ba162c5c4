"""Files that are complete or absent, and the lock of a directory.

Files are private (0600) unless `shared` is set: a run holds images of harmful concepts.
"""

import contextlib
import fcntl
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ine_jax.errors import InputError


@contextlib.contextmanager
def atomic_file(path: Path, *, shared: bool = False) -> Iterator[io.BufferedWriter]:
    """Open a temporary file that replaces `path` when the block ends without an error; readers find either file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # process ids are used again
    try:
        with _durable(temporary, shared) as file:
            yield file
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str, *, shared: bool = False) -> None:
    """Replace `path` by a file that holds `data`, as `atomic_file` does."""
    with atomic_file(path, shared=shared) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: object, *, indent: int = 1, shared: bool = False) -> None:
    """Write indented JSON with sorted keys, as `atomic_file` does."""
    write_atomic(path, json.dumps(value, indent=indent, sort_keys=True) + "\n", shared=shared)


def write_durable(path: Path, data: bytes) -> None:
    """Write a new private file in place and wait until it is on the disk."""
    with _durable(path, shared=False) as file:
        file.write(data)


@contextlib.contextmanager
def _durable(path: Path, shared: bool) -> Iterator[io.BufferedWriter]:
    # O_EXCL: neither a link nor a file that someone else put there is written to.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if shared else 0o600)
    with open(handle, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Wait until the folder's list of names is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def lock(root: str | Path, name: str = "run") -> Iterator[None]:
    """Hold the lock `name` of a directory; that of a killed process is free. InputError if another one holds it."""
    path = Path(root) / f".{name}.lock"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{root} is being written by another process",
                "one process per directory and shard",
                "wait for it, or choose another directory",
            ) from error
        yield
