"""Whether every stored byte of a run directory is the one that was written."""

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
    """What was read, and one line per fault that names the file. Missing blocks and scores are no faults."""

    faults: tuple[str, ...]
    blocks: int
    planned: int
    images: int
    scores: int
    derived: int

    def __str__(self) -> str:
        """The counts as one line."""
        read = f"{self.images} images, {self.scores} files of scores, {self.derived} derived files"
        return f"{self.blocks} of {self.planned} blocks, {read}: {len(self.faults) or 'no'} faults"


def sound(root: str | Path) -> Verified:
    """As `verify`, but raise `CorruptRunError` if there are faults; it names the first ones and counts all."""
    found = verify(root)
    if found.faults:
        names = [fault.removeprefix(f"{root}/").split(": ")[0] for fault in found.faults[:3]]
        more = f" and {len(found.faults) - 3} more" if len(found.faults) > 3 else ""
        todo = "remove these blocks or scores; the same `ine evaluate` and `ine report` write them again"
        raise CorruptRunError(f"{root}: damaged: {', '.join(names)}{more}", f"no faults; read: {found}", todo)
    return found


def verify(root: str | Path) -> Verified:
    """Read every stored byte of a run directory again: run.json, blocks, scores, metadata, files in SHA256SUMS.

    Clock times (timing.jsonl) and hidden files are not compared with anything.
    """
    run = open_run(root)
    faults = [*_blocks(run), *_scores(run), *_metadata(run), *_derived(run.root)]
    images = sum(1 for _ in run.root.glob("blocks/[0-9]*/*.png"))
    scores = sum(1 for _ in run.root.glob("scores/*/[0-9]*.jsonl"))
    listed = (run.root / SUMS).is_file() and not any(SUMS in fault for fault in faults)
    derived = len(read_sums(run.root)) if listed else 0
    return Verified(tuple(faults), len(run.blocks()), run.config["blocks"], images, scores, derived)


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
    blocks = run.blocks()
    files = {"detector.json", REAL, *(f"{k:05d}{suffix}" for k in blocks for suffix in (".jsonl", ".npy"))}
    for folder in sorted((run.root / "scores").glob("[!.]*")):
        damaged = _fault(functools.partial(run.about, folder.name))
        yield from damaged
        yield from _strangers(folder, files)
        features = not damaged and "features" in run.about(folder.name)
        for k in blocks:
            yield from _fault(functools.partial(_read_scores, run, folder.name, k, features))
        if (folder / REAL).exists():
            yield from _fault(functools.partial(Moments.load, folder / REAL))


def _read_scores(run: Run, scorer: str, k: int, features: bool) -> None:
    lines = run.scores(scorer, k) or ()
    stored = features and any(line["status"] == "scored" for line in lines)
    if stored or run.vectors_path(scorer, k).exists():
        run.vectors(scorer, k)


def _metadata(run: Run) -> Iterator[str]:
    """It has no hash: it must equal what the records of the blocks give."""
    path = run.root / metadata.NAME
    try:
        sound = not path.exists() or path.read_bytes() == metadata.metadata(run).encode()
    except CorruptRunError:
        return  # reported with the blocks
    if not sound:
        yield f"{path}: not the records of the blocks"


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
