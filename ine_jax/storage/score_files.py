"""The files of a block's scores: lines of verdicts, whose last line seals them, and the vectors of some metrics."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ine_jax.storage import schema, untrusted
from ine_jax.storage.npy import parse_npy
from ine_jax.storage.records import VerdictLine
from ine_jax.storage.sealed import WRONG, corrupt, jsonl, parse_jsonl

MAX_VECTORS = 2 << 30  # bytes of one block's


def encode(lines: Sequence[VerdictLine], marks: Mapping[str, object]) -> bytes:
    """The bytes of a file of scores: a line per verdict, then `marks` with the sha256 of all that."""
    body = jsonl(lines).encode()
    return body + _ending(body, marks)


def decode(path: Path) -> tuple[list[VerdictLine], dict[str, object]]:
    """Verdicts and marks of a file of scores. CorruptRunError where a byte was changed."""
    data = untrusted.read(path, untrusted.MAX_RECORDS, corrupt)
    start = data[:-1].rfind(b"\n") + 1
    body, last = data[:start], parse_jsonl(data[start:], path)
    marks = {name: value for name, value in (last[0] if last else {}).items() if name != "sha256"}
    if data[start:] != _ending(body, marks):
        raise corrupt(path, WRONG)
    return schema.records(VerdictLine, parse_jsonl(body, path), path), marks


def _ending(body: bytes, marks: Mapping[str, object]) -> bytes:
    signed = body + jsonl([marks]).encode() if marks else body
    return jsonl([{**marks, "sha256": hashlib.sha256(signed).hexdigest()}]).encode()


def encode_vectors(vectors: np.ndarray) -> bytes:
    """Bytes of a .npy file of float32 vectors; the same bytes for the same numbers."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(vectors, "<f4"), allow_pickle=False)
    return buffer.getvalue()


def decode_vectors(path: Path, digest: object) -> np.ndarray:
    """The vectors in a .npy file, checked against its sha256."""
    data = untrusted.read(path, MAX_VECTORS, corrupt)
    if hashlib.sha256(data).hexdigest() != digest:
        raise corrupt(path, WRONG)
    try:
        return parse_npy(data)
    except ValueError as error:
        raise corrupt(path, error) from error
