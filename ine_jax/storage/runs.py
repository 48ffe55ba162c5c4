"""Run directories: the config, finished blocks of images, their scores. No record is ever half written.

    run.json                            config, hashes, versions, commit: written once
    blocks/<k>/                         PNGs, rows.jsonl, SHA256SUMS; renamed into place when complete: presence = done
    scores/<scorer>@<version>/          detector.json, <k>.jsonl, and <k>.npy of a metric that stores vectors
    metadata.jsonl                      every image with its record, once all are there: Hugging Face's ImageFolder
    SHA256SUMS                          of the files beside run.json that are derived from those
    timing.jsonl                        seconds per block, apart from everything that is compared byte for byte

No index, no database: a killed run leaves at most hidden temporary files, which the next one replaces.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from ine_jax.errors import InputError
from ine_jax.storage import provenance
from ine_jax.storage.atomic import sync, write_atomic, write_durable
from ine_jax.storage.binding import require_same
from ine_jax.storage.images import png
from ine_jax.storage.records import NewRow, Row, RunConfig, RunHashes, RunRecord, ScorerRecord, TimingEntry, VerdictLine
from ine_jax.storage.sealed import SUMS, checksums, corrupt, jsonl, parse_jsonl, read_sums, seal, unseal

SCHEMA = 1
IDENTITY_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}")


def identity(pixels: Mapping[str, object]) -> str:
    """Hash of what changes an image's pixels: model hashes, prompt, seed, sampler, guard.

    Batch size, device count, paths and order change no pixel, so equal images of different runs have equal names.
    """
    return provenance.value_hash({"identity": IDENTITY_VERSION, **pixels})


@dataclasses.dataclass(frozen=True)
class Run:
    """An opened run directory; `record` is its run.json."""

    root: Path
    record: RunRecord

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return self.record["config"]

    def block(self, k: int) -> Path:
        """Folder of block k."""
        return self.root / "blocks" / f"{k:05d}"

    def done(self, k: int) -> bool:
        """Whether block k is complete."""
        return self.block(k).is_dir()

    def blocks(self) -> list[int]:
        """The complete blocks, in order."""
        return finished_blocks(self.root)

    def write_block(self, k: int, images: np.ndarray | Sequence[np.ndarray], rows: Sequence[NewRow]) -> None:
        """Store the uint8 images [H, W, 3] of block k, one per row; `file_name` is added to each row."""
        if len(images) != len(rows):
            raise ValueError(f"{len(images)} images for {len(rows)} rows")
        files = {f"{i:06d}.png": png(image) for i, image in enumerate(images)}
        named = [{**row, "file_name": name} for row, name in zip(rows, files, strict=True)]
        files["rows.jsonl"] = jsonl(named).encode()
        sums = checksums(files)
        folder = self.block(k)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # process ids are used again
        temporary.mkdir(mode=0o700, parents=True)
        for name, data in [*files.items(), (SUMS, sums.encode())]:
            write_durable(temporary / name, data)
        sync(temporary)
        try:
            temporary.rename(folder)
        except OSError:  # another host finished the same block first, with the same bytes
            if not folder.is_dir():
                raise
            shutil.rmtree(temporary)
        sync(folder.parent)

    def sums(self, k: int) -> dict[str, str]:
        """File name -> sha256 of block k, as written. CorruptRunError where SHA256SUMS is damaged."""
        return read_sums(self.block(k))

    def read(self, k: int, name: str, sums: Mapping[str, str] | None = None) -> bytes:
        """Bytes of a file of block k, checked against its sha256."""
        path = self.block(k) / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise corrupt(path, error) from error
        if hashlib.sha256(data).hexdigest() != (self.sums(k) if sums is None else sums).get(name):
            raise corrupt(path, "its sha256 is not the recorded one")
        return data

    def rows(self, k: int) -> list[Row]:
        """The records of block k."""
        return cast(list[Row], parse_jsonl(self.read(k, "rows.jsonl"), self.block(k) / "rows.jsonl"))

    def images(self, k: int) -> list[np.ndarray]:
        """The uint8 images [H, W, 3] of block k, in row order."""
        sums = self.sums(k)
        return [self.image(k, row["file_name"], sums) for row in self.rows(k)]

    def image(self, k: int, name: str, sums: Mapping[str, str] | None = None) -> np.ndarray:
        """One uint8 image [H, W, 3] of block k."""
        data = self.read(k, name, sums)
        try:
            return np.asarray(Image.open(io.BytesIO(data), formats=["PNG"]).convert("RGB"))
        except (OSError, ValueError) as error:
            raise corrupt(self.block(k) / name, error) from error

    def scorers(self) -> list[str]:
        """Names `<scorer>@<version>` of the detectors and metrics whose scores are there."""
        folder = self.root / "scores"
        return sorted(p.name for p in folder.iterdir() if (p / "detector.json").is_file()) if folder.is_dir() else []

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
        """Store the verdicts on block k, atomically; the last line is the sha256 of those before it and of the vectors.

        `vectors` float32 [n, d] are those of the scored lines, of a metric that stores vectors; their file comes first.
        """
        hashes = {}
        if vectors is not None:
            data = _npy(vectors)
            write_atomic(self.vectors_path(scorer, k), data)
            hashes = {"vectors": hashlib.sha256(data).hexdigest()}
        body = jsonl(lines).encode()
        write_atomic(self.scores_path(scorer, k), body + _ending(body, hashes))
        if vectors is None:
            self.vectors_path(scorer, k).unlink(missing_ok=True)

    def scores(self, scorer: str, k: int) -> list[VerdictLine] | None:
        """The verdicts on block k, or None where it is not scored yet."""
        found = self._scores(scorer, k)
        return None if found is None else found[0]

    def vectors(self, scorer: str, k: int) -> np.ndarray:
        """Feature vectors float32 [n, d] of the scored lines of block k, checked against their sha256."""
        path, found = self.vectors_path(scorer, k), self._scores(scorer, k)
        digest = found[1].get("vectors") if found else None
        if digest is None:
            raise corrupt(self.scores_path(scorer, k), "no vectors recorded (older runs: score again with --rescan)")
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                raise corrupt(path, "its sha256 is not the recorded one")
            return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
        except (OSError, ValueError) as error:
            raise corrupt(path, error) from error

    def _scores(self, scorer: str, k: int) -> tuple[list[VerdictLine], dict[str, str]] | None:
        """Verdicts and the hashes of the last line."""
        path = self.scores_path(scorer, k)
        if not path.is_file():
            return None
        data = path.read_bytes()
        start = data[:-1].rfind(b"\n") + 1
        body, last = data[:start], parse_jsonl(data[start:], path)
        hashes = {name: str(value) for name, value in (last[0] if last else {}).items() if name != "sha256"}
        if data[start:] != _ending(body, hashes):
            raise corrupt(path, "its sha256 is not the recorded one")
        return cast(list[VerdictLine], parse_jsonl(body, path)), hashes

    def about(self, scorer: str) -> ScorerRecord:
        """The stored description of `<scorer>@<version>`."""
        return cast(ScorerRecord, unseal(self.scores_folder(scorer) / "detector.json"))

    def write_about(self, scorer: str, record: ScorerRecord) -> None:
        """Store the description of a detector or metric, unless it is stored already."""
        path, text = self.scores_folder(scorer) / "detector.json", seal(record)
        if not path.is_file() or path.read_bytes() != text.encode():
            write_atomic(path, text)

    def add_timing(self, entry: TimingEntry) -> None:
        """Append one line to timing.jsonl."""
        with open(self.root / "timing.jsonl", "a") as file:
            file.write(jsonl([entry]))

    def timings(self) -> list[TimingEntry]:
        """Lines of timing.jsonl; a line torn by a crash is left out."""
        path = self.root / "timing.jsonl"
        entries = []
        for line in path.read_text().splitlines() if path.is_file() else []:
            with contextlib.suppress(json.JSONDecodeError):
                entries.append(cast(TimingEntry, json.loads(line)))
        return entries

    def clean(self) -> None:
        """Remove temporary files that killed runs left; call only where no other run writes here."""
        for path in [*self.root.glob("blocks/.*.tmp"), *self.root.glob("scores/*/.*.tmp"), *self.root.glob(".*.tmp")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def finished_blocks(root: str | Path) -> list[int]:
    """The complete blocks of a run directory, in order; none where there is no run."""
    folder = Path(root) / "blocks"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def _ending(body: bytes, hashes: Mapping[str, str]) -> bytes:
    """The last line of a file of scores: `hashes`, and the sha256 of the lines before it and of `hashes`."""
    signed = body + jsonl([hashes]).encode() if hashes else body
    return jsonl([{**hashes, "sha256": hashlib.sha256(signed).hexdigest()}]).encode()


def _npy(vectors: np.ndarray) -> bytes:
    """Bytes of a .npy file of float32 vectors; the same bytes for the same numbers."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(vectors, "<f4"), allow_pickle=False)
    return buffer.getvalue()


