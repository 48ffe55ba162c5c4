"""A byte that changes anywhere in a run directory is found, and its file is named."""

import random
from pathlib import Path

import pytest

from ine_jax.errors import CorruptRunError
from ine_jax.evaluation import evaluate
from ine_jax.evaluation.verify import verify
from ine_jax.storage import runs
from ine_jax.storage.sealed import seal, unseal, write_sums
from tests.support import fakes

CHANCE = random.Random(1)  # noqa: S311


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def faults(root: Path) -> str:
    try:
        return "\n".join(verify(root).faults)
    except CorruptRunError as error:
        return error.given


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    fakes.full(root)
    write_sums(root, ["summary.json"])  # as a report does with what it writes
    return root


def test_a_sound_run_has_no_faults(finished: Path) -> None:
    found = verify(finished)
    assert found.faults == ()
    assert (found.blocks, found.planned, found.images, found.scores, found.derived) == (18, 18, 72, 18, 1)


KINDS = {
    "config": "run.json",
    "image": "blocks/00003/000001.png",
    "rows": "blocks/00003/rows.jsonl",
    "list of sums": "blocks/00003/SHA256SUMS",
    "scores": "scores/corner@1/00003.jsonl",
    "detector": "scores/corner@1/detector.json",
    "metadata": "metadata.jsonl",
    "derived": "summary.json",
    "list of derived": "SHA256SUMS",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_is_found_in_every_kind_of_file(finished: Path, kind: str) -> None:
    path = finished / KINDS[kind]
    data = path.read_bytes()
    places = {0, len(data) - 1, *(CHANCE.randrange(len(data)) for _ in range(6))}
    try:
        for at in places:
            path.write_bytes(flipped(data, at, CHANCE.randrange(8)))
            found = faults(finished)
            assert found, (kind, at)
            assert Path(KINDS[kind]).parent.name in found
    finally:
        path.write_bytes(data)
    assert not faults(finished)


def test_no_bit_of_a_sealed_record_is_overlooked(tmp_path: Path) -> None:
    """It is parsed before it is checked: white space and spelling count too."""
    path = tmp_path / "record.json"
    data = seal({"id": "é", "labels": ["knife"], "rate": 1e-7, "none": None}).encode()
    path.write_bytes(data)
    assert unseal(path)["labels"] == ["knife"]
    for at in range(len(data)):
        for bit in range(8):
            path.write_bytes(flipped(data, at, bit))
            with pytest.raises(CorruptRunError):
                unseal(path)


def test_files_that_are_missing_or_strange(finished: Path) -> None:
    run = runs.open_run(finished)
    cases = [run.block(1) / "000000.png", run.block(1) / "rows.jsonl", finished / "summary.json"]
    cases.append(finished / "scores" / "corner@1" / "detector.json")
    for path in cases:
        data = path.read_bytes()
        path.unlink()
        assert str(path) in faults(finished)
        path.write_bytes(data)
    strangers = [run.block(1) / "more.png", finished / "blocks" / "x", finished / "scores" / "corner@1" / "00099.jsonl"]
    for path in [*strangers, finished / "blocks" / "00099", finished / "scores" / "evil name"]:
        path.mkdir()
        assert str(path.name) in faults(finished)
        path.rmdir()
    assert not faults(finished)


def test_what_is_not_done_yet_is_no_fault(tmp_path: Path) -> None:
    evaluate(fakes.plan(), tmp_path, generate=fakes.generate, hashes=fakes.hashes, shard=(0, 3))
    found = verify(tmp_path)
    assert found.faults == ()
    assert (found.blocks, found.planned, found.scores, found.derived) == (6, 18, 0, 0)
