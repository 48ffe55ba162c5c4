"""Every byte of a run directory that changes is found, and so is every file that was put into another's place."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from ine_jax import reporting
from ine_jax.errors import CorruptRunError
from ine_jax.evaluation import Plan, evaluate, finished, score, summarise
from ine_jax.evaluation.summary import add_times
from ine_jax.evaluation.verify import verify
from ine_jax.storage import run_record, runs
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.runs import Run, open_run
from ine_jax.storage.sealed import seal, unseal
from tests.support import fakes
from tests.support.flips import flipped

CHANCE = random.Random(1)  # noqa: S311


def plan() -> Plan:
    return fakes.plan(n=2, detector="corner@1")


def faults(root: Path) -> str:
    try:
        return "\n".join(verify(root).faults)
    except CorruptRunError as error:
        return error.given


class Other(fakes.Corner):
    version = "2"


def small(root: Path) -> Run:
    """A finished run of 6 blocks and 12 images, scored by two detectors, with its report."""
    run = evaluate(plan(), root, generate=fakes.generate, hashes=fakes.hashes)
    score(run, [fakes.Corner(), Other()])
    reporting.build([root], limit=100)  # bytes: the images go into a folder of their own
    write_atomic(root / finished.NOTES.replace("*", "0-of-1"), seal({"scorers": ["corner@1"], "inputs": "..."}))
    return open_run(root)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("run")).root


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_a_sound_run_has_no_faults(whole: Path) -> None:
    found = verify(whole)
    assert found.faults == ()
    assert found.read["images"] == found.read["files of scores"] == 12
    assert (found.read["blocks"], found.read["planned blocks"]) == (6, 6)
    assert found.read["derived files"] > 4


# Nothing in the package reads reports again, and notes on what is scored are made again from the rest.
UNREAD = ("metadata.jsonl", "summary.json", "report.", "report-images/", "report-tables/", "SHA256SUMS", ".scored")


def use(root: Path) -> None:
    """What `ine report` and `ine score` read."""
    run = open_run(root)
    add_times(summarise(run), run)
    score(run, [fakes.Corner()], rescan=True)


def test_one_flip_in_every_file_is_found_by_verify_and_by_what_reads_the_file(copy: Path) -> None:
    files = [path for path in sorted(copy.rglob("*")) if path.is_file() and not path.name.endswith(".lock")]
    assert len(files) > 50
    for path in files:
        data, name = path.read_bytes(), str(path.relative_to(copy))
        at = CHANCE.choice([0, CHANCE.randrange(len(data)), len(data) - 1])
        path.write_bytes(flipped(data, at, CHANCE.randrange(8)))
        assert path.name in faults(copy), (path, at)
        if not name.startswith(UNREAD):
            with pytest.raises(CorruptRunError):
                use(copy)
        path.write_bytes(data)
    assert not faults(copy)


def swap(one: Path, other: Path) -> None:
    between = one.with_name(".between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def exchanged(root: Path, case: str) -> list[str]:
    """Put files into places where they do not belong; the names of those that must be found."""
    first, second = root / "blocks" / "00000", root / "blocks" / "00002"  # attack in two cells: the same items
    scores = root / "scores" / "corner@1"
    match case:
        case "blocks swapped":
            swap(first, second)
            return ["blocks/00000", "blocks/00002"]
        case "block copied":
            shutil.rmtree(second)
            shutil.copytree(first, second)
            return ["blocks/00002"]
        case "scores swapped":
            swap(scores / "00000.jsonl", scores / "00002.jsonl")
            return ["00000.jsonl", "00002.jsonl"]
        case "scores of another detector":
            shutil.copy(root / "scores" / "corner@2" / "00000.jsonl", scores / "00000.jsonl")
            return ["corner@1/00000.jsonl"]
        case "detectors swapped":
            swap(scores, root / "scores" / "corner@2")
            return ["corner@1/detector.json", "corner@2/detector.json"]
        case _:
            shutil.rmtree(second)
            return ["blocks are gone"]


EXCHANGES = ("blocks swapped", "block copied", "scores swapped", "scores of another detector", "detectors swapped", "")


@pytest.mark.parametrize("case", EXCHANGES)
def test_files_in_the_wrong_place_are_found(copy: Path, case: str) -> None:
    names = exchanged(copy, case)
    found = faults(copy)
    assert all(name in found for name in names), found
    with pytest.raises(CorruptRunError):
        summarise(open_run(copy))


def test_a_block_of_another_run_is_found(copy: Path, tmp_path: Path) -> None:
    """Of one with as many blocks of as many items, whose images differ."""
    run = evaluate(plan(), tmp_path / "other", generate=fakes.generate, hashes=lambda _: {"unet": "another"})
    shutil.rmtree(copy / "blocks" / "00000")
    shutil.copytree(run.block(0), copy / "blocks" / "00000")
    (copy / "blocks.json").unlink()  # as in a run that is not finished
    assert "belongs elsewhere" in faults(copy)


def test_a_block_that_is_gone_is_written_again_with_the_same_bytes(copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.suffix != ".lock"}
    shutil.rmtree(copy / "blocks" / "00003")
    with pytest.raises(CorruptRunError, match="run the same `ine evaluate` again"):
        summarise(open_run(copy))
    evaluate(plan(), copy, generate=fakes.generate, hashes=fakes.hashes)
    after = {path: path.read_bytes() for path in before}
    assert {path.name for path in before if before[path] != after[path]} == {"timing.jsonl"}
    assert not faults(copy)


def test_a_missing_block_is_not_written_beside_a_damaged_one(copy: Path) -> None:
    shutil.rmtree(copy / "blocks" / "00003")
    path = copy / "blocks" / "00004" / "SHA256SUMS"
    path.write_bytes(flipped(path.read_bytes(), 5, 1))
    with pytest.raises(CorruptRunError, match="00004"):
        evaluate(plan(), copy, generate=fakes.generate, hashes=fakes.hashes)
    assert not (copy / "blocks" / "00003").exists()


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run as schema 1 had it: no marks, no list of blocks, lines of timing without a hash."""
    with monkeypatch.context() as patch:
        patch.setattr(run_record, "SCHEMA", 1)
        patch.setattr(Run, "_marks", lambda *_: {})
        root = small(tmp_path / "run").root
    for name in ("blocks.json", ".scored-0-of-1.json"):
        (root / name).unlink()
    (root / "timing.jsonl").write_text('{"block":0,"cell":0,"images":2,"seconds":0.5}\n{"blo')
    assert b'"run"' not in (root / "blocks/00000/rows.jsonl").read_bytes()
    return root


