"""An inversion killed with SIGKILL at random moments and started again ends with the same bytes as one left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.inversion_child import STEPS
from tests.support.paths import ROOT

PATIENCE = 600.0  # seconds until a child is given up


def start(folder: Path, out: Path, cache: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment.pop("INE_COMPILE_CACHE", None)
    command = [sys.executable, str(ROOT / "tests/support/inversion_child.py"), str(folder), str(out), str(cache)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)


def finish(child: subprocess.Popen[bytes]) -> None:
    _, errors = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, errors.decode()[-2000:]


def steps_done(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kill_at(child: subprocess.Popen[bytes], out: Path, step: int, delay: float) -> bool:
    """SIGKILL the child `delay` seconds after its log holds `step` lines; whether it was still at work."""
    until = time.monotonic() + PATIENCE
    while child.poll() is None and steps_done(out) < step and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(delay)
    alive = child.poll() is None
    if alive:
        child.send_signal(signal.SIGKILL)
    child.communicate(timeout=PATIENCE)
    return alive and child.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The directory of a run that was left alone, and the compile cache that it filled."""
    root = tmp_path_factory.mktemp("undisturbed")
    finish(start(tiny_folder, root / "out", root / "cache"))
    return root / "out", root / "cache"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kills", "seed"), [(1, 0), *(pytest.param(10, seed, marks=pytest.mark.slow) for seed in range(20))]
)
def test_killed_at_random_moments(
    tiny_folder: Path, tmp_path: Path, undisturbed: tuple[Path, Path], kills: int, seed: int
) -> None:
    whole, cache = undisturbed
    out, chance, landed = tmp_path / "out", np.random.default_rng(seed), 0
    for left in range(kills, 0, -1):
        done = steps_done(out)
        step = done + int(chance.integers(1, max(2, (STEPS - 15 - done) // left)))
        # Some steps write a checkpoint (every third); the delay decides what the signal hits.
        landed += kill_at(start(tiny_folder, out, cache), out, step, chance.uniform(0.0, 0.03))
    assert landed == kills
    finish(start(tiny_folder, out, cache))
    for name in ("thing.safetensors", "log.jsonl", "config.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert steps_done(out) == STEPS
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["54", "57", "60"]
    assert not (out / "damaged").exists()
