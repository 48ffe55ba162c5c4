"""The lock of a directory in a bucket: an object that is created only if absent, and shows every few seconds that its
owner lives.

    LOCK/all, LOCK/part-0-of-3      the owner: a random name, host, process, time; created if absent
    LOCK/beats/<random name>        rewritten every `BEAT` seconds by this owner only
    LOCK/taken/<random name>        who may replace a dead owner: created if absent

An owner is dead if its process is gone from this machine, or if its beat has not changed for `LEASE` seconds of the
observer's own clock, so that clocks need not agree. An owner that could not show itself for so long (a suspended
machine) commits nothing any more.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ine_jax.errors import InputError, StorageError
from ine_jax.storage.bucket import client
from ine_jax.storage.bucket.address import Address
from ine_jax.storage.bucket.done import LOCK
from ine_jax.storage.processes import is_alive

BEAT, LEASE = 5.0, 30.0  # seconds
ALL = "all"


def _machine() -> str:
    """A name of the machine, or container, whose process numbers are ours."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # of Linux
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class Lease:
    """A lock that this process holds."""

    def __init__(self, directory: Address, name: str) -> None:
        """Nothing is taken before `take`."""
        self._locks, self._name = directory.join(LOCK), name
        self._nonce = secrets.token_hex(8)
        self._end, self._seen = threading.Event(), time.monotonic()
        own = {"owner": self._nonce, "machine": _machine(), "process": os.getpid()}
        self._content = json.dumps({**own, "host": socket.gethostname(), "time": time.time()}).encode()

    def require(self) -> None:
        """Raise StorageError where the lock may be another's by now."""
        if time.monotonic() - self._seen > LEASE:
            given = f"{self._locks.parent}: not in touch with the object store for {LEASE:.0f} seconds"
            raise StorageError(given, "", "run the same command again to continue")

    def take(self) -> None:
        """Take the lock, from a dead owner if need be. InputError where it, or one that excludes it, is held."""
        self._show(0)
        place = self._locks.join(self._name)
        while not client.create(place, self._content):
            owner = client.read(place)
            if owner is not None and not self._replaced(place, owner):
                self._clean()
                raise _in_use(self._locks.parent)
            if owner is not None:
                break
        for other in _names(self._locks):
            if other != self._name and ALL in (other, self._name) and _alive(self._locks, other):
                self.release()
                raise _in_use(self._locks.parent)
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def release(self) -> None:
        """Give the lock back; what cannot be removed is taken over from a dead process later."""
        self._end.set()
        with contextlib.suppress(StorageError, InputError):
            if client.read(self._locks.join(self._name)) == self._content:
                client.remove(self._locks.join(self._name))
            self._clean()

    def _replaced(self, place: Address, owner: bytes) -> bool:
        """Whether the lock of a dead owner is ours now."""
        if _alive(self._locks, self._name):
            return False
        claim = self._locks.join(f"taken/{_owner(owner)}")
        if not client.create(claim, self._content):
            other = client.read(claim)
            if other is None or _lives(self._locks, claim, other):
                return False  # another process is faster
            client.write(claim, self._content)
        if client.read(place) != owner:
            client.remove(claim)
            return False
        client.write(place, self._content)
        client.remove(self._locks.join(f"beats/{_owner(owner)}"))
        client.remove(claim)
        return True

    def _beat(self) -> None:
        count = 0
        while not self._end.wait(BEAT):
            count += 1
            with contextlib.suppress(StorageError, InputError):
                if client.read(self._locks.join(self._name)) != self._content:
                    self._seen = -math.inf  # another has taken it
                    return
                self._show(count)

    def _show(self, count: int) -> None:
        begun = time.monotonic()
        client.write(self._locks.join(f"beats/{self._nonce}"), b"%d" % count)
        self._seen = begun

    def _clean(self) -> None:
        client.remove(self._locks.join(f"beats/{self._nonce}"))


@contextlib.contextmanager
def held(directory: Address, part: str) -> Iterator[Lease]:
    """Hold the lock of a directory, or of one of its parts."""
    lease = Lease(directory, f"part-{part}" if part else ALL)
    lease.take()
    try:
        yield lease
    finally:
        lease.release()


def require_free(directory: Address) -> None:
    """InputError while a living process writes in a directory."""
    locks = directory.join(LOCK)
    if any(_alive(locks, name) for name in _names(locks)):
        raise _in_use(directory)


def _names(locks: Address) -> list[str]:
    return [name for name in client.find(locks) if "/" not in name]


def _alive(locks: Address, name: str) -> bool:
    """Whether the owner of a lock lives; this takes up to `LEASE` seconds where it may have died elsewhere."""
    content = client.read(locks.join(name))
    return content is not None and _lives(locks, locks.join(name), content)


def _lives(locks: Address, place: Address, content: bytes) -> bool:
    """Whether the owner that `place` names in its content lives and does not give it back meanwhile."""
    if (here := _here(content)) is not None:
        return here
    beat, since = locks.join(f"beats/{_owner(content)}"), time.monotonic()
    first = client.read(beat)
    while time.monotonic() - since < LEASE:
        time.sleep(BEAT / 2)
        now = client.read(place)
        if now != content:
            return now is not None  # given back, or taken by another one, who lives
        if client.read(beat) != first:
            return True
    return False


def _here(content: bytes) -> bool | None:
    """Whether the owner's process lives on this machine; None for one of another machine."""
    try:
        record = json.loads(content)
        machine, process = record["machine"], int(record["process"])
    except (ValueError, KeyError, TypeError):
        return None
    if machine != _machine():
        return None
    return is_alive(process)


def _owner(content: bytes) -> str:
    """The random name of an owner; for anything that is no lock of ours, one made of it."""
    try:
        found = str(json.loads(content)["owner"])
    except (ValueError, KeyError, TypeError):
        found = ""
    return found if found.isalnum() else hashlib.sha256(content).hexdigest()[:16]


def _in_use(directory: Address) -> InputError:
    todo = "wait for it, or choose another directory"
    return InputError(f"{directory} is in use by another process", "one process per directory and shard", todo)
