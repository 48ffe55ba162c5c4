"""Hostile and damaged files: exit code 2, at most three lines, nothing executed, nothing written."""

import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ine_jax.cli import main as cli
from tests.support.cases import sample
from tests.support.damaged_files import damaged_files
from tests.support.hostile_files import CANARY, hostile_pickles

HOSTILE = hostile_pickles()
FORBIDDEN: tuple[str, ...] = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "ctypes.dlopen",
)
FORBIDDEN += ("pickle.find_class", "shutil.rmtree", "webbrowser.open", "code.__new__", "exec")
ANNOTATIONS = re.compile(r"/(beartype|jaxtyping)/|/(typing|dataclasses)\.py$")
Capture = pytest.CaptureFixture[str]


class Watch:
    """What the interpreter itself reports while a file is read: programs, connections, compiled code, written files."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[Any] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        writes = event == "open" and isinstance(args[2], int) and args[2] & 0o3103  # write, create or truncate
        # Not the file's doing: modules of the library that are imported late, and annotations that are evaluated.
        late = event == "exec" and (
            args[0].co_filename.endswith(".py") or ANNOTATIONS.search(sys._getframe(1).f_code.co_filename) is not None
        )
        if (event in FORBIDDEN and not late) or writes:
            self.events.append((event, str(args)[:200]))


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    watching = Watch()
    sys.addaudithook(watching)  # stays for good, and sleeps
    yield watching
    watching.on = False


@pytest.fixture
def refused(watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Callable[..., None]:
    """Run a command on a file and fail unless it is refused as promised."""
    monkeypatch.chdir(tmp_path)
    cli.main(["convert", "absent", "x.npy", "--to", "npy"])  # whatever is imported late is imported now
    cli.main(["inspect", "absent.pt"])
    capsys.readouterr()

    def run(label: str, name: str, raw: bytes, inspect: bool = False) -> None:
        Path(name).write_bytes(raw)
        words = ["inspect", name] if inspect else ["convert", name, "out.safetensors", "--to", "native"]
        watch.events, watch.on = [], True
        code = cli.main(words)
        watch.on = False
        out, err = capsys.readouterr()
        assert code == 2, f"{label}: exit code {code}: {out}{err}"
        assert not out and 0 < len(err.splitlines()) <= 3, f"{label}: {err}"
        assert "Traceback" not in err and "\x1b" not in err and "\u202e" not in err, f"{label}: {err}"
        assert not watch.events, f"{label}: {watch.events}"
        assert [entry.name for entry in tmp_path.iterdir()] == [name], label
        assert not Path(CANARY).exists()
        Path(name).unlink()

    return run


def test_there_are_as_many_as_promised() -> None:
    assert len(HOSTILE) >= 300
    assert len(damaged_files()) == 2000
    assert len({raw for _, _, raw in HOSTILE}) >= 300


def test_the_watch_notices_what_a_naive_reader_does(watch: Watch, tmp_path: Path) -> None:
    watch.events, watch.on = [], True
    pickle.loads(b"cos\ngetcwd\n)R.")  # noqa: S301  harmless, and what must never happen elsewhere
    (tmp_path / "x").write_text("x")
    watch.on = False
    assert [event for event, _ in watch.events] == ["pickle.find_class", "open"]


@pytest.mark.parametrize("part", sample(range(4), (0,)))
def test_a_sample_of_hostile_pickles_is_refused(refused: Callable[..., None], part: int) -> None:
    for number, file in enumerate(HOSTILE[part * 3 :: 12]):
        refused(*file, inspect=number % 2 == 1)


def test_a_sample_of_damaged_files_is_refused(refused: Callable[..., None]) -> None:
    for file in damaged_files(share=0.03, seed=1):
        refused(*file)


@pytest.mark.slow
def test_every_hostile_pickle_is_refused_by_both_commands(refused: Callable[..., None]) -> None:
    for file in HOSTILE:
        refused(*file)
        refused(*file, inspect=True)


@pytest.mark.slow
def test_two_thousand_damaged_files_are_refused(refused: Callable[..., None]) -> None:
    for file in damaged_files():
        refused(*file)
