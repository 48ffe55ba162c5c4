"""Hashes of the files of a finished training directory: written at its end, compared before anything is used again.

SHA256SUMS lists what is the same for equal runs, SHA256SUMS.times what depends on the clock: timing.jsonl,
topology.jsonl (if the run changed its devices) and the files of the checkpoints, which hold times.
"""

from collections.abc import Iterable
from pathlib import Path

from ine_jax.storage.atomic import remove
from ine_jax.storage.sealed import SUMS, read_sums, require_sums, write_sums

TIMES = f"{SUMS}.times"
RECORDS = ("config.json", "log.jsonl")
CLOCKS = ("timing.jsonl", "topology.jsonl")
_TODO = "take an undamaged copy, or start again in a new directory"


def write_hashes(folder: Path, results: Iterable[Path]) -> None:
    """Write both lists; `results` are the files that the run made, of those it may have made."""
    kept = sorted(path for path in (folder / "checkpoints").rglob("*") if path.is_file() and path.name[0] != ".")
    clocks = [name for name in CLOCKS if (folder / name).exists()]
    write_sums(folder, [*clocks, *(str(path.relative_to(folder)) for path in kept)], TIMES)
    made = [str(path.relative_to(folder)) for path in results if path.is_file()]
    write_sums(folder, [*RECORDS, *made])  # last: where it is, the run is finished


def check(folder: Path) -> dict[str, str]:
    """The hashes of the checkpoints' files; CorruptRunError where config, log or timing were changed."""
    require_sums(folder, RECORDS, _TODO)
    require_sums(folder, CLOCKS, _TODO, TIMES)
    return read_sums(folder, TIMES) if (folder / TIMES).exists() else {}


def forget(folder: Path) -> None:
    """Remove the lists of a directory that is about to be written again."""
    for name in (SUMS, TIMES):
        remove(folder / name)
