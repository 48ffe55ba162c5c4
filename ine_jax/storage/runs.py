"""Run directories: the config, finished blocks of images, their scores. No record is ever half written.

    run.json                            config, hashes, versions, commit: written once, and when the run is extended
    blocks/<k>/                         PNGs, rows.jsonl, SHA256SUMS; renamed into place when complete: presence = done
    blocks.json                         the hash of every block, once all are there
    scores/<scorer>@<version>/          detector.json, <k>.jsonl, and <k>.npy of a metric that stores vectors
    metadata.jsonl                      every image with its record, once all are there: Hugging Face's ImageFolder
    SHA256SUMS                          of the files beside run.json that are derived from those
    timing.jsonl                        seconds per block, apart from everything that is compared byte for byte

No index, no database: a killed run leaves at most hidden temporary files, which the next one replaces.

`marks` recognizes a file that was copied to another place.
"""

import dataclasses
import errno
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

import numpy as np

from ine_jax.errors import CorruptRunError, InputError
from ine_jax.storage import marks, run_record, schema, score_files, timing, untrusted
from ine_jax.storage.atomic import atomic_folder, clear, lock, remove, write_atomic, write_durable
from ine_jax.storage.binding import require_no_difference
from ine_jax.storage.images import decode
from ine_jax.storage.records import NewRow, Row, RunConfig, RunHashes, RunRecord, ScorerRecord, TimingEntry, VerdictLine
from ine_jax.storage.sealed import SUMS, WRONG, checksums, corrupt, jsonl, parse_jsonl, read_sums, seal, unseal

_BLOCK = re.compile("[0-9]{5}|[1-9][0-9]{5,7}")  # other digits, say of Arabic, are digits for Python too
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}")


