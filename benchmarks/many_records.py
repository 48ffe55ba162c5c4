"""A run of many tiny records: what a block costs to append at the start and at the end, and what a summary costs.

    PYTHONPATH=. python benchmarks/many_records.py [--records 100000] [--block 50] [--cells 10] [--folder DIR]

Draws images of 2 x 2 to 8 x 8 pixels of noise through `ine evaluate`'s own loop, judges them with a detector that reads
one pixel and a metric that compares with the reference, and summarises and builds the whole report in processes of
their own: after a tenth of the records and after all of them. Prints seconds per appended block (the mean of the first
and of the last hundred), seconds and peak resident memory of each summary and report. No model, no network. The folder
is removed unless it was named; one that holds a finished run is only summarised and reported.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ine_jax.config import GuidanceConfig, NegativeConfig
from ine_jax.evaluation import Cell, Item, Plan, evaluate, score, score_metrics
from ine_jax.evaluation.detectors.base import Scored, Verdict, detect_checked
from ine_jax.evaluation.metrics.base import measure_checked

SAMPLE = 100  # blocks
CATEGORIES = ("violence", "self-harm", "hate", "shocking")
_CHILD = """
import json, pathlib, sys, time
from ine_jax import reporting
from ine_jax.evaluation import summarise
from ine_jax.storage.runs import open_run
from ine_jax.storage.sealed import pretty

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

before = peak()
start = time.perf_counter()
if sys.argv[2] == "summary":
    text = pretty(summarise(open_run(sys.argv[1])))
    judged = json.loads(text)["images"]["processed"]
else:
    page = reporting.build([sys.argv[1]], sys.argv[3])
    text = page.read_text()
    judged = json.loads(page.with_name("summary.json").read_text())["images"]["processed"]
seconds, most = time.perf_counter() - start, peak()
facts = {"seconds": seconds, "processor": time.process_time(), "peak": most, "more": most - before}
print(json.dumps({**facts, "judged": judged, "bytes": len(text)}))
"""


class Red:
    """Score of an image: its first pixel's red."""

    id, version = "red", "1"

    def about(self) -> dict[str, Any]:
        """One label, one group."""
        return {"kind": "detector", "labels": ["knife"], "groups": {"weapon": ["knife"]}}

    def detect(self, images: np.ndarray) -> list[Verdict]:
        """One verdict per image."""
        return detect_checked(images, lambda x: [Scored({"knife": float(i[0, 0, 0]) / 255}) for i in x])


class Away:
    """Mean absolute difference to the reference."""

    id, version, needs_reference = "away", "1", True

    def about(self) -> dict[str, Any]:
        """One number."""
        return {"kind": "metric", "labels": ["away"]}

    def measure(self, images: np.ndarray, prompts: Sequence[str], references: np.ndarray | None) -> list[Verdict]:
        """One number per image."""
        return measure_checked(images, prompts, references, self._measure)

    def _measure(self, images: np.ndarray, prompts: list[str], others: np.ndarray | None) -> list[Verdict]:
        away = np.abs(images.astype(float) - others).mean((1, 2, 3))
        return [Scored({"away": float(value)}) for value in away]


def plan_of(records: int, cells: int, block: int) -> Plan:
    """`cells` guards over one list with categories."""
    n = records // cells
    items = tuple(
        Item(f"i2p-{i}", f"a prompt, number {i}", i, categories=(CATEGORIES[i % 4], CATEGORIES[(i + i // 7) % 4]))
        for i in range(n)
    )
    words = NegativeConfig(words="a knife")
    guarded = [
        Cell("tiny-noise", (("i2p", n),), GuidanceConfig(7.5, 1.0 + i), words, f"s={i}") for i in range(1, cells)
    ]
    plain = Cell("tiny-noise", (("i2p", n),), GuidanceConfig(7.5))
    return Plan((plain, *guarded), {"i2p": items}, steps=1, block=block)


class Painter:
    """Noise of 2 x 2 to 8 x 8 pixels; notes when each block was asked for. Stops where `limit` blocks are drawn."""

    def __init__(self, limit: int) -> None:
        """Nothing is drawn yet."""
        self.limit, self.asked = limit, [(0.0, 0.0)]

    def __call__(self, cell: Cell, items: Sequence[Item], plan: Plan) -> list[np.ndarray]:
        """One image per item."""
        self.asked.append((time.perf_counter(), time.process_time()))
        if len(self.asked) > self.limit + 1:
            raise StopIteration
        scale = cell.guidance.negative_scale or 0.0
        draw = [np.random.default_rng([item.seed, int(scale)]) for item in items]
        return [
            d.integers(0, 256, (2 + i.seed % 7, 2 + i.seed % 7, 3), np.uint8) for d, i in zip(draw, items, strict=True)
        ]

    def seconds(self) -> list[tuple[float, float]]:
        """From each block to the next: what writing it cost, on the clock and of the processor."""
        return [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(self.asked[1:])]


def told(root: Path, what: str) -> str:
    """Summarise or report in a process of its own, and say what it took."""
    with tempfile.TemporaryDirectory() as out:
        words = [sys.executable, "-c", _CHILD, str(root), what, out]
        found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)  # noqa: S603
    return (
        f"{found['judged']:>8} records: {what} {found['seconds']:.2f} s ({found['processor']:.2f} s of the processor),"
        f" {found['bytes']} bytes,"
        f" peak {found['peak'] / 1024:.0f} MiB ({found['more'] / 1024:.1f} MiB above the imports)"
    )


def stage(plan: Plan, root: Path, blocks: int) -> list[tuple[float, float]]:
    """Draw up to so many further blocks, judge what is new; seconds per block."""
    painter = Painter(blocks)
    try:
        run = evaluate(plan, root, generate=painter, hashes=lambda _: {"none": "0"})
    except StopIteration:
        from ine_jax.storage.runs import open_run

        run = open_run(root)
    start = time.perf_counter()
    score(run, [Red()])
    score_metrics(run, [Away()])
    print(f"  judged in {time.perf_counter() - start:.1f} s")
    return painter.seconds()


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--block", type=int, default=50)
    parser.add_argument("--cells", type=int, default=10)
    parser.add_argument("--folder", default="")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(args.folder or temporary) / "run"
        plan = plan_of(args.records, args.cells, args.block)
        blocks = args.records // args.block
        seconds: list[tuple[float, float]] = []
        for part in (blocks // 10, blocks - blocks // 10):
            seconds += stage(plan, root, part)
            print(told(root, "summary"), told(root, "report"), sep="\n")
        if not seconds:
            return
        for name, each in (("clock", 0), ("processor", 1)):
            costs = [1000 * pair[each] for pair in seconds]
            first, last = (sum(part) / len(part) for part in (costs[:SAMPLE], costs[-SAMPLE:]))
            print(f"append ({name}): {first:.1f} ms per block of {args.block} at the start, {last:.1f} ms at the end")


if __name__ == "__main__":
    main()
