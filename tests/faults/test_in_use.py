"""One lock for a directory: the second process gets an error, and nobody's files are removed."""

import os
import shutil
import subprocess
import sys
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from ine_jax.cli import main as cli
from ine_jax.errors import InputError
from ine_jax.storage.atomic import _temporary, atomic_folder, clear, lock, write_atomic
from tests.faults import signals
from tests.faults.sweep import COMMANDS, prepare, tree
from tests.support.locks import elsewhere_locked

WRITERS = ("evaluate", "score", "report", "verify", "generate", "invert", "unlearn")
SHARING = ("evaluate", "score", "report", "verify")  # commands of a run directory


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in-use")
    prepare(folder)
    return folder


def test_every_command_holds_the_lock(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "work").mkdir()
    monkeypatch.chdir(place / "work")
    for name in WRITERS:
        if name in ("generate", "invert", "unlearn"):
            shutil.rmtree("run", ignore_errors=True)
        with elsewhere_locked(Path("run")):
            code = cli.main(signals.LINES[name])
            if name == "evaluate":  # the others need a run
                assert not Path("run/run.json").exists()
        assert (code, "run is in use by another process" in capsys.readouterr().err) == (2, True), name
        if name == "evaluate":
            assert cli.main(signals.LINES[name]) == 0


def test_shards_share_a_directory_and_exclude_everyone_else(tmp_path: Path) -> None:
    with elsewhere_locked(tmp_path, "0-of-2"):
        with lock(tmp_path, part="1-of-2"):
            pass
        for part in ("0-of-2", ""):
            with pytest.raises(InputError, match="in use"), lock(tmp_path, part=part):
                pass
    with lock(tmp_path), lock(tmp_path):  # of one command, which calls several writers
        pass
    with lock(tmp_path, reading=True), lock(tmp_path / "new", reading=True):
        pass
    assert not (tmp_path / "new").exists()


def test_temporary_files_of_others_are_left_alone(tmp_path: Path) -> None:
    mine, host = _temporary(tmp_path / "a").name, _temporary(tmp_path / "a").name.split(".")[2].split("-")[0]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive, gone, remote = f".a.{host}-{os.getppid()}.tmp", f".a.{host}-{dead.pid}.tmp", ".a.00000000-1.tmp"
    for name in (mine, alive, gone, remote, ".a.tmp"):
        (tmp_path / name).write_text("")
    clear(tmp_path)
    assert not (tmp_path / gone).exists()
    clear(tmp_path, alone=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine, alive, ".a.tmp"])


def test_new_files_and_folders_replace_nothing(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "first", new=True)
    with pytest.raises(FileExistsError):
        write_atomic(tmp_path / "a", "second", new=True)
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("")
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "f") as folder:
        (folder / "y").write_text("")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["a", "f", "f/x"]


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("pair", [*combinations_with_replacement(SHARING, 2), *((n, n) for n in COMMANDS)])
def test_pairs_of_commands_in_one_directory(place: Path, tmp_path: Path, pair: tuple[str, str], times: int) -> None:
    """Two, then four processes at once: each does its work or says that the directory is in use."""
    for name in ("model", "prompts.jsonl", "images", "word.safetensors"):
        (tmp_path / name).symlink_to(place / name)
    work = tmp_path / "work"
    work.mkdir()
    if set(pair) & {"score", "report", "verify"}:
        first = signals.start(signals.LINES["evaluate"], work)
        first.communicate(timeout=600)
    children = [signals.start(signals.LINES[name], work) for name in pair * times]
    for child in children:
        _, errors = child.communicate(timeout=600)
        refused = "in use by another process" in errors or "exists" in errors or "not empty" in errors
        assert child.returncode == 0 or (child.returncode == 2 and refused), errors
    assert tree(work)
