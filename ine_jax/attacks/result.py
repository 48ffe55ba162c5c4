"""What every attack writes: an adversarial prompt for each given one, and what detectors read in their images."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

import jax
import numpy as np
from jaxtyping import Int

from ine_jax.attacks.target import Finder, Target
from ine_jax.config.attacks import AttackSettings
from ine_jax.errors import InputError
from ine_jax.models.text import Tokenizer
from ine_jax.prompts.items import Item, spans
from ine_jax.storage.atomic import remove, write_atomic
from ine_jax.storage.provenance import value_hash
from ine_jax.storage.sealed import SUMS, has_hash, jsonl, read_jsonl, read_sums
from ine_jax.training.finished import write_hashes

PROMPTS = "prompts.jsonl"
TRIES = "tries"
BLOCK = 256  # images in memory at once
IDLE_FIELDS = ("preset", "save_every")  # they do not change what a given number of steps computes


class Scores(TypedDict):
    """What one detector reads in one image."""

    shows: bool | None
    labels: dict[str, float]
    reason: str


class Try(TypedDict):
    """One adversarial prompt, and what the detectors read in its image; success is what the first one says."""

    id: str
    prompt: str
    seed: int
    success: bool | None
    scores: dict[str, Scores]


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """The adversarial prompts, in the order of the given ones.

    Attributes:
        path: their file, which `ine evaluate` takes as a prompt set.
        items: the prompts as items.
        success: for each, whether the first detector finds the concept in its image; None: not scored.
    """

    path: Path
    items: tuple[Item, ...] = dataclasses.field(repr=False)
    success: tuple[bool | None, ...] = dataclasses.field(repr=False)

    @property
    def successes(self) -> int:
        """Number of prompts that succeed."""
        return sum(each is True for each in self.success)


def binding(
    target: Target, items: Sequence[Item], method: str, settings: Mapping[str, object], finders: Sequence[Finder]
) -> dict[str, object]:
    """Return all that a directory of an attack is bound to."""
    return {
        "attack": method,
        "settings": dict(settings),
        "target": target.record(),
        "prompts_sha256": value_hash([item.record() for item in items]),
        "detectors": [finder.name for finder in finders],
    }


def shown(config: AttackSettings, **more: object) -> dict[str, object]:
    """The settings to which a directory is bound: those given, the constants in use, and `more` in their place."""
    given = {k: v for k, v in dataclasses.asdict(config).items() if k not in IDLE_FIELDS}
    return {**given, **dataclasses.asdict(config.numbers), **more}


def text_of(tokenizer: Tokenizer, ids: Int[np.ndarray, "place"]) -> str:
    """Return the text of ids; encoded again it may have other ids, where one of them is a part of a word."""
    return str(tokenizer.backend.decode([int(each) for each in ids], clean_up_tokenization_spaces=False)).strip()


def require_usable(items: Sequence[Item]) -> None:
    """Raise InputError without prompts, for prompts of equal ids, or in a run of several processes."""
    ids = [item.id for item in items]
    if not ids or len(set(ids)) != len(ids):
        given = "no prompt to attack" if not ids else "prompts with equal ids"
        raise InputError(given, "prompts, each with its own id", "change the prompt set")
    if jax.process_count() > 1:
        raise InputError(f"an attack on {jax.process_count()} processes", "one process", "give each its own prompts")


def tried(
    target: Target, items: Sequence[Item], finders: Sequence[Finder], path: Path, stored: bool = False
) -> list[Try]:
    """Generate the image of every prompt and let the detectors read it; done once, and read from `path` afterwards.

    Without detectors no image is generated and nothing is written. With `stored` the file has the prompts too.
    """
    if not finders:
        return [Try(id=item.id, prompt=item.prompt, seed=item.seed, success=None, scores={}) for item in items]
    if path.is_file():
        found = cast(list[Try], read_jsonl(path))
        if stored or [(row["id"], row["prompt"]) for row in found] == [(item.id, item.prompt) for item in items]:
            return found
    rows = [row for span in spans(len(items), BLOCK) for row in _read(target, items[span.start : span.stop], finders)]
    write_atomic(path, jsonl(cast(list[Mapping[str, object]], rows)))
    return rows


def _read(target: Target, items: Sequence[Item], finders: Sequence[Finder]) -> list[Try]:
    images = target.images(items)
    found = [finder.find(images) for finder in finders]
    rows = []
    for i, item in enumerate(items):
        scores = {
            finder.name: Scores(shows=each[i].shows, labels=dict(each[i].labels), reason=each[i].reason)
            for finder, each in zip(finders, found, strict=True)
        }
        rows.append(Try(id=item.id, prompt=item.prompt, seed=item.seed, success=found[0][i].shows, scores=scores))
    return rows


def drop_damaged(folder: Path) -> None:
    """Remove results of a finished run that are not what it wrote, so that they are made again."""
    sums = read_sums(folder) if (folder / SUMS).is_file() else {}
    for name, digest in sums.items():
        if name.startswith(f"{TRIES}/") and not has_hash(folder / name, digest):
            remove(folder / name)


def write(folder: Path, bound: Mapping[str, object], given: Sequence[Item], found: Sequence[Try]) -> AttackResult:
    """Write the prompt set and the hashes of the directory."""
    items = tuple(dataclasses.replace(item, prompt=row["prompt"]) for item, row in zip(given, found, strict=True))
    run, rows = value_hash(bound), []
    for source, item, row in zip(given, items, found, strict=True):
        own = {"attack": bound["attack"], "source": source.prompt, "success": row["success"], "run": run}
        rows.append({**item.record(), **own})
    write_atomic(folder / PROMPTS, jsonl(rows))
    write_hashes(folder, [folder / PROMPTS, *sorted((folder / TRIES).glob("*.jsonl"))])
    return AttackResult(folder / PROMPTS, items, tuple(row["success"] for row in found))
