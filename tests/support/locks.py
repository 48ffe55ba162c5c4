"""A directory that another writer has locked, without another process."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from ine_jax.storage.atomic import lock


@contextlib.contextmanager
def elsewhere_locked(root: Path, part: str = "") -> Iterator[None]:
    """Hold the lock of `root` in another thread, to which this one is a stranger."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock(root, part=part):
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()
