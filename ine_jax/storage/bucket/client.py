"""The few requests that are made to an object store, and what its failures mean.

s3fs and gcsfs repeat failed requests themselves, a bounded number of times. What is then left is the input's fault (no
such bucket, no permission: exit code 2) or the store's (74).
"""

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ine_jax.errors import InputError, StorageError
from ine_jax.storage.bucket.address import SCHEMES, Address

R = TypeVar("R")
THREADS = 16
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 10, 60, 4
_CREDENTIALS = ("NoCredentials", "PartialCredentials", "DefaultCredentials", "ProfileNotFound", "RefreshError")
_DENIED = ("Forbidden", "401", "Anonymous caller", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Access Denied")
_setting_up = threading.Lock()


@dataclass(frozen=True)
class Found:
    """A listed object; `version` changes with every write."""

    address: Address
    size: int
    version: str


def read(address: Address) -> bytes | None:
    """The bytes of an object, or None."""
    try:
        return bytes(_do(address, lambda store: store.cat_file(_path(address))))
    except FileNotFoundError:
        return None


def download(address: Address, target: Path) -> bool:
    """Write an object into a new local file; whether there is such an object."""
    try:
        _do(address, lambda store: store.get_file(_path(address), str(target)))
    except FileNotFoundError:
        target.unlink(missing_ok=True)
        return False
    return True


def write(address: Address, data: bytes) -> None:
    """Write an object, or replace it."""
    _write(address, lambda store: store.pipe_file(_path(address), data))


def create(address: Address, data: bytes) -> bool:
    """Write an object if there is none (`If-None-Match: *`, `ifGenerationMatch=0`); whether this call did."""
    try:
        _write(address, lambda store: store.pipe_file(_path(address), data, mode="create"))
    except FileExistsError:
        # a repeated request may meet its own first attempt
        return read(address) == data
    return True


def upload(address: Address, source: Path) -> None:
    """Write a local file as an object, in parts where it is large."""
    _write(address, lambda store: store.put_file(str(source), _path(address)))


def remove(address: Address) -> None:
    """Remove an object, if it is there."""
    try:
        _do(address, lambda store: store.rm_file(_path(address)))
    except FileNotFoundError:
        return


def find(root: Address, below: str = "") -> dict[str, Found]:
    """All objects whose key begins with `root`/`below`/, by their name from there. InputError: no such bucket."""
    place = root.join(below) if below else root

    def listing(store: Any) -> dict[str, Found]:
        store.invalidate_cache()
        start = f"{_path(place)}/"
        listed: dict[str, dict[str, Any]] = store.find(start, detail=True)
        return {
            path[len(start) :]: _found(place.join(path[len(start) :]), info)
            for path, info in listed.items()
            if path.startswith(start) and len(path) > len(start)
        }

    try:
        return _do(place, listing)
    except FileNotFoundError as error:
        if _has_bucket(root):
            return {}
        raise _no_bucket(root) from error


def look(address: Address) -> Found | None:
    """The object at an address, or None where there is none."""

    def one(store: Any) -> Found | None:
        store.invalidate_cache()
        info = store.info(_path(address))
        return _found(address, info) if info.get("type") == "file" else None

    try:
        return _do(address, one)
    except FileNotFoundError:
        return None


def together(action: Callable[[Any], R], items: Iterable[Any]) -> list[R]:
    """Apply an action that waits for the store to many items, several at a time."""
    todo = list(items)
    if len(todo) < 2:
        return [action(item) for item in todo]
    with ThreadPoolExecutor(min(THREADS, len(todo))) as pool:
        return list(pool.map(action, todo))


def _found(address: Address, info: dict[str, Any]) -> Found:
    return Found(address, int(info["size"]), str(info.get("generation") or info.get("ETag") or info.get("etag")))


def _path(address: Address) -> str:
    return f"{address.bucket}/{address.key}".rstrip("/")


def _write(address: Address, action: Callable[[Any], object]) -> None:
    try:
        _do(address, action)
    except FileNotFoundError as error:
        raise _no_bucket(address) from error


def _has_bucket(address: Address) -> bool:
    top = Address(address.scheme, address.bucket)
    try:
        _do(top, lambda store: store.ls(top.bucket, detail=False))
    except FileNotFoundError:
        return False
    return True


def _no_bucket(address: Address) -> InputError:
    return InputError(f"{address}: no such bucket", "a bucket that exists", "make it, or check the address")


def _do(address: Address, action: Callable[[Any], R]) -> R:
    try:
        return action(_store(address.scheme))
    except (InputError, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:  # of two client libraries and their HTTP libraries: no common family
        raise _meaning(address, error) from error


def _meaning(address: Address, error: Exception) -> InputError | StorageError:
    """The error of the user, or of the store, behind what a client raised."""
    text = " ".join(str(error).split()) or type(error).__name__
    if any(name in type(one).__name__ for one in (error, error.__cause__) for name in _CREDENTIALS):
        known = "credentials that the provider's own tools find (docs/scale.md)"
        return InputError(f"{address}: no credentials: {text}", known, "log in, or name a service account")
    if isinstance(error, PermissionError) or any(word in text for word in _DENIED):
        return InputError(f"{address}: permission denied: {text}", "", "ask for read and write access to the bucket")
    again = "the same command continues when the store can be reached"
    return StorageError(f"{address}: the object store failed: {text}", "", again)


def _store(scheme: str) -> Any:
    with _setting_up:
        return _client(scheme)


@functools.cache
def _client(scheme: str) -> Any:
    # gcsfs otherwise asks another service about the kind of each bucket, and reports that it could not
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    for name in ("s3fs", "gcsfs", "botocore", "aiobotocore", "google.auth"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    common = {"use_listings_cache": False, "skip_instance_cache": True}
    try:
        import fsspec

        if scheme == "gs":
            return fsspec.filesystem("gs", **common)
        config = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "retries": {"max_attempts": ATTEMPTS, "mode": "standard"},
            "max_pool_connections": THREADS,
        }
        return fsspec.filesystem("s3", config_kwargs=config, **common)
    except ImportError as error:
        todo = f"pip install 'ine_jax[{SCHEMES[scheme]}]'"
        raise InputError(f"{scheme}://: its client is not installed", "local paths, or its client", todo) from error
