"""Where a finished file or folder is reported to: to nobody, or to the bucket that a directory is the working copy of.

`storage.atomic` reports what it has put in place and what it has removed, `storage.untrusted` asks for a file that is
not here. A follower is registered for a directory while a command works in it (`storage.bucket.mirror`).
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Follower(Protocol):
    """The bucket behind a directory. Paths are absolute and inside it."""

    def published(self, path: Path, new: bool) -> None:
        """Commit a finished file or folder; with `new`, FileExistsError where the bucket has another one."""

    def appended(self, path: Path, text: str) -> None:
        """Commit lines that were added to a file."""

    def pruned(self, folder: Path) -> None:
        """Remove from the bucket what is committed below a folder and is not here any more."""

    def fetched(self, path: Path) -> bool:
        """Whether a file that is not here is in the bucket; then it is here now."""

    def refreshed(self) -> None:
        """Take over what others have committed meanwhile."""

    def locked(self, root: Path, part: str, reading: bool) -> contextlib.AbstractContextManager[None]:
        """The lock of the directory among all machines."""


_followers: dict[Path, Follower] = {}


@contextlib.contextmanager
def following(root: Path, follower: Follower) -> Iterator[None]:
    """Report to `follower` what happens in the directory `root`."""
    place = Path(os.path.abspath(root))
    _followers[place] = follower
    try:
        yield
    finally:
        del _followers[place]


def _of(path: str | os.PathLike[str]) -> tuple[Path, Follower] | None:
    if not _followers:
        return None
    place = Path(os.path.abspath(path))
    return next(((place, _followers[root]) for root in (place, *place.parents) if root in _followers), None)


def is_followed(path: Path) -> bool:
    """Whether a directory is the working copy of one in a bucket."""
    return _of(path) is not None


def published(path: Path, *, new: bool = False) -> None:
    """A file or folder is complete."""
    if found := _of(path):
        found[1].published(found[0], new)


def appended(path: Path, text: str) -> None:
    """Lines were added to a file."""
    if found := _of(path):
        found[1].appended(found[0], text)


def pruned(folder: Path) -> None:
    """Files or folders were removed from a folder, or it was removed itself."""
    if found := _of(folder):
        found[1].pruned(found[0])


def fetched(path: str | os.PathLike[str]) -> bool:
    """Whether a file that is not here could be fetched."""
    found = _of(path)
    return found is not None and found[1].fetched(found[0])


def refresh(root: Path) -> None:
    """Show what other processes have finished in a directory; on a local disk that is visible anyway."""
    if found := _of(root):
        found[1].refreshed()


def locked(root: str | Path, part: str, reading: bool) -> contextlib.AbstractContextManager[None]:
    """The lock of a directory among all machines, where it has one; a local disk has its own."""
    found = _of(root)
    return found[1].locked(found[0], part, reading) if found else contextlib.nullcontext()
