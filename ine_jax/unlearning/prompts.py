"""The training prompts of an unlearning run: written out in the config, or in a file that the config names.

Each line of ESD's JSONL file is one of

    {"erase": "a cat and a knife", "from": "a cat"}     erased; falls back to "from", or to the empty prompt
    {"preserve": "a red apple"}                         kept as the original model has it

STEREO's anchors are in a JSON file as its authors publish it, {concept: [prompt, ...]}. AdvUnlearn's preserved prompts
are in any file of prompts.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

from ine_jax.config import AdvUnlearnConfig, EsdConfig, StereoConfig
from ine_jax.config.commands import UnlearnSettings
from ine_jax.errors import InputError
from ine_jax.prompts import load
from ine_jax.storage import untrusted

S = TypeVar("S", bound=UnlearnSettings)

MAX_BYTES = 16 * 2**20
ALLOWED = '{"erase": TEXT}, {"erase": TEXT, "from": TEXT} or {"preserve": TEXT}'


def with_prompts(config: S) -> S:
    """Replace the name of a file by the prompts in it: the same prompts are the same run wherever they come from."""
    if isinstance(config, EsdConfig) and config.prompts_file:
        return cast(S, _with_pairs(config))
    if isinstance(config, StereoConfig) and config.anchors_file:
        return dataclasses.replace(config, anchors_file="", anchors=_anchors(Path(config.anchors_file), config.erase))
    if isinstance(config, AdvUnlearnConfig) and config.preserve_file:
        prompts = tuple(item.prompt for item in load(config.preserve_file).items)
        return dataclasses.replace(config, preserve_file="", preserve=prompts)
    return config


def _anchors(path: Path, erase: Sequence[str]) -> tuple[str, ...]:
    def rejected(path: Path, reason: str) -> InputError:
        allowed = "{concept: [prompt, ...]}, with the first erased prompt as concept"
        return InputError(f"stereo.anchors_file {path}: {reason}", allowed, "correct the file")

    try:
        table = json.loads(untrusted.read(path, MAX_BYTES, rejected))
    except (ValueError, RecursionError) as error:
        raise rejected(path, "not JSON") from error
    prompts = table.get(erase[0]) if isinstance(table, dict) and erase else None
    if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) for text in prompts):
        raise rejected(path, "no prompts of the concept")
    return tuple(prompts)


def _with_pairs(config: EsdConfig) -> EsdConfig:
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
