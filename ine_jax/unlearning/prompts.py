"""The training prompts of an unlearning run: written out in the config, or in a JSONL file that the config names.

Each line of the file is one of

    {"erase": "a cat and a knife", "from": "a cat"}     erased; falls back to "from", or to the empty prompt
    {"preserve": "a red apple"}                         kept as the original model has it
"""

import dataclasses
import json
from pathlib import Path

from ine_jax.config import EsdConfig
from ine_jax.errors import InputError
from ine_jax.storage import untrusted

MAX_BYTES = 16 * 2**20
ALLOWED = '{"erase": TEXT}, {"erase": TEXT, "from": TEXT} or {"preserve": TEXT}'


def with_prompts(config: EsdConfig) -> EsdConfig:
    """Replace `prompts_file` by the prompts in it: the same prompts are the same run wherever they come from."""
    if not config.prompts_file:
        return config
    path = Path(config.prompts_file)
    pairs: list[tuple[str, str]] = []
    kept: list[str] = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        row = _row(path, number, line)
        if "preserve" in row:
            kept.append(row["preserve"])
        else:
            pairs.append((row["erase"], row.get("from", "")))
    origins = tuple(origin for _, origin in pairs)
    return dataclasses.replace(
        config,
        prompts_file="",
        erase=tuple(prompt for prompt, _ in pairs),
        erase_from=origins if any(origins) else (),
        preserve=tuple(kept),
    )


def _text(path: Path) -> str:
    data = untrusted.read(path, MAX_BYTES, _rejected)
    try:
        return data.decode("utf-8")
    except ValueError as error:
        raise _rejected(path, "not UTF-8 text") from error


def _rejected(path: Path, reason: str) -> InputError:
    return InputError(f"esd.prompts_file {path}: {reason}", "a JSONL file in UTF-8", "check the path")


def _row(path: Path, number: int, line: str) -> dict[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    known = isinstance(row, dict) and (set(row) in ({"erase"}, {"erase", "from"}, {"preserve"}))
    if not known or not all(isinstance(text, str) for text in row.values()):
        raise InputError(f"esd.prompts_file {path}, line {number}: {line[:60]!r}", ALLOWED, "correct the line")
    texts: dict[str, str] = row
    return texts
