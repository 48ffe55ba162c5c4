"""done.json of a demo's inversion: what it was made from, and the hash of its embedding."""

from pathlib import Path
from typing import NamedTuple

from ine_jax.errors import CorruptRunError, InputError
from ine_jax.storage import schema
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.provenance import file_hash
from ine_jax.storage.records import ReceiptRecord
from ine_jax.storage.sealed import WRONG, corrupt, has_hash, seal, unseal
from ine_jax.storage.weight_files import read_json

NAME = "done.json"
_OLD = {"key", "file", "sha256"}  # before the record was sealed; its sha256 is the embedding's


class Receipt(NamedTuple):
    """Hash of settings, weights and images; the embedding's file."""

    key: str
    path: Path


def write(folder: Path, key: str, embedding: Path) -> None:
    """Note that the inversion is finished."""
    write_atomic(folder / NAME, seal({"key": key, "file": embedding.name, "embedding": file_hash(embedding)}))


def read(folder: Path) -> Receipt | None:
    """The receipt of an inversion, if it and its embedding are there. CorruptRunError where one was changed."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        record = schema.record(ReceiptRecord, unseal(path), path)
        embedding, digest = folder / Path(record["file"]).name, record["embedding"]
    except CorruptRunError:
        old = _old(path)
        if old is None:
            raise
        record = {"key": old["key"], "file": old["file"], "embedding": old["sha256"]}
        embedding, digest = folder / Path(old["file"]).name, old["sha256"]
    if not embedding.is_file():
        return None
    if not has_hash(embedding, digest):
        raise corrupt(embedding, WRONG)
    return Receipt(record["key"], embedding)


def _old(path: Path) -> dict[str, str] | None:
    try:
        record = read_json(path)
    except InputError:
        return None
    plain = set(record) == _OLD
    return record if plain and all(isinstance(value, str) for value in record.values()) else None
