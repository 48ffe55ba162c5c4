"""`ine evaluate` on the bundled model, killed with signal 9 at random moments and started again.

    python tests/support/kill_soak.py [KILLS] [IMAGES]      prints what was found, and how long a finished run takes

One undisturbed run and one killed KILLS times (20) over IMAGES (200) images must end in the same bytes.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ine_jax.evaluation import read_items
from tests.support.paths import ROOT

LONGEST = 12.0  # seconds that a start lives at most: longer, and most of the time is spent without a kill
LISTS = ("attack", "benign", "explicit", "generic", "list")  # 2,000 rows
CLOCKS = (  # what holds seconds
    *("timing.jsonl", "report.html", "report.md", "report.csv", "SHA256SUMS"),
    *("cells.tex", "cells.csv", "controls.tex", "controls.csv"),
)


def command(images: int, block: int, *more: str) -> list[str]:
    """An evaluation of at least `images` images: one cell over the first rows of all bundled lists."""
    rows = [len(read_items(name)) for name in LISTS]
    limit = next(limit for limit in range(1, max(rows) + 1) if sum(min(limit, n) for n in rows) >= images)
    settings = ["--limit", str(limit), "--block", str(block), "--out", "run", "--prompts", *LISTS]
    sampler = ["--sampler.steps", "1", "--sampler.batch", "10", "--sampler.scheduler", "ddim"]
    return [sys.executable, "-m", "ine_jax.cli", "evaluate", *settings, *sampler, *more]


def environment(folder: Path) -> dict[str, str]:
    """Compiled programs are kept, so that a start takes seconds; the checkout may be worked on meanwhile."""
    own = {"PYTHONPATH": str(ROOT), "INE_COMPILE_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    return {**os.environ, **own, "HF_HUB_OFFLINE": "1", "GIT_DIR": "/nowhere"}


def run(folder: Path, words: Sequence[str], name: str) -> float:
    """Run a command to its end in folder/name; returns the seconds that it took."""
    begin = time.monotonic()
    (folder / name).mkdir(exist_ok=True)
    done = subprocess.run(words, cwd=folder / name, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    return time.monotonic() - begin


def kill_once(folder: Path, words: Sequence[str], name: str, seconds: float) -> bool:
    """Start the command and kill it after so many seconds; whether it was still running."""
    (folder / name).mkdir(exist_ok=True)
    with subprocess.Popen(
        words, cwd=folder / name, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.wait(seconds) == 0
            return False
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return True


def tree(root: Path) -> dict[str, bytes]:
    """Every byte of a run directory but hidden files and those that hold clock times."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name[0] != "." and path.name not in CLOCKS]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def records(root: Path) -> list[tuple[int, str, str]]:
    """(cell, list, id) of every image that has a record and a score, in the order of the blocks."""
    from ine_jax.storage import runs

    opened = runs.open_run(root)
    (judge,) = opened.scorers()
    found = []
    for k in opened.blocks():
        rows, scores = opened.rows(k), opened.scores(judge, k)
        assert scores is not None
        assert [row["id"] for row in rows] == [line["id"] for line in scores]
        found += [(row["cell"], row["list"], row["id"]) for row in rows]
    return found


def soak(folder: Path, images: int, block: int, kills: int, seed: int = 0) -> dict[str, float]:
    """Assert that nothing is lost, doubled or changed by `kills` kills; returns how long things took."""
    chance, words = random.Random(seed), command(images, block)  # noqa: S311
    whole = run(folder, words, "whole")  # the only one that compiles
    killed, alive = 0, 0
    while killed < kills:
        if kill_once(folder, words, "killed", chance.uniform(0.1, 1.0) * min(whole, LONGEST)):
            killed += 1
        else:  # ended by itself: kept for the comparison, and started anew, so that there is work for every kill
            alive += 1
            (folder / "killed" / "run").rename(folder / f"ended-{alive}")
    run(folder, words, "killed")
    second = run(folder, words, "killed")
    ended = [folder / f"ended-{i + 1}" for i in range(alive)]
    roots = [folder / "whole" / "run", folder / "killed" / "run", *ended]
    run(folder, [sys.executable, "-m", "ine_jax.cli", "report", str(roots[0])], "whole")
    for root in roots[1:]:
        run(folder, [sys.executable, "-m", "ine_jax.cli", "report", str(root)], "whole")
        assert (root / "summary.json").is_file()
        assert tree(root) == tree(roots[0])
        assert not list(root.rglob("*.tmp"))
        found = records(root)
        assert len(found) == len(set(found)) >= images
    return {
        "kills": killed,
        "images": len(found),
        "finished before the kill": alive,
        "a whole run, s": whole,
        "a finished run, s": second,
    }


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as place:
        numbers = [int(word) for word in sys.argv[1:]]
        result = soak(Path(place), numbers[1] if len(numbers) > 1 else 200, 10, numbers[0] if numbers else 20)
        sys.stdout.write(json.dumps(result) + "\n")
