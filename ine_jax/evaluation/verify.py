"""Whether every stored byte of a run directory is the one that was written."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from ine_jax.errors import CorruptRunError, IneError
from ine_jax.evaluation import finished, metadata, units
from ine_jax.evaluation.counting import planned_rows
from ine_jax.evaluation.metrics.fid import REAL, Moments
from ine_jax.evaluation.units import Unit
from ine_jax.storage import marks, timing, untrusted
from ine_jax.storage.provenance import file_hash
from ine_jax.storage.runs import Run, open_run
from ine_jax.storage.sealed import SUMS, WRONG, Verified, corrupt, read_sums, sums_faults, unseal

IMAGES = "report-images"  # of a report; named by their content


def verify(root: str | Path) -> Verified:
    """Read every stored byte of a run directory again, and check that each file belongs where it is.

    Missing blocks and scores of a run that is not finished are no faults. Hidden files are locks and temporary files,
    but for the note on what is scored.
    """
    run = open_run(root)
    faults = [*_list(run), *_blocks(run), *_scores(run), *_metadata(run), *_notes(run), *report_faults(run.root)]
    count = {
        "images": sum(1 for _ in run.root.glob("blocks/[0-9]*/*.png")),
        "files of scores": sum(1 for _ in run.root.glob("scores/*/[0-9]*.jsonl")),
        "derived files": report_files(run.root),
    }
    blocks = {"blocks": len(run.blocks()), "planned blocks": run.config["blocks"]}
    return Verified("run directory", blocks | count, tuple(faults))


def report_files(root: Path) -> int:
    """How many files a report in this folder has."""
    images = sum(1 for _ in (root / IMAGES).glob("[!.]*"))
    try:
        return images + (len(read_sums(root)) if (root / SUMS).exists() else 0)
    except CorruptRunError:
        return images


def report_faults(root: Path) -> list[str]:
    """One line per file of a report that was changed."""
    images = sorted((root / IMAGES).glob("[!.]*"))
    wrong = [path for path in images if file_hash(path)[:32] != path.stem]
    return [*sums_faults(root), *(f"{path}: {WRONG}" for path in wrong)]


def _list(run: Run) -> list[str]:
    return _fault(lambda: marks.require_all(run.root, run.blocks(), run.listed))


def _blocks(run: Run) -> Iterator[str]:
    cuts = units.planned(run.config)
    yield from _strangers(run.root / "blocks", {f"{k:05d}" for k in range(run.config["blocks"])})
    for k in run.blocks():
        try:
            sums = run.sums(k)
        except CorruptRunError as error:
            yield error.given
            continue
        yield from _strangers(run.block(k), {*sums, SUMS})
        for name in sums:
            yield from _fault(functools.partial(run.read, k, name, sums))
        if _sound(functools.partial(run.read, k, "rows.jsonl", sums)):
            yield from _fault(functools.partial(_read_rows, run, k, cuts))


def _read_rows(run: Run, k: int, cuts: list[Unit]) -> None:
    images = {name for name in run.sums(k) if name.endswith(".png")}
    rows = planned_rows(run, k, cuts)
    if images != {row["file_name"] for row in rows}:
        raise corrupt(run.block(k) / "rows.jsonl", "its images are not those of the block")


def _scores(run: Run) -> Iterator[str]:
    blocks = run.blocks()
    planned = range(run.config["blocks"])  # scores of a block that is written just now are none of another run
    files = {"detector.json", REAL, *(f"{k:05d}{suffix}" for k in planned for suffix in (".jsonl", ".npy"))}
    for folder in sorted((run.root / "scores").glob("[!.]*")):
        named = _fault(functools.partial(run.scores_folder, folder.name))
        yield from named
        if named or (folder.is_dir() and not any(folder.glob("[!.]*"))):
            continue  # nothing of a run, or not scored yet
        damaged = _fault(functools.partial(run.about, folder.name))
        yield from damaged
        yield from _strangers(folder, files)
        features = not damaged and "features" in run.about(folder.name)
        for k in blocks:
            yield from _fault(functools.partial(_read_scores, run, folder.name, k, features))
        if (folder / REAL).exists():
            yield from _fault(functools.partial(Moments.load, folder / REAL))


def _read_scores(run: Run, scorer: str, k: int, features: bool) -> None:
    lines = run.scores(scorer, k)
    stored = features and any(line["status"] == "scored" for line in lines or ())
    if stored or run.vectors_path(scorer, k).exists():
        run.vectors(scorer, k)
    if lines is None or not _sound(functools.partial(run.rows, k)):  # damaged rows are reported with the blocks
        return
    if [line["id"] for line in lines] != [row["id"] for row in run.rows(k)]:
        raise corrupt(run.scores_path(scorer, k), "its items are not those of the block")


def _metadata(run: Run) -> Iterator[str]:
    """It has no hash: it must equal what the records of the blocks give."""
    path = run.root / metadata.NAME
    try:
        wanted = metadata.metadata(run).encode()
    except CorruptRunError:
        return  # reported with the blocks

    def same() -> None:
        if untrusted.read(path, len(wanted), corrupt) != wanted:
            raise corrupt(path, "not the records of the blocks")

    if path.exists():
        yield from _fault(same)


def _notes(run: Run) -> Iterator[str]:
    """Clock times and what is known to be scored; in runs of schema 1 neither has a hash."""
    if run.schema == 1:
        return
    for number in timing.read(run.root)[1]:
        yield f"{run.root / timing.NAME}: line {number} was changed"
    for path in sorted(run.root.glob(finished.NOTES)):
        yield from _fault(functools.partial(unseal, path))


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


def _sound(action: Callable[[], object]) -> bool:
    return not _fault(action)
