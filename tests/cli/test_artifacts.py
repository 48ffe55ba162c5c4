"""`ine verify` on what is no run: receipts of a demo, reports, and paths that hold nothing with a hash."""

import json
from pathlib import Path

import pytest

from ine_jax import reporting
from ine_jax.cli import main as cli
from ine_jax.cli import receipt
from ine_jax.cli.artifacts import verified
from ine_jax.errors import CorruptRunError, InputError
from ine_jax.evaluation import evaluate, score
from ine_jax.storage.provenance import file_hash
from tests.support import fakes
from tests.support.flips import flip, flipped


def test_every_flip_in_a_receipt_is_found(tmp_path: Path) -> None:
    (tmp_path / "weapon.safetensors").write_bytes(b"learned")
    receipt.write(tmp_path, "0123", tmp_path / "weapon.safetensors")
    assert receipt.read(tmp_path) == ("0123", tmp_path / "weapon.safetensors")
    data = (tmp_path / receipt.NAME).read_bytes()
    for at in range(len(data)):
        (tmp_path / receipt.NAME).write_bytes(flipped(data, at, at % 8))
        with pytest.raises(CorruptRunError):
            receipt.read(tmp_path)


def test_receipts_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weapon.safetensors"
    path.write_bytes(b"learned")
    (tmp_path / receipt.NAME).write_text(json.dumps({"key": "0123", "file": path.name, "sha256": file_hash(path)}))
    assert receipt.read(tmp_path) == ("0123", path)
    flip(path)
    with pytest.raises(CorruptRunError, match="weapon"):
        receipt.read(tmp_path)
    path.unlink()
    assert receipt.read(tmp_path) is None  # not finished


def test_a_demo_is_its_run_its_inversions_and_its_report(tmp_path: Path) -> None:
    run = evaluate(fakes.plan(n=2), tmp_path / "evaluation", generate=fakes.generate, hashes=fakes.hashes)
    score(run, [fakes.Corner()])
    inversion = tmp_path / "inversion" / "tiny-seed-0"
    inversion.mkdir(parents=True)
    (inversion / "config.json").write_text('{"concepts": []}')
    reporting.build([tmp_path], tmp_path / "elsewhere")
    reporting.build([tmp_path])
    assert verified(tmp_path).kind == "demo" and not verified(tmp_path).faults
    assert verified(tmp_path / "elsewhere").kind == "report" and not verified(tmp_path / "elsewhere").faults
    for name in ("evaluation/blocks/00001/000001.png", "report.html", "elsewhere/summary.json"):
        before = flip(tmp_path / name)
        found = verified(tmp_path / "elsewhere" if "elsewhere" in name else tmp_path)
        assert [fault.split(": ")[0] for fault in found.faults] == [str(tmp_path / name)]
        (tmp_path / name).write_bytes(before)


def test_what_has_no_hash_is_not_called_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("...")
    for path in (tmp_path / "gone", tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match=r"no such file|nothing with hashes|it has no hash"):
            verified(path)
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
