"""timing.jsonl of a run: clock times, apart from everything that is compared byte for byte.

Every line ends with the first digits of its own SHA-256. A crash can only leave a last line without its end, which the
next writer removes; any other line that does not reproduce its digits was changed later.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import cast

from ine_jax.storage import atomic, schema, untrusted
from ine_jax.storage.atomic import naming
from ine_jax.storage.records import TimingEntry
from ine_jax.storage.sealed import corrupt, jsonl

NAME = "timing.jsonl"
_DIGITS = 16


def append(root: Path, entry: TimingEntry) -> None:
    """Append one line; a line that a crash cut off is removed first."""
    path = root / NAME
    if path.exists():
        with naming(path), open(path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            tail = file.read()
            if tail and not tail.endswith(b"\n"):
                file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
    atomic.append(path, _line(entry))


def read(root: Path, checked: bool = True) -> tuple[list[TimingEntry], list[int]]:
    """The entries, and the numbers (from 1) of lines that were changed.

    A torn last line is neither. `checked` is False for runs of schema 1, whose lines have no digits.
    """
    path, entries, changed = root / NAME, [], []
    lines = untrusted.read(path, untrusted.MAX_RECORDS, corrupt).split(b"\n") if path.exists() else []
    for number, text in enumerate(lines, start=1):
        try:
            entry = dict(json.loads(text))
            sound = text + b"\n" == _line(entry).encode() or not checked
            sound &= schema.is_valid(TimingEntry, {key: value for key, value in entry.items() if key != "sha256"})
        except (ValueError, TypeError, RecursionError):
            sound = False
        if sound and number < len(lines):
            entries.append(cast(TimingEntry, entry))
        elif number < len(lines) or b"}" in text:  # no line holds an inner brace: with one, it was written to its end
            changed.append(number)
    return entries, changed


def _line(entry: TimingEntry | dict[str, object]) -> str:
    plain = {key: value for key, value in entry.items() if key != "sha256"}
    digest = hashlib.sha256(jsonl([plain]).encode()).hexdigest()[:_DIGITS]
    return jsonl([{**plain, "sha256": digest}])
