"""SIGTERM and SIGINT at random moments of a command, and SIGKILL or SIGTERM at its k-th write.

python -m tests.faults.signals [COUNT]      COUNT signals, spread over all commands; prints the codes by command
"""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.faults.sweep import COMMANDS, PROGRESS, SAMPLER, prepare
from tests.support.paths import ROOT

FAMILY = str(ROOT / "ine_jax/assets/tiny/embeddings/weapon-tiny.safetensors")
# Every command; those that write are the ones of the sweep.
LINES: dict[str, list[str]] = {
    **{name: words for name, (_, words) in COMMANDS.items()},
    "verify": ["verify", "run"],
    "inspect": ["inspect", FAMILY, "--base", "tiny"],
    "benchmarks": ["benchmarks", "list"],
    "demo": ["demo", "--out", "demo", "--items", "2"],
    "bench": ["bench", "sampling", "--model", "../model", *SAMPLER, "--baselines", "--out", "bench.json"],
}


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a child ended: code, its lines on standard error but those of progress, and seconds after the signal."""

    code: int
    lines: list[str]
    seconds: float


def environment(**more: str) -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    return {**os.environ, **own, "GIT_DIR": "/nowhere", "INE_COMPILE_CACHE": "off", **more}


def start(words: Sequence[str], place: Path, more: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start `ine`; a test that runs in the background ignores SIGINT, and so would its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "ine_jax.cli", *words],
            cwd=place,
            env=environment(**more or {}),
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def handles_signals(child: "subprocess.Popen[str]") -> bool:
    """Wait until the program's first lines have run: before them, the system's default ends the process."""
    while child.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{child.pid}/status").read_text()
            if int(status.split("SigCgt:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1:
                return True
        time.sleep(0.001)
    return False


def interrupted(words: Sequence[str], place: Path, delay: float, number: signal.Signals) -> Ended:
    """Run a command and send it a signal so many seconds after it handles signals."""
    child = start(words, place)
    if handles_signals(child):
        time.sleep(delay)
        child.send_signal(number)
    begin = time.monotonic()
    _, errors = child.communicate(timeout=600)
    lines = [line for line in errors.splitlines() if not PROGRESS.search(line)]
    return Ended(child.returncode, lines, time.monotonic() - begin)


def fits(ended: Ended) -> bool:
    """75, or 0 of a command that was finished; at most three lines and no traceback."""
    return ended.code in (0, 75) and len(ended.lines) <= 3 and not any("Traceback" in line for line in ended.lines)


def main(count: int, seed: int = 0) -> int:
    """Print how each command ended under its share of `count` signals."""
    chance = random.Random(seed)  # noqa: S311
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        prepare(root)
        (root / "there").mkdir()
        evaluated = start(LINES["evaluate"], root / "there")
        assert evaluated.wait() == 0, evaluated.stderr
        codes: dict[str, Counter[int]] = {name: Counter() for name in LINES}
        slowest = 0.0
        usual = dict.fromkeys(LINES, 4.0)
        for i in range(count):
            name = list(LINES)[i % len(LINES)]
            place = root / "there" if name in ("score", "report", "verify") else root / f"{name}-{i}"
            place.mkdir(exist_ok=True)
            number = (signal.SIGTERM, signal.SIGINT)[i // len(LINES) % 2]
            ended = interrupted(LINES[name], place, chance.uniform(0, usual[name]), number)
            codes[name][ended.code] += 1
            if ended.code == 0:
                usual[name] *= 0.8
            slowest = max(slowest, ended.seconds if ended.code == 75 else 0.0)
            if not fits(ended):
                broken += 1
                print(json.dumps({"command": name, **dataclasses.asdict(ended)}), flush=True)  # noqa: T201
    total = {name: dict(found) for name, found in codes.items()}
    print(json.dumps({"signals": count, "broken": broken, "slowest": slowest, "codes": total}))  # noqa: T201
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
