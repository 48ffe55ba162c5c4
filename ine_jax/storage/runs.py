"""Run directories: what was asked for, finished blocks of images, their scores. Never a half-written record.

    run.json                            config, hashes, versions, commit: written once
    blocks/<k>/                         PNGs, rows.jsonl, SHA256SUMS; renamed into place when complete: presence = done
    scores/<detector>@<version>/        detector.json, <k>.jsonl
    metadata.jsonl                      every image with its record, once all are there: Hugging Face's ImageFolder
    SHA256SUMS                          of what is derived from those and stands beside run.json
    timing.jsonl                        seconds per block, apart from everything that is compared byte for byte

No index, no database: a killed run leaves at most hidden temporary files, which the next one replaces.
"""

from __future__ import annotations

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
from typing import Any

import numpy as np
from PIL import Image

from ine_jax.errors import InputError
from ine_jax.storage import provenance
from ine_jax.storage.atomic import sync, write_atomic, write_durable
from ine_jax.storage.binding import require_same
from ine_jax.storage.images import png
from ine_jax.storage.sealed import SUMS, checksums, corrupt, jsonl, parse_jsonl, read_sums, seal, unseal

SCHEMA = 1
IDENTITY_VERSION = 1
FIXED = ("config", "hashes")  # what a run directory may never change; versions are recorded as they were at its start
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}")


def identity(pixels: Mapping[str, Any]) -> str:
    """Hash of what changes an image's pixels: model hashes, prompt, seed, sampler, guard.

    Batch size, device count, paths and order are not among them, so equal images of different runs have equal names.
    """
    return provenance.value_hash({"identity": IDENTITY_VERSION, **pixels})


@dataclasses.dataclass(frozen=True)
class Run:
    """An opened run directory; `record` is its run.json."""

    root: Path
    record: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
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
        folder = self.root / "blocks"
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []

    def write_block(self, k: int, images: np.ndarray | Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> None:
        """Store the uint8 images [H, W, 3] of block k, one per row; `file_name` is added to each row."""
        if len(images) != len(rows):
            raise ValueError(f"{len(images)} images for {len(rows)} rows")
        files = {f"{i:06d}.png": png(image) for i, image in enumerate(images)}
        named = [{**row, "file_name": name} for row, name in zip(rows, files, strict=True)]
        files["rows.jsonl"] = jsonl(named).encode()
        sums = checksums(files)
        folder = self.block(k)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # process ids come again
        temporary.mkdir(mode=0o700, parents=True)
        for name, data in [*files.items(), (SUMS, sums.encode())]:
            write_durable(temporary / name, data)
        sync(temporary)
        try:
            temporary.rename(folder)
        except OSError:  # another host finished the same block first: the same bytes
            if not folder.is_dir():
                raise
            shutil.rmtree(temporary)
        sync(folder.parent)

    def sums(self, k: int) -> dict[str, str]:
        """File name -> sha256 of block k, as written. CorruptRunError where the list is not readable."""
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

    def rows(self, k: int) -> list[dict[str, Any]]:
        """The records of block k."""
        return parse_jsonl(self.read(k, "rows.jsonl"), self.block(k) / "rows.jsonl")

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

    def detectors(self) -> list[str]:
        """Names `<detector>@<version>` of the scores that are there."""
        folder = self.root / "scores"
        return sorted(p.name for p in folder.iterdir() if (p / "detector.json").is_file()) if folder.is_dir() else []

    def scores_path(self, detector: str, k: int) -> Path:
        """File of the scores of block k by `<detector>@<version>`."""
        if not _NAME.fullmatch(detector):
            raise InputError(f"detector name {detector!r}", "letters, digits, _ . @ + -", "rename the detector")
        return self.root / "scores" / detector / f"{k:05d}.jsonl"

    def write_scores(self, detector: str, k: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store the verdicts on block k, atomically; the last line is the sha256 of those before it."""
        body = jsonl(rows).encode()
        write_atomic(self.scores_path(detector, k), body + _ending(body))

    def scores(self, detector: str, k: int) -> list[dict[str, Any]] | None:
        """The verdicts on block k, or None where it is not scored yet."""
        path = self.scores_path(detector, k)
        if not path.is_file():
            return None
        data = path.read_bytes()
        body = data[: data[:-1].rfind(b"\n") + 1]
        if data != body + _ending(body):
            raise corrupt(path, "its sha256 is not the recorded one")
        return parse_jsonl(body, path)

    def about(self, detector: str) -> dict[str, Any]:
        """What `<detector>@<version>` says of itself."""
        return unseal(self.scores_path(detector, 0).with_name("detector.json"))

    def write_about(self, detector: str, record: Mapping[str, Any]) -> None:
        """Store what a detector says of itself, where it is not stored so already."""
        path, text = self.scores_path(detector, 0).with_name("detector.json"), seal(record)
        if not path.is_file() or path.read_bytes() != text.encode():
            write_atomic(path, text)

    def add_timing(self, entry: Mapping[str, Any]) -> None:
        """Append one line to timing.jsonl."""
        with open(self.root / "timing.jsonl", "a") as file:
            file.write(jsonl([entry]))

    def timings(self) -> list[dict[str, Any]]:
        """Lines of timing.jsonl; a line torn by a crash is left out."""
        path = self.root / "timing.jsonl"
        entries = []
        for line in path.read_text().splitlines() if path.is_file() else []:
            with contextlib.suppress(json.JSONDecodeError):
                entries.append(json.loads(line))
        return entries

    def clean(self) -> None:
        """Remove what killed runs left under temporary names; call only where no other run writes here."""
        for path in [*self.root.glob("blocks/.*.tmp"), *self.root.glob("scores/*/.*.tmp"), *self.root.glob(".*.tmp")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _ending(body: bytes) -> bytes:
    """The last line of a file of scores: the sha256 of those before it."""
    return jsonl([{"sha256": hashlib.sha256(body).hexdigest()}]).encode()


def open_run(root: str | Path) -> Run:
    """Open an existing run directory. InputError where there is none, CorruptRunError where run.json is damaged."""
    path = Path(root) / "run.json"
    if not path.is_file():
        raise InputError(f"{root} holds no run.json", "a run directory written by `ine evaluate`", "check the path")
    record = unseal(path)
    if record.get("schema") != SCHEMA:
        raise InputError(f"{path} has schema {record.get('schema')}", f"schema {SCHEMA}", "use the matching release")
    return Run(Path(root), record)


def create(
    root: str | Path,
    config: Mapping[str, Any],
    hashes: Mapping[str, Any],
    command: Sequence[str] = (),
    readings: Mapping[str, Any] | None = None,
) -> Run:
    """Start a run in `root`, or continue the one that is there.

    A directory that was started with another config or other hashes is refused with the fields that differ. `readings`
    (how each prompt list was read) are kept as they were at the start: a file that gives the same items may change.
    """
    root = Path(root)
    fixed = json.loads(provenance.canonical({"config": config, "hashes": hashes}))
    if (root / "run.json").exists():
        run = open_run(root)
        require_same(root, {key: run.record[key] for key in FIXED}, fixed)
        return run
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = {
        "schema": SCHEMA,
        **fixed,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "command": list(command),
        "readings": dict(readings or {}),
    }
    (root / "blocks").mkdir(mode=0o700, exist_ok=True)
    write_atomic(root / "run.json", seal(record))
    return Run(root, record)
