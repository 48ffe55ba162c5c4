"""Files that are whole or absent: atomic writes, JSON lines, PNG bytes, directory locks."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ine_jax.errors import CorruptRunError, InputError
from ine_jax.provenance import canonical


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
