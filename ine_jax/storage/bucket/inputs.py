"""Copies of inputs from a bucket in a local cache, under a name of their address and the versions of their objects.

An object that was written anew has another version, so a copy is never out of date and never changes. Sizes are capped
before anything is downloaded. Of a directory with DONE objects only committed files are taken, by their hashes.
"""

import errno
import os
from pathlib import Path

from ine_jax.errors import CorruptRunError, InputError
from ine_jax.storage import untrusted
from ine_jax.storage.atomic import atomic_folder
from ine_jax.storage.bucket import client
from ine_jax.storage.bucket.address import Address, cache_folder, is_safe
from ine_jax.storage.bucket.client import Found
from ine_jax.storage.bucket.done import DONE, LOCK, Directory
from ine_jax.storage.provenance import file_hash, value_hash

MAX_FILES = 1_000_000
MAX_TOTAL = 512 << 30  # bytes of a folder


def local(address: Address) -> Path:
    """The local copy of an object, or of all objects below an address. InputError where there is nothing."""
    one = client.look(address) if address.key else None
    if one is not None:
        return _copied(address, {"": one}, {})
    found = client.find(address)
    hashes: dict[str, tuple[str, ...]] = {}
    if any(name.startswith(f"{DONE}/") for name in found):
        directory = Directory(address)
        directory.load()
        hashes = {name: allowed for done in directory.units.values() for name, allowed in done.files.items()}
        missing = sorted(set(hashes) - set(found))
        if missing:
            raise _damaged(address.join(missing[0]))
    own = (f"{DONE}/", f"{LOCK}/")
    wanted = {n: f for n, f in found.items() if (n in hashes if hashes else not n.startswith(own) and n[-1] != "/")}
    if not wanted:
        raise InputError(f"{address}: no such object or folder", "what is in the bucket", "check the address")
    return _copied(address, wanted, hashes)


def _copied(address: Address, found: dict[str, Found], hashes: dict[str, tuple[str, ...]]) -> Path:
    """The copy, made now if there is none."""
    _check(address, found)
    key = value_hash({"address": str(address), "versions": {name: one.version for name, one in found.items()}})[:32]
    folder = cache_folder() / "inputs" / key
    target = folder / address.name
    if folder.is_dir() and any(folder.iterdir()):
        return target
    try:
        with atomic_folder(folder, 0o700) as temporary:
            client.together(lambda name: _fetch(found[name], temporary / address.name / name, hashes.get(name)), found)
    except OSError as error:  # another process has copied the same meanwhile
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not target.exists():
            raise
    return target


def _fetch(one: Found, target: Path, hashes: tuple[str, ...] | None) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not client.download(one.address, target) or target.stat().st_size != one.size:
        raise InputError(f"{one.address}: changed while it was read", "", "run the same command again")
    os.chmod(target, 0o600)
    if hashes is not None and file_hash(target) not in hashes:
        raise _damaged(one.address)


def _check(address: Address, found: dict[str, Found]) -> None:
    """Reject names that are none of files, and sizes that no input has."""
    if len(found) > MAX_FILES or sum(one.size for one in found.values()) > MAX_TOTAL:
        given = f"{address}: {len(found)} objects, or more than {MAX_TOTAL >> 30} GiB"
        raise InputError(given, f"at most {MAX_FILES} objects", "name a smaller folder")
    for name, one in found.items():
        if name and not is_safe(name):
            raise InputError(f"{address}/{name}: no name of a file", "names without empty parts, . and ..", "rename it")
        if one.size > untrusted.MAX_WEIGHTS:
            given = f"{one.address}: larger than {untrusted.MAX_WEIGHTS >> 30} GiB"
            raise InputError(given, "a smaller file", "check the address")


def _damaged(address: Address) -> CorruptRunError:
    given = f"{address}: missing, or its sha256 is not the recorded one"
    return CorruptRunError(given, "files as they were committed", "take an undamaged copy, or make it again")
