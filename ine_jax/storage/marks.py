"""What ties the files of a run to it and to their place: marks in rows and scores, and the list of finished blocks.

Rows and scores hold the content id of their run and the number of their block, scores also the name of the scorer and
the hash of the images. A file that was copied to another place does not pass for the one that belongs there. In a run
that was extended, a block keeps its number and the content id of the stage that added it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ine_jax.errors import CorruptRunError
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.provenance import file_hash, value_hash
from ine_jax.storage.records import RunRecord, Stage
from ine_jax.storage.sealed import SUMS, corrupt, seal, unseal

BLOCKS = "blocks.json"
_DIGITS = 16


def content_id(record: Stage) -> str:
    """A hash of config and model hashes: equal runs have equal ids, whenever and with whatever versions they ran."""
    return value_hash({"config": record["config"], "hashes": record["hashes"]})[:_DIGITS]


def stages(record: RunRecord) -> dict[str, int]:
    """Content id -> number of blocks, of each stage of a run, the last one last."""
    return {content_id(stage): stage["config"]["blocks"] for stage in (*record.get("earlier", ()), record)}


def require(path: Path, found: Mapping[str, object], marks: Mapping[str, object], optional: bool) -> None:
    """Raise CorruptRunError unless what a file holds has these marks; with `optional` they may also be absent."""
    for key, value in marks.items():
        if found.get(key, value if optional else None) != value:
            raise corrupt(path, f"it belongs elsewhere: {key} {found.get(key)!r} instead of {value!r}")


def read_blocks(root: Path, known: Mapping[str, int]) -> list[str] | None:
    """The hash of each block's SHA256SUMS, of the blocks of one of the `stages`; None while there is no list."""
    path = root / BLOCKS
    if not path.exists():
        return None
    record = unseal(path)
    digests = record.get("blocks")
    if not isinstance(digests, list) or known.get(str(record.get("run"))) != len(digests):
        raise corrupt(path, "it is of another run")
    return [str(digest) for digest in digests]


def write_blocks(root: Path, known: Mapping[str, int], folders: Sequence[Path]) -> None:
    """Write the list of all blocks of the last of the `stages`, unless it is there."""
    listed = read_blocks(root, known)
    if listed is None or len(listed) < len(folders):
        write_atomic(root / BLOCKS, seal({"run": [*known][-1], "blocks": [sums_hash(folder) for folder in folders]}))


def sums_hash(folder: Path) -> str:
    """SHA-256 of a block's SHA256SUMS, which stands for all files of the block."""
    return file_hash(folder / SUMS, corrupt)


def require_all(root: Path, done: Sequence[int], listed: Sequence[str] | None) -> None:
    """Raise CorruptRunError where a block that is in the list is gone."""
    missing = sorted(set(range(len(listed or ()))) - set(done))
    if missing:
        raise CorruptRunError(
            f"{root}: {len(missing)} blocks are gone, the first is {missing[0]:05d}",
            f"the {len(listed or ())} blocks in {BLOCKS}",
            "run the same `ine evaluate` again: it writes them again",
        )
