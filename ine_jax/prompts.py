"""Lists of prompts as numbered items: whose seed is whose, and which file an image is written to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ine_jax.checks import MAX_SEED
from ine_jax.errors import InputError

MAX_BYTES = 64 * 2**20
MAX_PROMPTS = 1_000_000


@dataclass(frozen=True)
class Row:
    """One prompt of a list; ``seed`` is None where the list gives none."""

    prompt: str
    id: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class Item:
    """One image to make. Its file name is made of numbers alone, never of anything that a list says."""

    file_name: str
    prompt: str
    seed: int
    id: str


def read_prompts(path: str | Path) -> list[Row]:
    """Rows of a ``.txt`` file (one prompt per line, empty lines passed over) or a ``.jsonl`` file (``prompt``, maybe
    ``seed``, ``id``).

    Raises ``InputError``, naming file and line, for a file over 64 MiB, not UTF-8, empty, or with a line that is no
    row, and for an id that comes twice.
    """
    path = Path(path)
    text = _text(path)
    if path.suffix == ".txt":
        rows = [Row(line.strip()) for line in text.split("\n") if line.strip()]
    elif path.suffix == ".jsonl":
        rows = [_row(line, path, n) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    else:
        raise InputError(f"prompt file {path}", ".txt or .jsonl", "rename or convert it")
    if not 1 <= len(rows) <= MAX_PROMPTS:
        raise InputError(f"prompt file {path}: {len(rows)} prompts", f"1 to {MAX_PROMPTS}", "check the file")
    named = Counter(row.id for row in rows if row.id)
    twice, times = named.most_common(1)[0] if named else ("", 1)
    if times > 1:
        raise InputError(f"prompt file {path}: id {twice[:60]!r} comes twice", "ids that differ", "rename one")
    return rows


def items(rows: Sequence[Row], seed: int = 0, per_prompt: int = 1) -> list[Item]:
    """``per_prompt`` items of every row: seeds row.seed, row.seed + 1, ..., or counted through the whole list from
    ``seed`` on.

    Raises ``InputError`` where a seed leaves 0 ... 2^32 - 1.
    """
    found = []
    for index, row in enumerate(rows):
        first = seed + index * per_prompt if row.seed is None else row.seed
        for copy in range(per_prompt):
            if not 0 <= first + copy <= MAX_SEED:
                raise InputError(f"seed {first + copy} of prompt {index}", f"0 to {MAX_SEED}", "choose smaller seeds")
            found.append(Item(f"{index:06d}_{copy:02d}.png", row.prompt, first + copy, row.id or str(index)))
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"prompt file {path}: {error.strerror}", "a .txt or .jsonl file", "check the path") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"prompt file {path}: over {MAX_BYTES >> 20} MiB", "a smaller file", "split it")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"prompt file {path}: byte {error.start} is not UTF-8", "UTF-8 text", "convert it") from error


def _row(line: str, path: Path, number: int) -> Row:
    try:
        found = json.loads(line)
        prompt, seed, name = found["prompt"], found.get("seed"), found.get("id", "")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _bad(path, number, "not a JSON object with a prompt") from error
    if not isinstance(prompt, str):
        raise _bad(path, number, "prompt is not text")
    if not (seed is None or (isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MAX_SEED)):
        raise _bad(path, number, f"seed {str(seed)[:40]}")
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise _bad(path, number, "id is neither text nor a number")
    return Row(prompt, str(name), seed)


def _bad(path: Path, number: int, reason: str) -> InputError:
    allowed = f'{{"prompt": text, "seed": 0 to {MAX_SEED}, "id": text}}, one per line'
    return InputError(f"prompt file {path}, line {number}: {reason}", allowed, "mend the line")
