"""A signal ends a command with 75 at once, whatever is running, or is a request to the loop that runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import signals
from tests.faults.shim import COMPILER, compiled
from tests.faults.sweep import prepare, tree
from tests.support.paths import ROOT

STARTING = """
import os, signal, sys, threading, time
from ine_jax import progress
progress.receive_signals(b'{"ok": false}\\n')
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
if sys.argv[1] == "native":
    import hashlib
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes of native code that never returns to Python
with progress.stop_requests() as stop:
    stop.wait(60)
    print("asked", flush=True)
    if sys.argv[1] == "twice":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
print("not reached")
"""


@pytest.mark.parametrize(("kind", "printed"), [("native", ""), ("twice", "asked\n"), ("once", "asked\n")])
def test_signals_are_received_while_the_main_thread_is_in_native_code(kind: str, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTING, kind], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    if kind == "once":  # the loop ended by itself: what follows must not begin
        assert done.returncode == 1
        assert "Interrupted" in done.stderr
        assert "not reached" not in done.stdout
        return
    assert done.returncode == 75
    assert done.stdout == printed + '{"ok": false}\n'
    assert done.stderr == "interrupted\nnext: run the same command again to continue\n"


def test_ignored_signals_stay_ignored() -> None:
    code = "import signal; from ine_jax import progress; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    code += "progress.receive_signals(); signal.raise_signal(signal.SIGINT); print('on')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "on\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals")
    prepare(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "delay", "number"),
    [("evaluate", 0.0, signal.SIGTERM), ("invert", 1.2, signal.SIGINT), ("inspect", 0.3, signal.SIGTERM)],
)
def test_a_signal_during_start_up_gives_75(place: Path, name: str, delay: float, number: signal.Signals) -> None:
    work = place / name
    work.mkdir()
    ended = signals.interrupted(signals.LINES[name], work, delay, number)
    assert (ended.code, ended.lines) == (75, ["interrupted", "next: run the same command again to continue"])
    assert tree(work) == {}


@pytest.mark.slow
def test_three_hundred_signals() -> None:
    assert signals.main(300) == 0


@pytest.mark.thorough
@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
@pytest.mark.parametrize(
    ("k", "number"),
    [
        (12, signal.SIGKILL),
        *(
            pytest.param(k, number, marks=pytest.mark.slow)
            for k in range(0, 80, 5)
            for number in (signal.SIGKILL, signal.SIGTERM)
        ),
    ],
)
def test_a_signal_at_a_write_changes_nothing(place: Path, tmp_path: Path, k: int, number: signal.Signals) -> None:
    """The k-th call that changes a file is the last one; the same command then gives the bytes of a run left alone."""
    for name in ("model", "prompts.jsonl"):
        (tmp_path / name).symlink_to(place / name)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    library = {"LD_PRELOAD": str(compiled(tmp_path)), "FAULT_BELOW": f"{cut}/", "FAULT_AT": str(k)}
    words = signals.LINES["evaluate"]
    child = signals.start(words, cut, {**library, "FAULT_SIGNAL": str(int(number))})
    assert child.communicate(timeout=600)
    assert child.returncode in ((-signal.SIGKILL,) if number == signal.SIGKILL else (0, 75))
    for work in (whole, cut):
        again = signals.start(words, work)
        assert again.communicate(timeout=600)
        assert again.returncode == 0
    assert tree(cut) == tree(whole)
    assert not [path for path in cut.rglob("*.tmp") if os.path.lexists(path)]
