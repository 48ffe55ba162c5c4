"""An inversion killed with SIGKILL at random moments and started again ends with the same bytes as one left alone."""

import multiprocessing
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from tests.support.inversion_child import STEPS, main

PATIENCE = 600.0  # seconds until a child is given up


# Children are forked from a process that has imported everything and computed nothing: a start takes half of the time.
FORKS = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    FORKS.set_forkserver_preload(["tests.support.inversion_child", "ine_jax.inversion.run"])


def start(folder: Path, out: Path, cache: Path) -> BaseProcess:
    child = FORKS.Process(target=main, args=(str(folder), str(out), str(cache)))
    child.start()
    return child


def finish(child: BaseProcess) -> None:
    child.join(PATIENCE)
    assert child.exitcode == 0


def steps_done(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kill_at(child: BaseProcess, out: Path, step: int, delay: float) -> bool:
    """SIGKILL the child `delay` seconds after its log holds `step` lines; whether it was still at work."""
    until = time.monotonic() + PATIENCE
    while child.exitcode is None and steps_done(out) < step and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(delay)
    child.kill()
    child.join(PATIENCE)
    return child.exitcode == -signal.SIGKILL


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
