"""Evaluations and inversions into a bucket, killed with signal 9 and continued, each time on an empty machine.

    python -m tests.support.bucket_soak [KILLS] [ine]      prints what was found; with `ine`, of `ine evaluate` itself

One local undisturbed run, one in the bucket killed KILLS times (40), and one of two processes at once must end in the
same bytes. Every second kill is between the payload and the DONE object of a unit; the others are at random moments.
Without `ine` the images and verdicts are those of stand-ins (`bucket_child`), so that nothing but storage takes time.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import kill_soak, stores
from tests.support.bucket_child import IMAGES
from tests.support.paths import ROOT
from tests.support.stores import Store

OWN = ("DONE", "LOCK")
STAND_INS = (sys.executable, "-m", "tests.support.bucket_child", "--out", "run")


def environment(folder: Path, store: Store, machine: str) -> dict[str, str]:
    """That of a machine: machines share compiled programs, and nothing else."""
    place = {"INE_BUCKET_CACHE": str(folder / "machines" / machine)}
    return {**kill_soak.environment(folder), **store.environment, **place}


def into(words: Sequence[str], out: str) -> list[str]:
    """The command with another directory."""
    return [out if before == "--out" else word for before, word in zip(["", *words], words, strict=False)]


def start(folder: Path, store: Store, words: Sequence[str], machine: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, cwd=folder, env=environment(folder, store, machine), **pipes)  # type: ignore[call-overload, no-any-return]


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate()
    assert process.returncode == 0, output[-2000:]


def kill_once(folder: Path, store: Store, words: Sequence[str], machine: str, at: float, puts: int) -> bool:
    """Kill the command after `at` seconds or, with `puts`, at its so many-th DONE object, which is then not written."""
    seen = 0
    killed = False

    def cut(method: str, path: str) -> bool:
        nonlocal seen, killed
        seen += method == "PUT" and "/DONE/" in path
        if puts and seen >= puts and not killed:
            killed = True
            process.kill()
        return killed

    process = start(folder, store, words, machine)
    store.refuse = cut
    try:
        output, _ = process.communicate(timeout=None if puts else at)
        assert killed or process.returncode == 0, output[-2000:]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        killed = True
    store.refuse = None
    return killed


def files(objects: Mapping[str, bytes], place: str) -> dict[str, bytes]:
    """The objects of a directory but those that hold clock times, hidden ones, and those of the protocol."""
    start = f"{place}/"
    names = {key.removeprefix(start): data for key, data in objects.items() if key.startswith(start)}
    skipped = (*kill_soak.CLOCKS, *OWN)
    return {
        name: data
        for name, data in names.items()
        if name.split("/")[0] not in OWN and Path(name).name[0] != "." and Path(name).name not in skipped
    }


def committed(objects: Mapping[str, bytes], place: str) -> list[str]:
    start = f"{place}/DONE/"
    return sorted(key.removeprefix(start) for key in objects if key.startswith(start))


def soak(
    folder: Path, store: Store, kills: int, words: Sequence[str] = STAND_INS, images: int = IMAGES, seed: int = 0
) -> dict[str, float]:
    """Assert that nothing is lost, doubled or changed; returns what happened."""
    chance = random.Random(seed)  # noqa: S311
    kill_soak.run(folder, words, "whole")  # the only one that compiles
    local = kill_soak.tree(folder / "whole" / "run")
    begun = time.monotonic()
    finish(start(folder, store, into(words, f"{store.root}/killed-0/run"), "first"))
    usual = time.monotonic() - begun
    killed, between, ended, number = 0, 0, 1, 0
    while killed < kills:
        number += 1
        puts = chance.randint(1, 6) if number % 2 else 0
        to = into(words, f"{store.root}/killed-{ended}/run")
        if kill_once(folder, store, to, f"m{number}", chance.uniform(0.1, 1.0) * usual, puts):
            killed, between = killed + 1, between + bool(puts)
        else:  # finished before the kill: compared below, and started anew elsewhere
            ended += 1
    finish(start(folder, store, into(words, f"{store.root}/killed-{ended}/run"), "last"))
    shards(folder, store, words)
    objects = store.objects()
    for place in [*(f"killed-{i}/run" for i in range(ended + 1)), "shards/run"]:
        assert files(objects, place) == local, place
        blocks = {unit for unit in committed(objects, place) if unit.startswith("blocks/")}
        assert blocks == {name.rpartition("/")[0] for name in local if name.startswith("blocks/")}
        check_records(folder, store, place, images)
    seconds = time.monotonic() - begun
    return {"kills": killed, "before DONE": between, "finished before the kill": ended, "seconds": round(seconds)}


def shards(folder: Path, store: Store, words: Sequence[str]) -> None:
    """Both halves of an evaluation at once, as on two machines."""
    to = into(words, f"{store.root}/shards/run")
    both = [start(folder, store, [*to, "--shard", f"{i}/2"], f"shard-{i}") for i in range(2)]
    for process in both:
        finish(process)


def check_records(folder: Path, store: Store, place: str, images: int) -> None:
    """Every image has one record and one score."""
    code = (
        "import sys; from ine_jax.storage.bucket import address, mirror; from tests.support.kill_soak import records\n"
        "with mirror.working(address.parse(sys.argv[1])) as root: found = records(root)\n"
        "print(len(found), len(set(found)))"
    )
    process = start(folder, store, [sys.executable, "-c", code, f"{store.root}/{place}"], "reader")
    output, _ = process.communicate()
    assert output.split() == [str(images)] * 2, output[-2000:]


def invert(folder: Path, store: Store, steps: int, kills: int, seed: int = 0) -> dict[str, float]:
    """The same for an inversion, killed before the DONE objects of its checkpoints."""
    chance = random.Random(seed)  # noqa: S311
    sizes = ["--inversion.batch", "2", "--inversion.save-every", "4", "--inversion.log-every", "2"]
    words = [sys.executable, "-m", "ine_jax.cli", "invert", "--out", "run", "--inversion.steps", str(steps), *sizes]
    kill_soak.run(folder, words, "whole-inversion")
    root = folder / "whole-inversion" / "run"
    local = {n: d for n, d in kill_soak.tree(root).items() if not n.startswith("checkpoints/") and ".times" not in n}
    killed = ended = 0
    while killed < kills:
        to = into(words, f"{store.root}/inverted-{ended}/run")
        if kill_once(folder, store, to, f"i{killed}-{ended}", 0.0, chance.randint(2, 9)):
            killed += 1
        else:
            ended += 1
    finish(start(folder, store, into(words, f"{store.root}/inverted-{ended}/run"), "last"))
    objects = store.objects()
    for i in range(ended + 1):
        found = files(objects, f"inverted-{i}/run")
        assert {n: d for n, d in found.items() if not n.startswith("checkpoints/") and ".times" not in n} == local
    return {"inversion kills": killed, "finished before the kill": ended, "steps": steps}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as scratch, stores.s3() as server:
        count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
        if "ine" in sys.argv:
            result = soak(Path(scratch), server, count, kill_soak.command(80, 4), 80)
            result |= invert(Path(scratch), server, 12, 3)
        else:
            result = soak(Path(scratch), server, count)
        sys.stdout.write(json.dumps(result) + "\n")
