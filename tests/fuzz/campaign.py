"""Reads thousands of changed files with every reader and prints what became of them.

    PYTHONPATH=. python -m tests.fuzz.campaign                       # 10,000 inputs, about ten minutes
    PYTHONPATH=. python -m tests.fuzz.campaign --inputs 500 --only run image
    PYTHONPATH=. python -m tests.fuzz.campaign --only prompts --atheris -max_total_time=600    # guided by coverage

An input that a reader fails on (anything but acceptance, or a rejection of at most three lines, within 20 s) ends that
reader's share and makes the exit code 1; hypothesis shrinks it and prints it. Add it to `tests/fuzz/corpus.py`.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import TARGETS, Target
from tests.support.changes import INPUTS, Input

INPUTS_OF_A_RELEASE = 10_000
MEMORY = 1 << 30  # bytes, beside one and a half times the largest accepted file


def fuzz(target: Target, folder: Path, count: int, start: int, atheris_options: Sequence[str] | None = None) -> None:
    """Give the target `count` inputs; with options of atheris, inputs that it guides by coverage, until it stops."""
    read = target.open(folder)

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(INPUTS)
    def one(changed: Input) -> None:
        read(changed)

    if atheris_options is None:
        one()
        return
    import atheris

    atheris.instrument_all()
    body = cast(Any, one).hypothesis.fuzz_one_input
    atheris.Setup([sys.argv[0], *atheris_options], body)
    atheris.Fuzz()


def peak() -> int:
    """Most memory that this process has used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def campaign(names: Sequence[str], inputs: int, start: int, folder: Path) -> list[str]:
    """Share the inputs among the targets; the lines of a table, the last one with the sums."""
    chosen = [TARGETS[name] for name in names]
    shares = sum(target.share for target in chosen)
    lines, failed = ["| reader | inputs | accepted | slowest, s |", "|---|---|---|---|"], []
    for target in chosen:
        place = folder / target.name
        place.mkdir()
        try:
            fuzz(target, place, -(-inputs * target.share // shares), start)
        except Exception:  # whatever a reader raised; the other readers have their turn
            traceback.print_exc()
            failed.append(target.name)
        counts = target.counts
        lines.append(f"| {target.name} | {counts.inputs} | {counts.accepted} | {counts.slowest:.2f} |")
    total, accepted = (sum(getattr(t.counts, name) for t in chosen) for name in ("inputs", "accepted"))
    largest = max(target.counts.largest for target in chosen)
    most, allowed = peak(), largest * 3 // 2 + MEMORY
    memory = f"most memory {most >> 20} MiB, allowed {allowed >> 20} MiB"
    found = f"failed: {', '.join(failed)}" if failed else "no bug and no hang"
    lines.append(f"{total} inputs, {accepted} accepted, {found}; {memory}")
    if failed:
        raise SystemExit("\n".join(lines))
    if most > allowed:
        raise SystemExit("\n".join([*lines, "more memory than allowed"]))
    return lines


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=INPUTS_OF_A_RELEASE)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--atheris", nargs=argparse.REMAINDER, help="options of libFuzzer; one reader")
    given = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory(prefix="ine-fuzz-") as name:
        if given.atheris is not None:
            fuzz(TARGETS[given.only[0]], Path(name), 1, given.seed, given.atheris)
        begun = time.perf_counter()
        lines = campaign(given.only, given.inputs, given.seed, Path(name))
        print(*lines, f"seed {given.seed}, {time.perf_counter() - begun:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