def open_run(root: str | Path) -> Run:
    """Open an existing run directory. InputError where there is none, CorruptRunError where run.json is damaged."""
    path = Path(root) / "run.json"
    if not path.is_file():
        raise InputError(f"{root} holds no run.json", "a run directory written by `ine evaluate`", "check the path")
    record = unseal(path)
    if record.get("schema") != SCHEMA:
        raise InputError(f"{path} has schema {record.get('schema')}", f"schema {SCHEMA}", "use the matching release")
    return Run(Path(root), cast(RunRecord, record))


def create(
    root: str | Path,
    config: RunConfig,
    hashes: RunHashes,
    command: Sequence[str] = (),
    readings: Mapping[str, Mapping[str, object]] | None = None,
) -> Run:
    """Start a run in `root`, or continue the one that is there; InputError if its config or hashes differ.

    `readings` (how each prompt file was read) and versions stay as they were at the start: a file that gives the same
    items may change.
    """
    root = Path(root)
    fixed = json.loads(provenance.canonical({"config": config, "hashes": hashes}))
    if (root / "run.json").exists():
        run = open_run(root)
        require_same(root, {"config": run.record["config"], "hashes": run.record["hashes"]}, fixed)
        return run
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    record: RunRecord = {
        "schema": SCHEMA,
        "config": fixed["config"],
        "hashes": fixed["hashes"],
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "command": list(command),
        "readings": {name: dict(reading) for name, reading in (readings or {}).items()},
    }
    (root / "blocks").mkdir(mode=0o700, exist_ok=True)
    write_atomic(root / "run.json", seal(record))
    return Run(root, record)