def test_older_runs_are_verified_reported_and_continued(old: Path) -> None:
    assert not faults(old)
    summary: Any = summarise(open_run(old))
    assert summary["complete"]
    reporting.build([old])
    assert add_times(summary, open_run(old))["cells"][0]["seconds_per_image"] == 0.25
    shutil.rmtree(old / "blocks" / "00005")
    run = evaluate(plan(), old, generate=fakes.generate, hashes=fakes.hashes)
    score(run, [fakes.Corner(), Other()], rescan=True)
    assert run.blocks() == list(range(6)) and (old / "blocks.json").is_file()
    assert not faults(old)


def test_swapped_blocks_of_older_runs_are_found_by_their_plan(old: Path) -> None:
    swap(old / "blocks" / "00000", old / "blocks" / "00002")
    assert "not the block of this number" in faults(old)
    with pytest.raises(CorruptRunError, match="not the block of this number"):
        summarise(open_run(old))


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


def test_files_that_are_missing_or_strange(copy: Path) -> None:
    run = runs.open_run(copy)
    cases = [run.block(1) / "000000.png", run.block(1) / "rows.jsonl", copy / "summary.json"]
    cases.append(copy / "scores" / "corner@1" / "detector.json")
    for path in cases:
        data = path.read_bytes()
        path.unlink()
        assert str(path) in faults(copy)
        path.write_bytes(data)
    strangers = [run.block(1) / "more.png", copy / "blocks" / "x", copy / "scores" / "corner@1" / "00099.jsonl"]
    for path in [*strangers, copy / "blocks" / "00099", copy / "scores" / "evil name"]:
        path.mkdir()
        assert str(path.name) in faults(copy)
        path.rmdir()
    assert not faults(copy)


def test_what_is_not_done_yet_is_no_fault(tmp_path: Path) -> None:
    evaluate(fakes.plan(), tmp_path, generate=fakes.generate, hashes=fakes.hashes, shard=(0, 3))
    found = verify(tmp_path)
    assert found.faults == ()
    assert found.read["blocks"] == 6 and found.read["planned blocks"] == 18 and not found.read["files of scores"]
    (tmp_path / "scores" / "corner@1").mkdir(parents=True)
    (tmp_path / "scores" / "corner@1" / ".detector.json.123.tmp").touch()  # of a scorer that was killed at once
    assert not verify(tmp_path).faults
