"""Files of strangers: what every reader once failed on, a few new changes of sound files, and the long campaign.

The long one, about ten minutes: PYTHONPATH=. python -m tests.fuzz.campaign
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from ine_jax.cli import main as cli
from ine_jax.errors import IneError, InputError
from ine_jax.prompts import load
from ine_jax.prompts.items import Item
from ine_jax.storage.runs import open_run
from tests.fuzz.corpus import CORPUS
from tests.fuzz.targets import TARGETS, Target, alarm, changed_files, command
from tests.storage.test_untrusted import special_files
from tests.support.changes import HUGE, INPUTS, Change, Input
from tests.support.paths import ROOT

FEW = ("config", "prompts", "esd-prompts", "embedding", "training", "image", "latents")  # milliseconds each


@pytest.mark.parametrize("name", FEW)
def test_changed_files_are_read_or_rejected(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    read = target.open(tmp_path)

    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(INPUTS)
    def one(changed: Input) -> None:
        read(changed)

    one()


@pytest.mark.parametrize("name", sorted({name for name, _ in CORPUS}))
def test_what_once_failed_is_read_or_rejected(name: str, tmp_path: Path) -> None:
    read = TARGETS[name].open(tmp_path)
    for target, changed in CORPUS:
        if target == name:
            read(changed)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    TARGETS["run"].build(folder)
    return folder / "run"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def all_commands(root: Path) -> set[int]:
    """Exit codes of the commands that read a run; each is a documented one, with at most three lines."""
    words = (("inspect", root), ("verify", root), ("report", root, "--out", root.with_name("out")))
    with alarm():
        return {command(*map(str, line)) for line in words}


@pytest.mark.parametrize("name", ["run.json", "timing.jsonl", "blocks/00000/rows.jsonl", "scores/corner@1/00000.jsonl"])
def test_a_link_to_a_device_or_a_pipe_in_a_run_is_not_read(copy: Path, name: str) -> None:
    for special in ("zeros", "pipe"):
        (copy / name).unlink()
        path = next(path for path in special_files_of(copy.with_name(special)) if path.name == special)
        path.rename(copy / name)
        assert all_commands(copy) <= {0, 2, 5}
        assert 5 in all_commands(copy) or 2 in all_commands(copy)


def special_files_of(folder: Path) -> list[Path]:
    folder.mkdir()
    (folder / "zeros").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    return [folder / "zeros", folder / "pipe"]


ROW_VALUES: tuple[Any, ...] = (HUGE, "\ud800", [])
SCORE_VALUES: tuple[Any, ...] = (HUGE, None)
RUN_VALUES: tuple[Any, ...] = (HUGE, None, {})
TIME_VALUES: tuple[Any, ...] = (HUGE, "x", float("nan"))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("blocks/00000/rows.jsonl", Change(10, 3, None)),
        *(("blocks/00000/rows.jsonl", Change(place, 0, value)) for place in (3, 5, 7) for value in ROW_VALUES),
        *(("scores/corner@1/00000.jsonl", Change(place, 0, value)) for place in (2, 3, 4) for value in SCORE_VALUES),
        *(("run.json", Change(place, 0, value)) for place in (3, 9, 12) for value in RUN_VALUES),
        *(("timing.jsonl", Change(place, 0, value)) for place in (1, 2, 3) for value in TIME_VALUES),
        ("scores/corner@1/detector.json", Change(2, 2, None)),
    ],
)
def test_a_record_with_a_right_hash_and_wrong_fields_is_named(copy: Path, file: str, change: Change) -> None:
    path = copy / file
    for changed, data in changed_files(copy.parent, path, path.read_bytes(), Input(0, True, [change])).items():
        changed.write_bytes(data)
    assert all_commands(copy) <= {0, 2, 5}


def test_one_bad_byte_in_the_times_is_reported(copy: Path) -> None:
    path = copy / "timing.jsonl"
    path.write_bytes(path.read_bytes().replace(b"block", b"bl\xffck", 1))
    assert command("report", str(copy)) == 5


@pytest.mark.parametrize("name", ["²", "٣", "00000x", "1", "0" * 200, "\udcff"])
def test_other_names_among_the_blocks_are_no_blocks(copy: Path, name: str) -> None:
    (copy / "blocks" / name).mkdir()
    assert open_run(copy).blocks() == open_run(copy.parent / "run").blocks()
    assert command("verify", str(copy)) == 5
    assert command("inspect", str(copy)) == 0
    (copy / "blocks" / name).rmdir()


@pytest.mark.parametrize("name", [*(name for name in FEW if name != "training"), "weights"])
def test_readers_open_nothing_but_files(name: str, tmp_path: Path) -> None:
    target = Target(name, TARGETS[name].build, TARGETS[name].use)
    (tmp_path / "sound").mkdir()
    (tmp_path / "special").mkdir()
    files = target.build(tmp_path / "sound")
    for special in special_files(tmp_path / "special"):
        if "\0" in special.name or "\ud800" in special.name or len(special.name) > 255:
            continue
        for path in files:
            path.unlink()
            path.symlink_to(special)
            with pytest.raises(IneError), alarm():
                target.use(tmp_path / "sound", path)


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "--sampler.steps", "9" * 400),
        ("generate", "--seed", "9" * 400),
        ("generate", "--guidance.scale", "9" * 400),
        ("evaluate", "--limit", "9" * 400),
        ("generate", "--sampler.steps", "9" * 5000),
        ("generate", "--prompts", "a cat \ud800"),
        ("generate", "--prompts", "a cat \0"),
        ("generate", "--prompts-file", "a\0b.txt"),
        ("inspect", "a\0b.pt"),
        ("inspect", "\udcff"),
        ("verify", "a\0b"),
        ("report", "a\0b"),
        ("invert", "a\0b.yaml"),
        ("convert", "a\0b.pt", "x.npz", "--to", "npz"),
    ],
)
def test_numbers_and_texts_that_nothing_can_hold(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) <= 3 and "bug" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        f"sampler: {{steps: {'9' * 400}}}",
        "sampler: {steps: 0x" + "f" * 5000 + "}",
        "sampler: {steps: 1:" + "59:" * 3000 + "0}",
        f"guidance: {{scale: {'9' * 400}}}",
        "seed: 0x" + "f" * 5000,
        'prompts: ["a \\ud800"]',
        'prompts: ["a \\0"]',
        'model: "a\\0b"',
    ],
    ids=range(8),
)
def test_configs_with_numbers_and_texts_that_nothing_can_hold(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert cli.main(["generate", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) <= 3 and "bug" not in error


def test_an_item_holds_only_text_that_can_be_written() -> None:
    for fields in ({"prompt": "\ud800"}, {"id": "\udc00"}, {"objects": ("\udfff",)}):
        values: dict[str, Any] = {"id": "a", "prompt": "b", "seed": 0, **fields}
        with pytest.raises(InputError, match="UTF-8 can hold"):
            Item(**values)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
def test_a_limit_ends_the_reading(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"large{suffix}"
    line = {".csv": '"a cat",1\n', ".jsonl": json.dumps({"prompt": "a cat"}) + "\n", ".txt": "a cat\n"}[suffix]
    path.write_text(("prompt,seed\n" if suffix == ".csv" else "") + line * 3_000_000)
    with alarm():
        found = load(path, limit=2)
    assert len(found.items) == 2
    assert found.reading is not None and found.reading.rows == 2


@pytest.mark.slow
def test_ten_thousand_inputs() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.campaign"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr[-3000:]
