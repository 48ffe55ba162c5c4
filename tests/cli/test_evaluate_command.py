"""`ine evaluate` and `ine verify` as commands: finished is finished, another config is rejected, damage is reported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ine_jax import assets
from ine_jax.cli import main as cli
from ine_jax.evaluation import Cell, from_config, images, score
from ine_jax.evaluation import generating as drawing
from ine_jax.evaluation.scoring import Behind
from ine_jax.storage import runs
from ine_jax.storage.runs import Run
from tests.support import fakes
from tests.support.paths import ROOT

CONFIG = """
models: [tiny]
prompts: [attack, benign]
limit: 6
block: 4
guards:
  - {name: cfg, guidance: {scale: 3.0, negative_scale: 4.0}}
negatives: [{words: knife}]
sampler: {steps: 2}
out: run
"""
Capture = pytest.CaptureFixture[str]


class ImageGenerator(drawing.ByBlock):
    """Images of the seeds."""

    def __init__(self) -> None:
        super().__init__(fakes.generate)

    def check(self, cell: Cell, plan: Any) -> int:
        """Everything fits, in two rows, or three with a negative."""
        return 2 + (cell.negative.kind != "none")


class Scorers:
    """Reads the seeds back."""

    def behind(self) -> Behind:
        return Behind([fakes.Corner()])

    def score(self, run: Run, **options: Any) -> tuple[int, int]:
        return score(run, [fakes.Corner()], **options), 0

    @property
    def names(self) -> list[str]:
        return ["corner@1"]

    def finished(self, *_: Any) -> bool:
        return True


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("loaded for nothing")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config, where the models are made up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(images, "ImageGenerator", ImageGenerator)
    monkeypatch.setattr(from_config, "scorers", lambda _: Scorers())
    (tmp_path / "e.yaml").write_text(CONFIG)
    return tmp_path


def call(capsys: Capture, *words: str) -> tuple[int, str, str]:
    code = cli.main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def tree(root: Path) -> dict[str, bytes]:
    files = [p for p in root.rglob("*") if p.is_file() and p.name[0] != "." and p.name != "timing.jsonl"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_a_finished_run_loads_nothing_and_draws_nothing(
    place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, "evaluate", "e.yaml")
    assert (code, out.splitlines()[0]) == (0, "run: 12 images generated, 12 scored")
    assert json.loads((place / "run" / "run.json").read_text())["config"]["detector"] == "corner@1"
    before = tree(place / "run")
    monkeypatch.setattr(images, "ImageGenerator", never)
    monkeypatch.setattr(from_config, "scorers", never)
    monkeypatch.setattr(drawing, "model_record", never)
    code, out, _ = call(capsys, "evaluate", "e.yaml")
    assert (code, out.splitlines()[0]) == (0, "run: 0 images generated, 0 scored")
    assert tree(place / "run") == before


def test_a_dry_run_is_a_table_of_cells_with_the_time_that_is_known(place: Path, capsys: Capture) -> None:
    code, out, err = call(capsys, "evaluate", "e.yaml", "--dry-run")
    assert (code, err, len(out.splitlines())) == (0, "", 6), out
    _, heading, cell, total, shared, writes = out.splitlines()
    assert heading.split() == ["model", "guard", "negative", "items", "missing", "rows/step", "time"]
    assert cell.split()[-3:] == ["12", "3", "-"] and "explicit words" in cell
    assert total == "1 cells, 12 images to generate, time unknown until a block is stored"
    assert "2 steps" in shared and writes == "writes: run (new)"
    assert not (place / "run").exists()
    assert call(capsys, "evaluate", "e.yaml", "--shard", "0/2")[0] == 0
    code, out, _ = call(capsys, "evaluate", "e.yaml", "--dry-run", "--json")
    (entry,) = json.loads(out.splitlines()[-1])["table"]
    times = [line["seconds"] / line["images"] for line in runs.open_run(place / "run").timings()]
    assert 0 < entry["missing"] < 12 and entry["rows"] == 3
    assert entry["seconds"] == pytest.approx(entry["missing"] * sorted(times)[(len(times) - 1) // 2])
    code, _, err = call(capsys, "evaluate", "e.yaml")
    assert f"run: continuing, {12 - entry['missing']} of 12 images are already stored" in err
    assert call(capsys, "evaluate", "e.yaml")[2] == "run: all 12 images are already stored\n"
    code, out, _ = call(capsys, "evaluate", "e.yaml", "--dry-run")
    assert "1 cells, 0 images to generate, already complete" in out


def test_only_cells_that_miss_images_are_checked_again(
    place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Cell] = []

    def check(self: ImageGenerator, cell: Cell, plan: Any) -> int:
        checked.append(cell)
        return 2

    monkeypatch.setattr(ImageGenerator, "check", check)
    (place / "e.yaml").write_text(CONFIG.replace("{words: knife}", "{words: knife}, {name: none}"))
    assert call(capsys, "evaluate", "e.yaml")[0] == 0
    whole = list(checked)
    assert len(whole) > 1
    run = runs.open_run(place / "run")
    lost = run.blocks()[-1]
    shutil.rmtree(run.block(lost))
    checked.clear()
    assert call(capsys, "evaluate", "e.yaml")[0] == 0
    assert checked == [whole[0]]  # the last cell, which was checked first


def test_a_finished_run_does_not_import_jax(place: Path, capsys: Capture) -> None:
    assert call(capsys, "evaluate", "e.yaml")[0] == 0
    code = "import sys; from ine_jax.cli.main import main; main(['evaluate', 'e.yaml']); print('jax' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["run: 0 images generated, 0 scored", "next: ine report run", "False"]


def test_a_finished_run_is_recognized_by_contents_not_by_clock_times(
    place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(capsys, "evaluate", "e.yaml")[0] == 0
    for path in (place / "run").rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.setattr(from_config, "scorers", never)
    assert call(capsys, "evaluate", "e.yaml")[0] == 0
    (place / "run" / ".scored-0-of-1.json").write_text("torn")
    monkeypatch.setattr(from_config, "scorers", lambda _: Scorers())
    assert "0 scored" in call(capsys, "evaluate", "e.yaml")[1]


def test_a_model_whose_files_changed_is_hashed_again(place: Path, capsys: Capture) -> None:
    shutil.copytree(assets.ROOT / "tiny", place / "model")
    settings = place / "model" / "unet" / "config.json"
    (place / "e.yaml").write_text(CONFIG.replace("[tiny]", "[./model]"))
    assert call(capsys, "evaluate", "e.yaml")[0] == 0
    settings.write_text(settings.read_text() + " ")
    code, _, err = call(capsys, "evaluate", "e.yaml")
    assert code == 2
    assert "hashes.models../model.model_id" in err


def test_judges_look_again_where_a_score_is_missing(place: Path, capsys: Capture) -> None:
    assert call(capsys, "evaluate", "e.yaml")[0] == 0
    before = tree(place / "run")
    (place / "run" / "scores" / "corner@1" / "00002.jsonl").unlink()
    assert "0 images generated, 4 scored" in call(capsys, "evaluate", "e.yaml")[1]
    assert tree(place / "run") == before


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_parts_leave_the_bytes_of_one_run(
    place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    assert call(capsys, "evaluate", "e.yaml")[0] == 0
    whole = tree(place / "run")
    (place / "parts").mkdir()
    monkeypatch.chdir(place / "parts")
    (place / "parts" / "e.yaml").write_text(CONFIG)
    for i in order[:2]:
        code, out, _ = call(capsys, "evaluate", "e.yaml", "--shard", f"{i}/3")
        assert (code, out.splitlines()[0]) == (0, f"shard {i}/3 (--shard)")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", str(order[2]))
    monkeypatch.setenv("JOB_COMPLETIONS", "3")
    assert call(capsys, "evaluate", "e.yaml")[1].splitlines()[0] == f"shard {order[2]}/3 (Kubernetes)"
    assert tree(place / "parts" / "run") == whole


CHANGES = {
    "prompts": ("limit: 6", "limit: 5", "config.lists.attack.n: 6 -> 5"),
    "guard": ("negative_scale: 4.0", "negative_scale: 5.0", "guidance.negative_scale: 4.0 -> 5.0"),
    "sampler": ("steps: 2", "steps: 3", "config.sampler.steps: 2 -> 3"),
    "negative": ("words: knife", "words: gun", 'words[0]: "knife" -> "gun"'),
    "model": ("[tiny]", "[tiny-unlearned-0]", "cells[0].model"),
}


@pytest.mark.parametrize("part", CHANGES)
def test_another_config_is_refused_by_its_fields(place: Path, capsys: Capture, part: str) -> None:
    assert call(capsys, "evaluate", "e.yaml")[0] == 0
    before = tree(place / "run")
    old, new, told = CHANGES[part]
    (place / "e.yaml").write_text(CONFIG.replace(old, new))
    code, out, err = call(capsys, "evaluate", "e.yaml")
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 3
    assert tree(place / "run") == before


def test_a_directory_with_other_files_is_left_alone(place: Path, capsys: Capture) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "notes.txt").write_text("x")
    for more in ([], ["--dry-run"]):
        assert cli.main(["evaluate", "e.yaml", "--out", "mine", *more]) == 2
        assert "folder mine holds other files" in capsys.readouterr().err
    assert [path.name for path in (place / "mine").iterdir()] == ["notes.txt"]


def test_verify_ends_with_5_and_names_the_faults(place: Path, capsys: Capture) -> None:
    assert call(capsys, "evaluate", "e.yaml")[0] == 0
    code, out, _ = call(capsys, "verify", "run", "--json")
    line = "run: run directory, 4 blocks, 4 planned blocks, 12 images, 4 files of scores, 0 derived files: no faults"
    assert (code, out.splitlines()[0]) == (0, line)
    assert json.loads(out.splitlines()[-1])["faults"] == []
    damaged = ["blocks/00001/000000.png", "blocks/00002/rows.jsonl", "scores/corner@1/detector.json"]
    for name in [*damaged, "scores/corner@1/00000.jsonl"]:
        data = (place / "run" / name).read_bytes()
        (place / "run" / name).write_bytes(data[:20] + bytes([data[20] ^ 4]) + data[21:])
    code, out, err = call(capsys, "verify", "run", "--json")
    assert code == 5
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(name in lines[0] for name in damaged)
    assert "and 1 more" in lines[0]
    assert "4 planned blocks, 12 images" in lines[1]
    assert json.loads(out.splitlines()[-1])["exit_code"] == 5
    (place / "run" / "run.json").write_text("{}")
    assert call(capsys, "verify", "run")[0] == 5
    assert call(capsys, "verify", "nowhere")[0] == 2
