"""Whether every stored byte of a run directory is the one that was written."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from ine_jax.errors import CorruptRunError, IneError
from ine_jax.evaluation import metadata
from ine_jax.evaluation.metrics.fid import REAL, Moments
from ine_jax.storage.provenance import file_hash
from ine_jax.storage.runs import Run, open_run
from ine_jax.storage.sealed import SUMS, read_sums

WRONG = "its sha256 is not the recorded one"


@dataclasses.dataclass(frozen=True)
class Verified:
    """What was read, and one line per fault that names the file; none where all is as it was written.

    Blocks that are not drawn or not judged yet are no faults: `blocks` of `planned` are there.
    """

    faults: tuple[str, ...]
    blocks: int
    planned: int
    images: int
    scores: int
    derived: int

    def __str__(self) -> str:
        """The counts in a line."""
        read = f"{self.images} images, {self.scores} files of scores, {self.derived} derived files"
        return f"{self.blocks} of {self.planned} blocks, {read}: {len(self.faults) or 'no'} faults"


def sound(root: str | Path) -> Verified:
    """As `verify`, but raise `CorruptRunError`, which names the first faults and counts all, where there are any."""
    found = verify(root)
    if found.faults:
        names = [fault.removeprefix(f"{root}/").split(": ")[0] for fault in found.faults[:3]]
        more = f" and {len(found.faults) - 3} more" if len(found.faults) > 3 else ""
        todo = "remove the blocks or scores that are named; the same `ine evaluate` and `ine report` make them again"
        raise CorruptRunError(f"{root}: damaged: {', '.join(names)}{more}", f"no faults; read: {found}", todo)
    return found


def verify(root: str | Path) -> Verified:
    """Read every stored byte of a run directory again: run.json, blocks, scores, metadata, and what SHA256SUMS beside
    run.json lists. Clock times (timing.jsonl) and hidden files are not compared with anything.

    Raises `InputError` where there is no run, `CorruptRunError` where run.json itself is damaged.
    """
    run = open_run(root)
    faults = [*_blocks(run), *_scores(run), *_metadata(run), *_derived(run.root)]
    images = sum(1 for _ in run.root.glob("blocks/[0-9]*/*.png"))
    scores = sum(1 for _ in run.root.glob("scores/*/[0-9]*.jsonl"))
    listed = (run.root / SUMS).is_file() and not any(SUMS in fault for fault in faults)
    derived = len(read_sums(run.root)) if listed else 0
    return Verified(tuple(faults), len(run.blocks()), int(run.config["blocks"]), images, scores, derived)


def _blocks(run: Run) -> Iterator[str]:
    known = {f"{k:05d}" for k in range(run.config["blocks"])}
    yield from _strangers(run.root / "blocks", known)
    for k in run.blocks():
        try:
            sums = run.sums(k)
        except CorruptRunError as error:
            yield error.given
            continue
        yield from _strangers(run.block(k), {*sums, SUMS})
        for name in sums:
            yield from _fault(functools.partial(run.read, k, name, sums))


def _scores(run: Run) -> Iterator[str]:
    files = {"detector.json", REAL, *(f"{k:05d}.jsonl" for k in run.blocks())}
    for folder in sorted((run.root / "scores").glob("[!.]*")):
        yield from _fault(functools.partial(run.about, folder.name))
        yield from _strangers(folder, files)
        for k in run.blocks():
            yield from _fault(functools.partial(run.scores, folder.name, k))
        if (folder / REAL).exists():
            yield from _fault(functools.partial(Moments.load, folder / REAL))


def _metadata(run: Run) -> Iterator[str]:
    """It has no hash, being written from the records of the blocks: those that can be read must give it again."""
    path = run.root / metadata.NAME
    try:
        sound = not path.exists() or path.read_bytes() == metadata.metadata(run).encode()
    except CorruptRunError:
        return  # told already
    if not sound:
        yield f"{path}: not what the blocks say"


def _derived(root: Path) -> Iterator[str]:
    if not (root / SUMS).exists():
        return
    try:
        sums = read_sums(root)
    except CorruptRunError as error:
        yield error.given
        return
    for name, digest in sums.items():
        if not (root / name).is_file() or file_hash(root / name) != digest:
            yield f"{root / name}: {WRONG}"


def _strangers(folder: Path, known: set[str]) -> list[str]:
    """Files that no run writes there; hidden ones are temporary."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [f"{path}: no file of this run" for path in found if path.name not in known and path.name[0] != "."]


def _fault(action: Callable[[], object]) -> list[str]:
    try:
        action()
    except IneError as error:
        return [error.given]
    return []
