"""Runs on several processes: one result whatever the processes, one end whatever happens to one of them.

python -m pytest -n0 -m slow tests/pods        all of it: four processes, 20 kills, real models (half an hour)
"""

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.pods import ended, finish, pod, steps_done, wait_for

TIMEOUT = 5.0  # seconds, of the watch
LONGEST = 60.0  # seconds that a survivor may need on a busy machine: time-out, start of Python, a checkpoint


def say(line: str) -> None:
    """What a slow test measures, for `-s`."""
    sys.stdout.write(f"{line}\n")


def result(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("vectors.bin", "log.jsonl", "config.json")}


def changes(out: Path) -> list[tuple[int, int]]:
    """Processes before and after each change of the topology."""
    path = out / "topology.jsonl"
    lines = map(json.loads, path.read_text().splitlines() if path.exists() else ())
    return [(line["from"]["processes"], line["to"]["processes"]) for line in lines if line["topology_changed"]]


@pytest.mark.thorough
def test_two_processes_stop_as_one_name_the_lost_one_and_end_as_one_process(tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    with pod(2, 1, out, steps=4000, timeout=TIMEOUT, pace=0.02) as started:
        wait_for(out, 3, started)
        started[1].send_signal(signal.SIGTERM)
        stopped = ended(started)
    assert [code for code, _ in stopped] == [75, 75], stopped
    words = {next(line for line in errors.splitlines() if "stopped after step" in line) for _, errors in stopped}
    assert len(words) == 1  # the same step
    done = steps_done(out)
    assert f"stopped after step {done} of 4000" in words.pop()
    assert str(done) in {path.name for path in (out / "checkpoints").iterdir()}

    steps = done + 60
    with pod(2, 1, out, steps=steps, timeout=TIMEOUT, pace=0.05) as started:
        wait_for(out, done + 3, started)
        started[1].kill()
        begin = time.monotonic()
        (code, errors), _ = ended(started)
    assert code == 75 and "process 1 of 2" in errors and "has not answered" in errors, errors
    assert time.monotonic() - begin < LONGEST

    finish(1, 2, out, whole, steps=steps, count=True)
    assert result(out) == result(whole)
    assert changes(out) == [(2, 1)] and changes(whole) == []
    program = (tmp_path / "program.txt").read_text()
    assert program.count(" all-reduce(") == 1 and "all-gather" not in program and "permute" not in program


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["toy", "invert", "erase"])
def test_the_number_of_processes_changes_no_bit(tmp_path: Path, tiny_folder: Path, kind: str) -> None:
    """Four devices in 1, 2 and 4 processes; another number of devices changes the loss by rounding."""
    more = {"kind": kind, "model": str(tiny_folder), "cache": str(tmp_path / "cache"), "timeout": 60.0, "steps": 8}
    for processes, devices in ((1, 1), (1, 4), (2, 2), (4, 1)):
        finish(processes, devices, tmp_path / f"{processes}x{devices}", **more)
    name = {"toy": "vectors.bin", "invert": "thing.safetensors", "erase": "unet.safetensors"}[kind]
    whole = tmp_path / "1x4"
    for other in ("2x2", "4x1"):
        for file in (name, "log.jsonl"):
            assert (tmp_path / other / file).read_bytes() == (whole / file).read_bytes(), f"{other}: {file}"
    one, four = (
        [json.loads(line)["loss"] for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("1x1", "1x4")
    )
    np.testing.assert_allclose(one, four, rtol=1e-3)


@pytest.mark.slow
def test_one_of_four_is_asked_to_stop(tmp_path: Path) -> None:
    with pod(4, 1, tmp_path / "out", steps=4000, timeout=20.0) as started:
        wait_for(tmp_path / "out", 5, started)
        started[2].send_signal(signal.SIGTERM)
        begin = time.monotonic()
        found = ended(started)
        seconds = time.monotonic() - begin
    assert [code for code, _ in found] == [75] * 4, found
    assert len({line for _, text in found for line in text.splitlines() if "stopped after step" in line}) == 1
    assert seconds < LONGEST
    say(f"all four ended {seconds:.1f} s after the signal")


@pytest.mark.slow
def test_twenty_kills_of_one_of_four(tmp_path: Path) -> None:
    """`kill -9` of a random process at a random moment, 20 times; the end is that of an undisturbed run."""
    out, whole, chance, slowest = tmp_path / "out", tmp_path / "whole", np.random.default_rng(4), 0.0
    steps, kills = 600, 20
    for i in range(kills):
        victim, timeout = int(chance.integers(4)), 10.0
        with pod(4, 1, out, steps=steps, timeout=timeout, pace=0.02) as started:
            wait_for(out, steps_done(out) + int(chance.integers(1, 9)), started)
            time.sleep(chance.uniform(0.0, 0.2))
            started[victim].kill()
            begin = time.monotonic()
            found = ended(started)
            seconds = time.monotonic() - begin
        slowest = max(slowest, seconds)
        say(f"kill {i}: process {victim} at step {steps_done(out)}, the others ended after {seconds:.1f} s")
        for j, (code, errors) in enumerate(found):
            assert code == (-signal.SIGKILL if j == victim else 75), (j, code, errors[-2000:])
            assert j == victim or f"process {victim} of 4" in errors, errors[-2000:]
        assert seconds < timeout + LONGEST
    assert steps_done(out) < steps
    finish(4, 1, out, steps=steps, timeout=60.0)
    finish(1, 4, whole, steps=steps)
    assert result(out) == result(whole)
    assert changes(out) == []
    say(f"{kills} kills; the slowest survivor ended after {slowest:.1f} s")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("how", ["paused", "stuck"])
def test_a_process_that_does_nothing_is_named(tmp_path: Path, victim: int, how: str) -> None:
    """Paused: no thread of it runs. Stuck: its main thread sleeps forever, its heart goes on beating."""
    own = {victim: {"stuck_at": 6}} if how == "stuck" else {}
    with pod(2, 1, tmp_path / "out", steps=4000, timeout=TIMEOUT, pace=0.01, own=own) as started:
        wait_for(tmp_path / "out", 5, started)
        if how == "paused":
            started[victim].send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        code, errors = ended([started[1 - victim]])[0]
        seconds = time.monotonic() - begin
        started[victim].kill()
    assert code == 75 and f"process {victim} of 2" in errors, errors
    assert ("stuck" if how == "stuck" else "not answered") in errors
    assert seconds < LONGEST
