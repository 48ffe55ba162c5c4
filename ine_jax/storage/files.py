"""Files that are whole or absent: atomic writes, JSON lines, PNG bytes, directory locks."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ine_jax.errors import CorruptRunError, InputError
from ine_jax.storage.provenance import canonical, value_hash

SUMS = "SHA256SUMS"
_SUM = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_.-]+)")


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data` so that a reader, or a crash, sees the old file or the new one and nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_durable(temporary, data.encode() if isinstance(data, str) else data)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_durable(path: Path, data: bytes) -> None:
    """Write a private file (0600) and wait until the disk has it; a link at `path` is not followed."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Wait until the disk has the folder's list of names."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    """One canonical JSON text per line."""
    return "".join(canonical(row) + "\n" for row in rows)


def png(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 image [H, W, 3]; the same bytes for the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def parse_jsonl(data: bytes, path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file; CorruptRunError names the file and the line that is none."""
    rows = []
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), start=1):
        try:
            if line:
                rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise corrupt(path, f"line {number}: {error}") from error
    return rows


def seal(record: Mapping[str, Any]) -> str:
    """A JSON record for people, its last field the sha256 of the others."""
    return json.dumps({**record, "sha256": value_hash(record)}, indent=1, ensure_ascii=False) + "\n"


def unseal(path: Path) -> dict[str, Any]:
    """The record that `seal` wrote; CorruptRunError where one byte of it is another."""
    try:
        text = path.read_bytes().decode()
        record = json.loads(text)
        del record["sha256"]
        sound = seal(record) == text
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise corrupt(path, error) from error
    if not sound:
        raise corrupt(path, "its sha256 is not the recorded one")
    return dict(record)


def sums(files: Mapping[str, bytes]) -> str:
    """Text of SHA256SUMS for the bytes of files, by name; `sha256sum -c` reads it."""
    return _sums({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})


def _sums(digests: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write SHA256SUMS of files of the folder beside them."""
    write_atomic(folder / SUMS, sums({name: (folder / name).read_bytes() for name in names}))


def read_sums(folder: Path) -> dict[str, str]:
    """File name -> sha256, as the folder's SHA256SUMS says. CorruptRunError where the list is not as it was written."""
    path = folder / SUMS
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise corrupt(path, error) from error
    matches = [_SUM.fullmatch(line) for line in text.split("\n")[:-1]]
    digests = {match[2]: match[1] for match in matches if match}
    if not matches or _sums(digests) != text:
        raise corrupt(path, "a line is not `sha256  name`")
    return digests


def corrupt(path: Path, why: object) -> CorruptRunError:
    """Make the error that names a damaged file and what to do."""
    return CorruptRunError(f"{path}: {why}", "files as the run wrote them", "remove the block or score file; rerun")


@contextlib.contextmanager
def lock(root: str | Path, name: str = "run") -> Iterator[None]:
    """Hold the directory's lock `name`; InputError where another process holds it. A killed process lets it go."""
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


def pretty(value: Mapping[str, Any]) -> str:
    """Indented JSON for people; the same text for the same value. NaN is refused."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