@dataclasses.dataclass(frozen=True)
class Run:
    """An opened run directory; `record` is its run.json."""

    root: Path
    record: RunRecord

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return self.record["config"]

    @cached_property
    def content(self) -> str:
        """The content id, a hash of config and model hashes."""
        return marks.content_id(self.record)

    @cached_property
    def stages(self) -> dict[str, int]:
        """Content id -> number of blocks, of the run at its start and after each extension."""
        return marks.stages(self.record)

    @cached_property
    def listed(self) -> list[str] | None:
        """The hash of each block's SHA256SUMS in blocks.json, which may be of an earlier stage; None without it."""
        return marks.read_blocks(self.root, self.stages)

    @property
    def schema(self) -> int:
        """Version of the format; 1 has neither marks nor blocks.json."""
        return self.record["schema"]

    def block(self, k: int) -> Path:
        """Folder of block k."""
        return self.root / "blocks" / f"{k:05d}"

    def done(self, k: int) -> bool:
        """Whether block k is complete."""
        return self.block(k).is_dir()

    def blocks(self) -> list[int]:
        """The complete blocks, in order."""
        return finished_blocks(self.root)

    def write_block(self, k: int, images: Sequence[bytes], rows: Sequence[NewRow]) -> None:
        """Store the images of block k as PNG, one per row; `file_name` is added to each row."""
        if len(images) != len(rows):
            raise ValueError(f"{len(images)} images for {len(rows)} rows")
        files = {f"{i:06d}.png": image for i, image in enumerate(images)}
        named = [{**row, "file_name": name, **self._marks(k)} for row, name in zip(rows, files, strict=True)]
        files["rows.jsonl"] = jsonl(named).encode()
        sums = checksums(files)
        folder = self.block(k)
        try:
            with atomic_folder(folder, 0o700) as temporary:
                for name, data in [*files.items(), (SUMS, sums.encode())]:
                    write_durable(temporary / name, data)
        except OSError as error:  # another host finished the same block first, with the same bytes
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not folder.is_dir():
                raise

    def sums(self, k: int) -> dict[str, str]:
        """File name -> sha256 of block k. CorruptRunError where SHA256SUMS is damaged or not the one in blocks.json."""
        path = self.block(k) / SUMS
        added = self.listed is not None and len(self.listed) <= k < self.config["blocks"]
        if self.listed is not None and not added and marks.sums_hash(self.block(k)) not in self.listed[k : k + 1]:
            raise corrupt(path, f"it is not the one in {marks.BLOCKS}")
        return read_sums(self.block(k))

    def read(self, k: int, name: str, sums: Mapping[str, str] | None = None) -> bytes:
        """Bytes of a file of block k, checked against its sha256."""
        path = self.block(k) / name
        digest = (self.sums(k) if sums is None else sums).get(name)
        if digest is None:
            raise corrupt(path, f"{SUMS} does not list it")
        data = untrusted.read(path, untrusted.MAX_RECORDS, corrupt)
        if hashlib.sha256(data).hexdigest() != digest:
            raise corrupt(path, WRONG)
        return data

    def rows(self, k: int) -> list[Row]:
        """The records of block k."""
        path = self.block(k) / "rows.jsonl"
        rows: list[Row] = schema.records(Row, parse_jsonl(self.read(k, "rows.jsonl"), path), path)
        for row in rows:
            marks.require(path, row, self._marks(k), optional=self.schema == 1)
        return rows

    def images(self, k: int) -> list[np.ndarray]:
        """The uint8 images [H, W, 3] of block k, in row order."""
        sums = self.sums(k)
        return [self.image(k, row["file_name"], sums) for row in self.rows(k)]

    def image(self, k: int, name: str, sums: Mapping[str, str] | None = None) -> np.ndarray:
        """One uint8 image [H, W, 3] of block k."""
        data = self.read(k, name, sums)
        try:
            return np.asarray(decode(data, ("PNG",)))
        except ValueError as error:
            raise corrupt(self.block(k) / name, error) from error

    def scorers(self) -> list[str]:
        """Names `<scorer>@<version>` of the detectors and metrics whose scores are there."""
        folder = self.root / "scores"
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(path.name for path in found if os.path.lexists(path / "detector.json"))

    def scores_folder(self, scorer: str) -> Path:
        """Folder of the scores of `<scorer>@<version>`."""
        if not _NAME.fullmatch(scorer):
            raise InputError(f"detector name {scorer!r}", "letters, digits, _ . @ + -", "rename the detector")
        return self.root / "scores" / scorer

    def scores_path(self, scorer: str, k: int) -> Path:
        """File of the scores of block k."""
        return self.scores_folder(scorer) / f"{k:05d}.jsonl"

    def vectors_path(self, scorer: str, k: int) -> Path:
        """File of the feature vectors of block k."""
        return self.scores_folder(scorer) / f"{k:05d}.npy"

    def write_scores(
        self, scorer: str, k: int, lines: Sequence[VerdictLine], vectors: np.ndarray | None = None
    ) -> None:
        """Store the verdicts on block k, atomically, with their marks and the sha256 of all.

        `vectors` float32 [n, d] are those of the scored lines, of a metric that stores vectors; their file comes first.
        """
        own = self._marks(k, scorer)
        if vectors is not None:
            data = score_files.encode_vectors(vectors)
            write_atomic(self.vectors_path(scorer, k), data)
            own["vectors"] = hashlib.sha256(data).hexdigest()
        write_atomic(self.scores_path(scorer, k), score_files.encode(lines, own))
        if vectors is None:
            remove(self.vectors_path(scorer, k))

    def _marks(self, k: int, scorer: str = "") -> dict[str, object]:
        """What every row of block k holds, or its scores by `scorer`."""
        stage = next((stage for stage, count in self.stages.items() if k < count), self.content)
        found: dict[str, object] = {"run": stage, "block": k}
        return {**found, "scorer": scorer, "images": marks.sums_hash(self.block(k))} if scorer else found

    def scores(self, scorer: str, k: int) -> list[VerdictLine] | None:
        """The verdicts on block k, or None where it is not scored yet."""
        found = self._scores(scorer, k)
        return None if found is None else found[0]

    def vectors(self, scorer: str, k: int) -> np.ndarray:
        """Feature vectors float32 [n, d] of the scored lines of block k, checked against their sha256."""
        found = self._scores(scorer, k)
        digest = found[1].get("vectors") if found else None
        if digest is None:
            raise corrupt(self.scores_path(scorer, k), "no vectors recorded (older runs: score again with --rescan)")
        return score_files.decode_vectors(self.vectors_path(scorer, k), digest)

    def _scores(self, scorer: str, k: int) -> tuple[list[VerdictLine], dict[str, object]] | None:
        """Verdicts and marks of the last line."""
        path = self.scores_path(scorer, k)
        if not os.path.lexists(path):  # anything else under this name is damage, not a block to score
            return None
        lines, found = score_files.decode(path)
        marks.require(path, found, self._marks(k, scorer), optional=self.schema == 1)
        return lines, found

    def about(self, scorer: str) -> ScorerRecord:
        """The stored description of `<scorer>@<version>`."""
        path = self.scores_folder(scorer) / "detector.json"
        record = schema.record(ScorerRecord, unseal(path), path, open_ended=True)
        if f"{record['id']}@{record['version']}" != scorer:
            raise corrupt(path, f"it describes {record['id']}@{record['version']}")
        return record

    def write_about(self, scorer: str, record: ScorerRecord) -> None:
        """Store the description of a detector or metric, unless it is stored already."""
        path, text = self.scores_folder(scorer) / "detector.json", seal(record)
        if not path.is_file() or untrusted.read(path, untrusted.MAX_JSON) != text.encode():
            write_atomic(path, text)

    def add_timing(self, entry: TimingEntry) -> None:
        """Append one line to timing.jsonl."""
        timing.append(self.root, entry)

    def timings(self) -> list[TimingEntry]:
        """Lines of timing.jsonl without one that a crash cut off. CorruptRunError where a line was changed."""
        entries, changed = timing.read(self.root, self.schema > 1)
        if changed and self.schema > 1:
            given = f"{self.root / timing.NAME}: line {changed[0]} was changed"
            raise CorruptRunError(given, "lines as they were written", "remove the line: only times depend on it")
        return entries

    def clean(self) -> None:
        """Remove temporary files that killed processes left; call while holding the directory's lock alone."""
        for folder in (self.root, self.root / "blocks", *self.root.glob("scores/*")):
            clear(folder, alone=True)


