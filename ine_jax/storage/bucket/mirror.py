"""The working copy of a directory in a bucket: a private folder on a local disk that follows the committed units.

What is finished here is committed there, file by file and folder by folder. Whatever is here and not there when the
copy is opened was not finished, and is removed. Each process has a copy of its own; a later one continues with it.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ine_jax.errors import CorruptRunError
from ine_jax.storage import publishing
from ine_jax.storage.bucket import client, lease
from ine_jax.storage.bucket.address import Address, cache_folder
from ine_jax.storage.bucket.done import DONE, WHOLE, Directory
from ine_jax.storage.provenance import file_hash

ATTEMPTS = 3  # a file that is replaced while it is read has another hash than its DONE object
LAZY = ".png"  # images in folders are downloaded when they are opened


class WorkingCopy:
    """Follows the folder `root`, which is complete after `fill`."""

    def __init__(self, root: Path, address: Address, only: str = "") -> None:
        """Nothing is read before `fill`; `only` is the one file that matters of a directory of many."""
        self.root, self.directory = root, Directory(address, only)
        self._lease: lease.Lease | None = None

    def fill(self) -> None:
        """Make the folder that of the committed units."""
        self.directory.load()
        names = {name for done in self.directory.units.values() for name in done.files}
        for path in sorted(self.root.rglob("*"), reverse=True) if self.root.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
            elif self._name(path) not in names or not self._sound(self._name(path)):
                path.unlink()
        self._take()
        added: dict[str, list[str]] = {}
        for done in self.directory.units.values():
            for name, text in done.lines.items():
                added.setdefault(name, []).append(text)
        for name, texts in added.items():
            (self.root / name).write_text("".join(sorted(texts)))

    def refreshed(self) -> None:
        """Take over what others have committed meanwhile."""
        self.directory.load()
        self._take()

    def published(self, path: Path, new: bool) -> None:
        """Commit a finished file or folder; with `new`, FileExistsError where the bucket has another one."""
        name = self._name(path)
        if any(part[0] == "." and part.endswith(".tmp") for part in Path(name).parts):
            return  # inside a folder that is not finished
        self._fence()
        files = {self._name(file): file for file in self._files(path)}
        unit = WHOLE if path == self.root else name
        if new:
            if not self.directory.create(unit, files):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        elif not self.directory.commit(unit, files):
            if path.is_file():
                self.directory.commit(unit, files)  # another process was first: the last one wins, as on a disk
                return
            for each in files:  # and of folders the first
                self._download(each)

    def appended(self, path: Path, text: str) -> None:
        """Commit lines that were added to a file."""
        self._fence()
        self.directory.append(self._name(path), text)

    def pruned(self, folder: Path) -> None:
        """Remove from the bucket what is committed below a folder and is not here any more."""
        self._fence()
        start = self._name(folder)
        for unit, done in list(self.directory.units.items()):
            below = unit == start or unit.startswith(f"{start}/")
            if below and done.files and not (self.root / unit).exists():
                self.directory.remove(unit)

    def fetched(self, path: Path) -> bool:
        """Whether a file that is not here is in the bucket; then it is here now."""
        name = self._name(path)
        if self.directory.unit_of(name) is None or path.exists():
            return False
        self._download(name)
        return True

    @contextlib.contextmanager
    def locked(self, root: Path, part: str, reading: bool) -> Iterator[None]:
        """The lock of the whole directory among all machines; folders in it are covered by it."""
        if root != self.root or self._lease is not None:
            yield
            return
        if reading:
            lease.require_free(self.directory.address)
            yield
            return
        with lease.held(self.directory.address, part) as self._lease:
            try:
                self.refreshed()
                yield
            finally:
                self._lease = None

    def _fence(self) -> None:
        if self._lease is not None:
            self._lease.require()

    def _take(self) -> None:
        todo = [
            name
            for done in self.directory.units.values()
            for name in done.files
            if not (self.root / name).exists() and not (len(done.files) > 1 and name.endswith(LAZY))
        ]
        client.together(self._download, todo)

    def _download(self, name: str) -> None:
        """Replace a local file by the committed one. CorruptRunError where that is missing or has another hash."""
        target = self.root / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = target.with_name(f".{hashlib.sha256(name.encode()).hexdigest()[:16]}.download")
        for _ in range(ATTEMPTS):
            if client.download(self.directory.address.join(name), temporary):
                temporary.chmod(0o600)
                if file_hash(temporary) in self._hashes(name):
                    temporary.replace(target)
                    return
            self.directory.reload(self.directory.unit_of(name) or name)
        temporary.unlink(missing_ok=True)
        place = self.directory.address.join(name)
        unit = self.directory.address.join(f"{DONE}/{self.directory.unit_of(name) or name}")
        given = f"{place}: missing, or its sha256 is not the recorded one"
        raise CorruptRunError(given, "files as the run wrote them", f"remove {unit}; rerun")

    def _hashes(self, name: str) -> tuple[str, ...]:
        unit = self.directory.unit_of(name)
        return () if unit is None else self.directory.units[unit].files[name]

    def _sound(self, name: str) -> bool:
        path = self.root / name
        allowed = self._hashes(name)  # several where a replacement was interrupted: the bucket has either file
        return path.is_file() and not path.is_symlink() and len(allowed) == 1 and file_hash(path) == allowed[0]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    @staticmethod
    def _files(path: Path) -> list[Path]:
        return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


@contextlib.contextmanager
def working(address: Address) -> Iterator[Path]:
    """A local folder that is the directory at an address: complete now, and followed until the end of the block."""
    with _slot(address) as folder:
        root = folder / address.name
        with _followed(WorkingCopy(root, address)):
            yield root


@contextlib.contextmanager
def working_file(address: Address) -> Iterator[Path]:
    """As `working`, for one file."""
    with _slot(address) as folder, _followed(WorkingCopy(folder, address.parent, only=address.name)):
        yield folder / address.name


@contextlib.contextmanager
def _followed(copy: WorkingCopy) -> Iterator[None]:
    copy.fill()
    with publishing.following(copy.root, copy):
        yield


@contextlib.contextmanager
def _slot(address: Address) -> Iterator[Path]:
    """A folder for this process alone, which keeps what a process before it has downloaded."""
    base = cache_folder() / "runs" / address.digest
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(1 << 16):
        with (base / f"{number}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            folder = base / str(number)
            folder.mkdir(mode=0o700, exist_ok=True)
            yield folder
            return
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(base))


def is_directory(address: Address) -> bool:
    """Whether there are committed results at an address."""
    return bool(client.find(address, DONE))
