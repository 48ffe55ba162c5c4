"""The commit protocol: which units of a directory in a bucket are complete, and how one becomes so."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ine_jax.errors import CorruptRunError, StorageError
from ine_jax.storage.bucket import client
from ine_jax.storage.bucket.address import Address, is_safe
from ine_jax.storage.provenance import file_hash, value_hash
from ine_jax.storage.sealed import seal

DONE, LOCK = "DONE", "LOCK"
WHOLE = "_"  # the unit that is the directory itself
SMALL = 64 << 20  # bytes of a file that is sent in one request
SCHEMA = 1
MAX_DONE = 8 << 20


@dataclass(frozen=True)
class Done:
    """A DONE object: the hashes that each file of the unit may have, or lines that the unit adds to files."""

    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Its bytes, the same for the same content."""
        files = {name: list(hashes) for name, hashes in sorted(self.files.items())}
        return seal({"schema": SCHEMA, "files": files, "lines": dict(sorted(self.lines.items()))}).encode()


def _decode(address: Address, data: bytes) -> Done:
    try:
        record = json.loads(data[:MAX_DONE].decode())
        digest = record.pop("sha256")
        files = {str(name): tuple(map(str, hashes)) for name, hashes in record["files"].items()}
        lines = {str(name): str(text) for name, text in record["lines"].items()}
        sound = digest == value_hash(record) and record["schema"] == SCHEMA and all(map(is_safe, [*files, *lines]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(address) from error
    if not sound:
        raise _damaged(address)
    return Done(files, lines)


def _damaged(address: Address) -> CorruptRunError:
    todo = "remove it; the same command makes what it stood for again"
    return CorruptRunError(f"{address}: not as it was written", "objects as the run wrote them", todo)


class Directory:
    """A directory in a bucket, and the units of it that are known to be complete."""

    def __init__(self, address: Address, only: str = "") -> None:
        """Nothing is read before `load`; `only` is the one file that matters of a directory of many."""
        self.address, self._only = address, only
        self.units: dict[str, Done] = {}
        self._versions: dict[str, str] = {}

    def load(self) -> None:
        """List the DONE objects, and read those that are new."""
        listed = self._listed()
        for unit in set(self.units) - set(listed):
            self._forget(unit)
        fresh = [unit for unit, found in listed.items() if self._versions.get(unit) != found.version]
        for unit, done in zip(fresh, client.together(self._read, fresh), strict=True):
            if done is not None:
                self.units[unit], self._versions[unit] = done, listed[unit].version

    def _listed(self) -> dict[str, client.Found]:
        if self._only:
            found = client.look(self._done(self._only))
            return {self._only: found} if found else {}
        return client.find(self.address, DONE)

    def reload(self, unit: str) -> None:
        """Read the DONE object of one unit again."""
        done = self._read(unit)
        if done is None:
            self._forget(unit)
        else:
            self.units[unit] = done
            self._versions.pop(unit, None)

    def unit_of(self, name: str) -> str | None:
        """The unit that a file belongs to."""
        parts = name.split("/")
        above = ("/".join(parts[:n]) for n in range(len(parts), 0, -1))
        return next((unit for unit in (*above, WHOLE) if unit in self.units and name in self.units[unit].files), None)

    def commit(self, unit: str, files: Mapping[str, Path]) -> bool:
        """Commit local files as a unit; False, and no change, where another one of several files is there."""
        wanted = Done({name: (file_hash(path),) for name, path in files.items()})
        if unit not in self.units and self._create(unit, files, wanted):
            return True
        before = self.units[unit]
        if before == wanted:
            return True
        if len(files) > 1 or set(files) != set(before.files):
            return False
        both = {name: tuple(dict.fromkeys((*before.files[name], *wanted.files[name]))) for name in files}
        self._write(unit, Done(both))
        for name, path in files.items():
            self._send(name, path)
        self._write(unit, wanted)
        return True

    def create(self, unit: str, files: Mapping[str, Path]) -> bool:
        """As `commit`, but never replace what is there."""
        wanted = Done({name: (file_hash(path),) for name, path in files.items()})
        return self.units.get(unit) == wanted or (unit not in self.units and self._create(unit, files, wanted))

    def append(self, name: str, text: str) -> None:
        """Commit lines added to a file. Equal lines are added once."""
        unit, done = f"{name}.lines/{value_hash(text)[:16]}", Done(lines={name: text})
        client.create(self._done(unit), done.encode())
        self.units[unit] = done

    def remove(self, unit: str) -> None:
        """Remove a unit; from the first request on it is not there."""
        done = self.units[unit]
        client.remove(self._done(unit))
        self._forget(unit)
        client.together(lambda name: client.remove(self.address.join(name)), done.files)

    def _create(self, unit: str, files: Mapping[str, Path], wanted: Done) -> bool:
        def send(item: tuple[str, Path]) -> None:
            name, path = item
            place = self.address.join(name)
            if path.stat().st_size <= SMALL and client.create(place, path.read_bytes()):
                return
            # What is there is of a killed process, unless another one has just finished the unit.
            if client.look(self._done(unit)) is None:
                self._send(name, path)

        client.together(send, files.items())
        if client.create(self._done(unit), wanted.encode()):
            self.units[unit] = wanted
            return True
        self.reload(unit)
        if unit not in self.units:
            todo = "run the same command again"
            raise StorageError(f"{self.address.join(unit)} was written and removed by another process", "", todo)
        return self.units[unit] == wanted

    def _send(self, name: str, path: Path) -> None:
        client.upload(self.address.join(name), path)

    def _write(self, unit: str, done: Done) -> None:
        client.write(self._done(unit), done.encode())
        self.units[unit] = done
        self._versions.pop(unit, None)

    def _read(self, unit: str) -> Done | None:
        place = self._done(unit)
        data = client.read(place)
        return None if data is None else _decode(place, data)

    def _forget(self, unit: str) -> None:
        self.units.pop(unit, None)
        self._versions.pop(unit, None)

    def _done(self, unit: str) -> Address:
        return self.address.join(f"{DONE}/{unit}")
