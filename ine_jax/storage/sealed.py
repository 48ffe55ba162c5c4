"""Records whose damage is noticed: sealed JSON, JSON lines, and SHA256SUMS beside the files of a folder."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ine_jax.errors import CorruptRunError
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.provenance import canonical, value_hash

SUMS = "SHA256SUMS"
_SUM = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_.-]+)")


def jsonl(rows: Iterable[Mapping[str, object]]) -> str:
    """Return one canonical JSON text per line."""
    return "".join(canonical(row) + "\n" for row in rows)


def parse_jsonl(data: bytes, path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; CorruptRunError names the first line that is not an object."""
    rows = []
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), start=1):
        try:
            if line:
                rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise corrupt(path, f"line {number}: {error}") from error
    return rows


def seal(record: Mapping[str, object]) -> str:
    """Return indented JSON with the SHA-256 of the other fields as its last field."""
    return json.dumps({**record, "sha256": value_hash(record)}, indent=1, ensure_ascii=False) + "\n"


def unseal(path: Path) -> dict[str, Any]:
    """Return the record in a file of `seal`; CorruptRunError where a byte was changed."""
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


def checksums(files: Mapping[str, bytes]) -> str:
    """Return the text of SHA256SUMS for the bytes of files by name; `sha256sum -c` reads it."""
    return _sums({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})


def _sums(digests: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write SHA256SUMS for these files of the folder."""
    write_atomic(folder / SUMS, checksums({name: (folder / name).read_bytes() for name in names}))


def read_sums(folder: Path) -> dict[str, str]:
    """Return file name -> SHA-256 from the folder's SHA256SUMS; CorruptRunError where the file is damaged."""
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
    """Make the error for a damaged file of a run."""
    return CorruptRunError(f"{path}: {why}", "files as the run wrote them", "remove the block or score file; rerun")


def pretty(value: Mapping[str, object]) -> str:
    """Return indented JSON, the same text for the same value; ValueError for NaN."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
