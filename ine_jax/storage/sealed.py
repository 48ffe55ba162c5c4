"""Records whose damage is noticed: sealed JSON, JSON lines, and SHA256SUMS beside the files of a folder."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ine_jax.errors import CorruptRunError
from ine_jax.storage import schema, untrusted
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.provenance import canonical, file_hash, value_hash
from ine_jax.storage.records import LogLine

SUMS = "SHA256SUMS"
WRONG = "its sha256 is not the recorded one"
_PART = r"(?!\.\.?(?:/|$))[A-Za-z0-9_.@+-]+"  # of a name below the folder
_SUM = re.compile(rf"([0-9a-f]{{64}})  ({_PART}(?:/{_PART})*)")


def jsonl(rows: Iterable[Mapping[str, object]]) -> str:
    """Return one canonical JSON text per line."""
    return "".join(canonical(row) + "\n" for row in rows)


def parse_jsonl(data: bytes, path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; CorruptRunError names the first line that is not an object."""
    rows = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        try:
            if line:
                rows.append(_JSON.decode(line.decode()))
                if b"\\u" in line:
                    canonical(rows[-1]).encode()  # an escaped half of a surrogate pair is no text
        except (ValueError, RecursionError) as error:
            raise corrupt(path, f"line {number}: {error}") from error
        if line and type(rows[-1]) is not dict:
            raise corrupt(path, f"line {number}: not an object")
    return rows


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """As `parse_jsonl`, of a file."""
    return parse_jsonl(untrusted.read(path, untrusted.MAX_RECORDS, corrupt), path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl of a training run."""
    rows = read_jsonl(path)
    schema.records(LogLine, rows, path, open_ended=True)
    return rows


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_no_constant)


def seal(record: Mapping[str, object]) -> str:
    """Return indented JSON with the SHA-256 of the other fields as its last field."""
    return json.dumps({**record, "sha256": value_hash(record)}, indent=1, ensure_ascii=False) + "\n"


def unseal(path: Path) -> dict[str, Any]:
    """Return the record in a file of `seal`; CorruptRunError where a byte was changed."""
    try:
        text = untrusted.read(path, untrusted.MAX_JSON, corrupt).decode()
        record = _JSON.decode(text)
        del record["sha256"]
        sound = seal(record) == text
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise corrupt(path, error) from error
    if not sound:
        raise corrupt(path, WRONG)
    return dict(record)


def checksums(files: Mapping[str, bytes]) -> str:
    """Return the text of SHA256SUMS for the bytes of files by name; `sha256sum -c` reads it."""
    return _sums({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})


def _sums(digests: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def write_sums(folder: Path, names: Iterable[str], file: str = SUMS) -> None:
    """Write SHA256SUMS for these files of the folder, which may be in folders below it."""
    write_atomic(folder / file, _sums({name: file_hash(folder / name) for name in names}))


def read_sums(folder: Path, file: str = SUMS) -> dict[str, str]:
    """Return file name -> SHA-256 from the folder's SHA256SUMS; CorruptRunError where the file is damaged."""
    path = folder / file
    try:
        text = untrusted.read(path, untrusted.MAX_RECORDS, corrupt).decode()
    except UnicodeDecodeError as error:
        raise corrupt(path, error) from error
    matches = [_SUM.fullmatch(line) for line in text.split("\n")[:-1]]
    digests = {match[2]: match[1] for match in matches if match}
    if not matches or _sums(digests) != text:
        raise corrupt(path, "a line is not `sha256  name`")
    return digests


def sums_faults(folder: Path, file: str = SUMS) -> list[str]:
    """One line per file in the folder's SHA256SUMS that is missing or changed; for none where there is no such list."""
    if not (folder / file).exists():
        return []
    try:
        sums = read_sums(folder, file)
    except CorruptRunError as error:
        return [error.given]
    wrong = (name for name, digest in sums.items() if not has_hash(folder / name, digest))
    return [f"{folder / name}: {WRONG}" for name in wrong]


def require_sums(folder: Path, names: Iterable[str], todo: str, file: str = SUMS) -> None:
    """Raise CorruptRunError for the first of these files that SHA256SUMS lists with another hash; no list, no error."""
    sums = read_sums(folder, file) if (folder / file).exists() else {}
    for name in names:
        if name in sums and not has_hash(folder / name, sums[name]):
            raise CorruptRunError(f"{folder / name}: {WRONG}", "files as the run wrote them", todo)


def has_hash(path: Path, digest: str) -> bool:
    """Whether the file is there with this SHA-256."""
    return path.is_file() and file_hash(path) == digest


@dataclasses.dataclass(frozen=True)
class Verified:
    """What was read of an artifact, by number, and one line per fault that names the file."""

    kind: str
    read: Mapping[str, int]
    faults: tuple[str, ...]

    def __str__(self) -> str:
        """Kind and counts as one line."""
        read = ", ".join(f"{n} {name}" for name, n in self.read.items())
        return f"{self.kind}, {read}: {len(self.faults) or 'no'} faults"

    def __add__(self, other: "Verified") -> "Verified":
        """Both together, under the kind of the first."""
        names = [*self.read, *(name for name in other.read if name not in self.read)]
        read = {name: self.read.get(name, 0) + other.read.get(name, 0) for name in names}
        return Verified(self.kind, read, self.faults + other.faults)


def corrupt(path: Path, why: object) -> CorruptRunError:
    """Make the error for a damaged file of a run."""
    return CorruptRunError(f"{path}: {why}", "files as the run wrote them", "remove the block or score file; rerun")


def pretty(value: Mapping[str, object]) -> str:
    """Return indented JSON, the same text for the same value; ValueError for NaN."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
