"""Several processes on this machine that train one run together, over loopback and gloo."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

PATIENCE = 600.0  # seconds until a process is given up
Process = subprocess.Popen[str]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def pod(processes: int, devices: int, *outs: Path, own: dict[int, dict] | None = None, **more: Any) -> Iterator[list]:
    """Start processes with so many devices each; `more` are fields of `pod_child.main`, `own` those of single ones.

    What is left of them at the end is killed.
    """
    port, started = free_port(), []
    base = {name: value for name, value in os.environ.items() if not name.startswith("INE_COMPILE")}
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**base, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    for i in range(processes):
        place = [i, processes, f"127.0.0.1:{port}"] if processes > 1 else None
        words = {"outs": [str(out) for out in outs], "place": place, **more, **(own or {}).get(i, {})}
        command = [sys.executable, str(ROOT / "tests/support/pod_child.py"), json.dumps(words)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **quiet))  # type: ignore[call-overload]
    try:
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            if not process.stderr.closed:
                process.communicate(timeout=PATIENCE)


def ended(processes: Sequence[Process]) -> list[tuple[int, str]]:
    """Exit code and errors of every process."""
    found = []
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE)
        found.append((process.returncode, errors))
    return found


def finish(processes: int, devices: int, *outs: Path, **more: Any) -> None:
    with pod(processes, devices, *outs, **more) as started:
        for code, errors in ended(started):
            assert code == 0, errors[-3000:]


def steps_done(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def wait_for(out: Path, step: int, processes: Sequence[Process]) -> None:
    until = time.monotonic() + PATIENCE
    while steps_done(out) < step and all(each.poll() is None for each in processes):
        assert time.monotonic() < until
        time.sleep(0.01)