def finished_blocks(root: str | Path) -> list[int]:
    """The complete blocks of a run directory, in order; none where there is no run."""
    folder = Path(root) / "blocks"
    return sorted(int(p.name) for p in folder.iterdir() if _BLOCK.fullmatch(p.name)) if folder.is_dir() else []


def open_run(root: str | Path) -> Run:
    """Open an existing run directory. InputError where there is none, CorruptRunError where run.json is damaged."""
    path = Path(root) / "run.json"
    if not path.is_file():
        raise InputError(f"{root} holds no run.json", "a run directory written by `ine evaluate`", "check the path")
    return Run(Path(root), run_record.read(path))


def check(root: str | Path, config: RunConfig, hashes: RunHashes) -> Run | None:
    """The run that is in `root`, or None; InputError if it cannot be continued or extended, or `root` is no directory.

    A config that has further cells after those of the run extends it.
    """
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file", "a directory", "choose another one")
    if not (root / "run.json").exists():
        return None
    run = open_run(root)
    require_no_difference(root, run_record.differences(run.record, run_record.binding(config, hashes)))
    return run


def writing(root: str | Path, shard: tuple[int, int] = (0, 1)) -> AbstractContextManager[None]:
    """The lock of a run directory, for all of it or for one of several shards."""
    return lock(root, part=f"{shard[0]}-of-{shard[1]}" if shard[1] > 1 else "")


def create(
    root: str | Path,
    config: RunConfig,
    hashes: RunHashes,
    command: Sequence[str] = (),
    readings: Mapping[str, Mapping[str, object]] | None = None,
) -> Run:
    """Start a run in `root`, or continue or extend the one that is there; errors as of `check`.

    `readings` (how each prompt file was read) stay as they were at the start: a file that gives the same items may
    change. Versions are those of the start or of the last extension.
    """
    root = Path(root)
    fixed = run_record.binding(config, hashes)
    run = check(root, config, hashes)
    if run and not run_record.is_extended(run.record, fixed):
        return run
    record = run_record.started(fixed, command, readings or {})
    if run:
        record = run_record.extended(run.record, record)
    text = run_record.sealed(root, record)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    (root / "blocks").mkdir(mode=0o700, exist_ok=True)
    write_atomic(root / "run.json", text)
    return Run(root, record)
