"""Files and folders that are complete or absent, errors that name them, and the lock of a directory.

Files are private (0600) unless `shared` is set: a run holds images of harmful concepts. What is being written has a
hidden name with the host and process that write it.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from ine_jax.errors import InputError
from ine_jax.storage import publishing
from ine_jax.storage.processes import is_alive

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})  # full or failing; nothing is wrong with input
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)\.tmp", re.DOTALL)
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_held: dict[str, int] = {}  # locks of this process, and the threads that hold them


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError name `path` where it names no file, as those of writing do, or a temporary one."""
    try:
        yield
    except OSError as error:
        names = Path(str(error.filename or "")).parts
        if not names or any(map(_TEMPORARY.fullmatch, names)):
            error.filename, error.filename2 = str(path), None
        raise


@contextlib.contextmanager
def atomic_file(path: Path, *, shared: bool = False, new: bool = False) -> Iterator[io.BufferedWriter]:
    """Open a temporary file that replaces `path` when the block ends without an error; readers find either file.

    With `new`, FileExistsError where `path` exists by then; after any other error there is no such file.
    """
    with naming(path):
        _make_parent(path)
        temporary = _temporary(path)
        temporary.unlink(missing_ok=True)  # process ids are used again
        try:
            with _durable(temporary, shared) as file:
                yield file
            _publish(temporary, path) if new else temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        try:
            sync(path.parent)
        except OSError:
            if new:
                path.unlink(missing_ok=True)
            raise
        publishing.published(path, new=new)


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # which would mean that `path` exists
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from error


def _publish(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        temporary.rename(path)


@contextlib.contextmanager
def atomic_folder(path: Path, mode: int = 0o777) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path`, new or empty until then, when the block ends without an error."""
    with naming(path):
        _make_parent(path)
        clear(path.parent, path.name)
        temporary = _temporary(path)
        shutil.rmtree(temporary, ignore_errors=True)  # process ids are used again
        try:
            temporary.mkdir(mode=mode)
            yield temporary
            sync(temporary)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(path.parent)
        publishing.published(path)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)
    publishing.pruned(path)


def write_atomic(path: Path, data: bytes | str, *, shared: bool = False, new: bool = False) -> None:
    """Replace `path` by a file that holds `data`, as `atomic_file` does."""
    with atomic_file(path, shared=shared, new=new) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: object, *, indent: int = 1, shared: bool = False) -> None:
    """Write indented JSON with sorted keys, as `atomic_file` does."""
    write_atomic(path, json.dumps(value, indent=indent, sort_keys=True) + "\n", shared=shared)


def write_durable(path: Path, data: bytes) -> None:
    """Write a new private file in place and wait until it is on the disk."""
    with naming(path), _durable(path, shared=False) as file:
        file.write(data)


def append(path: Path, text: str) -> None:
    """Add lines to a private file; where the disk does not take all of them, it keeps none."""
    with naming(path), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0) as file:
        size, data = os.fstat(file.fileno()).st_size, text.encode()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise
    publishing.appended(path, text)


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
        with naming(folder):
            os.fsync(handle)
    finally:
        os.close(handle)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.tmp")


def clear(folder: Path, name: str = "*", *, alone: bool = False) -> None:
    """Remove temporary files and folders whose process is dead; with `alone`, also those of other machines.

    `alone` is for who holds the folder's lock: then nobody writes in it, and a dead machine never cleans up itself.
    """
    for path in folder.glob(f".{name if name == '*' else glob.escape(name)}.*.tmp"):
        owner = _TEMPORARY.fullmatch(path.name)
        if owner and ((owner[1] == _HOST and not is_alive(int(owner[2]))) or (owner[1] != _HOST and alone)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(root: str | Path, *, part: str = "", reading: bool = False) -> Iterator[None]:
    """Hold the lock of a directory, which every command that writes there holds; InputError if another one does.

    The lock of a killed process is free. Within one thread it may be taken again.

    Args:
        part: of a run that several processes write together: they exclude others, and those of the same part.
        reading: only wait for nobody to write; nothing is written, so a read-only directory will do.
    """
    path = Path(root) / ".lock"
    mine, thread = os.path.realpath(path), threading.get_ident()
    if _held.get(mine) == thread:
        yield
        return
    if reading and not path.exists():  # nobody ever wrote here with a lock
        with publishing.locked(root, part, reading):
            yield
        return
    if not reading:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        _take(stack, path, root, fcntl.LOCK_SH if part or reading else fcntl.LOCK_EX, "r" if reading else "a+")
        if part:
            _take(stack, path.with_name(f".part-{part}.lock"), root, fcntl.LOCK_EX, "a+")
        stack.enter_context(publishing.locked(root, part, reading))
        _held[mine] = thread
        stack.callback(_held.pop, mine, None)
        yield


def _take(stack: contextlib.ExitStack, path: Path, root: str | Path, kind: int, mode: str) -> None:
    file = stack.enter_context(path.open(mode))
    try:
        with naming(path):
            fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        allowed = "one process per directory and shard"
        todo = "wait for it, or choose another directory"
        raise InputError(f"{root} is in use by another process", allowed, todo) from error
