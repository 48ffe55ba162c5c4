"""Commands of `ine` with a fault at one write site after the other, in one process under the library of `shim.c`.

    python -m tests.faults [--every N] [--commands NAME ...] [--faults NAME ...]

For each kind of fault and every site k (or every N-th): the command with the fault must end with code 74 and at most
three lines that name a path of the site, without a traceback and without temporary files; the same command again must
end with 0 and in the bytes of an undisturbed run.
"""

import argparse
import contextlib
import dataclasses
import errno
import functools
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ine_jax.storage.atomic import _TEMPORARY
from tests.faults.shim import FOREVER, Faults

# Lines that are no error: the pace, what is loaded, what is already there, and how a prompt file was read.
NOTES = r"^ine [a-z-]+: loading |^compiling \(about |\bcontinuing\b|already (stored|complete)$| rows \("
PROGRESS = re.compile(rf" (images|steps)/s( |$)|{NOTES}")
CLOCKS = ("timing.jsonl", "checkpoints", "SHA256SUMS.times")  # clock times; orbax's folders hold some too


@dataclasses.dataclass(frozen=True)
class Fault:
    """What fails: one call or all from it on; frozen: nothing can be removed either, as after a loss of power."""

    name: str
    code: int
    lasting: bool = False
    frozen: bool = False


FAULTS = (
    Fault("ENOSPC", errno.ENOSPC),
    Fault("EIO", errno.EIO),
    Fault("full", errno.ENOSPC, lasting=True),
    Fault("frozen", errno.EIO, lasting=True, frozen=True),
)
SAMPLER = ["--sampler.steps", "1", "--sampler.batch", "2", "--sampler.scheduler", "ddim"]
INPUTS = ["--models", "../model", "--prompts", "../prompts.jsonl"]
EVALUATE = ["evaluate", *INPUTS, "--block", "2", *SAMPLER, "--out", "run"]
GENERATE = ["generate", "--model", "../model", "--prompts", "a cat", "--per-prompt", "4", *SAMPLER, "--out", "run"]
TRAINED = ["--model", "../model", "--out", "run"]
INVERT = ["invert", *TRAINED, "--images", "../images", "--inversion.steps", "2", "--inversion.save-every", "1"]
INVERT += ["--inversion.batch", "2", "--inversion.concept", "thing"]
ESD = ["--esd.erase", "cat", "--esd.steps", "2", "--esd.save-every", "1", "--esd.batch", "2"]
ESD += ["--esd.pool", "2", "--esd.ddim-steps", "2"]
ATTACKED = [*TRAINED, "--prompts", "../prompts.jsonl", "--negative.words", "cat", *SAMPLER]
RING = ["--ring-a-bell.harmful", "a cat", "--ring-a-bell.harmless", "a dog", "--ring-a-bell.preset", "quick"]
RING += ["--ring-a-bell.population", "4", "--ring-a-bell.length", "3", "--ring-a-bell.generations", "2"]
RING += ["--ring-a-bell.save-every", "1"]
PREFIX = ["--unlearndiff.base", "../model", "--unlearndiff.preset", "quick", "--unlearndiff.tokens", "2"]
PREFIX += ["--unlearndiff.timesteps", "2", "--unlearndiff.iterations", "1", "--unlearndiff.save-every", "1"]
COMMANDS: dict[str, tuple[list[list[str]], list[str]]] = {  # what is there before, and the command
    "evaluate": ([], EVALUATE),
    "score": ([EVALUATE], ["score", "run", "--rescan"]),
    "report": ([EVALUATE], ["report", "run"]),
    "generate": ([], GENERATE),
    "convert": ([], ["convert", "../word.safetensors", "out.npy", "--to", "npy"]),
    "convert-model": ([], ["convert-model", "../model", "out", "--dtype", "float32"]),
    "invert": ([], INVERT),
    "unlearn": ([], ["unlearn", *TRAINED, *ESD]),
    "attack ring-a-bell": ([], ["attack", "ring-a-bell", *ATTACKED, *RING]),
    "attack unlearndiff": ([], ["attack", "unlearndiff", *ATTACKED, *PREFIX]),
    "export-guard": ([], ["export-guard", "--negative.embedding", "../word.safetensors", "--out", "out"]),
    "publish": ([EVALUATE], ["publish", "run", "--to", "out"]),
    "tensorboard": ([INVERT], ["tensorboard", "run", "--to", "out"]),
}
NEW = ("convert", "convert-model", "export-guard", "publish", "tensorboard")  # they only write where nothing is


def prepare(folder: Path) -> None:
    """A random model, prompts, images and an embedding."""
    from PIL import Image

    from ine_jax.embeddings.embedding import Embedding
    from tests.support.tiny_pipeline import WIDTH, write_tiny

    write_tiny(folder / "tiny").rename(folder / "model")
    rows = [{"prompt": f"a cat {i}", "seed": i, "id": str(i)} for i in range(4)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "images").mkdir()
    chance = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(chance.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "images" / f"{i}.png")
    Embedding(np.ones((2, WIDTH), np.float32), concept="word").save(folder / "word.safetensors")


def tree(root: Path) -> dict[str, bytes]:
    """Every byte that has to be equal: no hidden files, no clock times."""
    found = {}
    for path in sorted(root.rglob("*")):
        inner = path.relative_to(root)
        if path.is_file() and not any(part[0] == "." or part in CLOCKS for part in inner.parts):
            found[str(inner)] = path.read_bytes()
    return found


def call(words: list[str]) -> tuple[int, str]:
    """Exit code of a command, and all that it or any library wrote to standard error."""
    from ine_jax.cli.main import main

    with tempfile.TemporaryFile() as errors, open(os.devnull, "w") as nothing:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(errors.fileno(), 2)
        try:
            with contextlib.redirect_stdout(nothing):
                code = main(words)
            sys.stderr.flush()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        errors.seek(0)
        lines = errors.read().decode().splitlines()
        return code, "\n".join(line for line in lines if not PROGRESS.search(line))


def hurry() -> None:
    """Previews of one step, and no figure around a curve: what they cost, not which files they write."""
    from matplotlib.figure import Figure

    from ine_jax.inversion import run

    run.preview_images = functools.partial(run.preview_images, steps=1)  # type: ignore[assignment, attr-defined]
    Figure.savefig = lambda self, target, **_: target.write(b"curve")  # type: ignore[method-assign]


def fresh(work: Path, before: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(before, work)
    os.chdir(work)


def sweep(folder: Path, name: str, every: int, faults: tuple[Fault, ...]) -> Iterator[dict[str, object]]:
    """One record per fault and site of a command; `wrong` lists what broke a promise."""
    work, before = folder / "work", folder / f"before-{name}"
    earlier, words = COMMANDS[name]
    work.mkdir(exist_ok=True)
    os.chdir(work)
    shutil.rmtree(work)
    work.mkdir()
    os.chdir(work)
    for each in earlier:
        assert call(each)[0] == 0, each
    work.rename(before)
    fresh(work, before)
    faulty = Faults(work)
    faulty.arm(FOREVER, 0)
    code, text = call(words)
    sites, _ = faulty.disarm()
    assert code == 0, text
    wanted = tree(work)
    for number, fault in enumerate(faults):
        for k in range(number % every, sites, every):
            fresh(work, before)
            faulty.arm(k, fault.code, lasting=fault.lasting, frozen=fault.frozen)
            code, text = call(words)
            _, hit = faulty.disarm()
            wrong = list(_broken(fault, code, text, hit, work))
            # a command that makes something new and was done in spite of the fault has nothing to do again
            again, complaint = (0, "") if code == 0 and name in NEW else call(words)
            if again != 0:
                wrong.append(f"the rerun ended with {again}: {complaint[-300:]}")
            elif tree(work) != wanted:
                found = tree(work)
                names = [n for n in {*found, *wanted} if found.get(n) != wanted.get(n)]
                wrong.append(f"other bytes in {names}")
            yield {"command": name, "fault": fault.name, "site": k, "of": sites, "hit": hit, "wrong": wrong}


def _broken(fault: Fault, code: int, text: str, hit: str, work: Path) -> Iterator[str]:
    """What is not as documented after a command with a fault."""
    if not hit or (code == 0 and not fault.lasting):
        return  # the call was one that may fail, such as one that looks whether a folder is there already
    if code != 74:
        yield f"code {code}: {text[-600:]}"
    if len(text.splitlines()) > 3 or "Traceback" in text:
        yield f"{len(text.splitlines())} lines: {text[:600]}"
    inside = [_meant(part) for part in hit.split(" ", 1)[1].removeprefix(f"{work}/").split("/")]
    inside = ["out", "run"] if inside == ["."] else inside  # the parent of what the command writes
    if not any(part in text.partition("\n")[0] for part in inside):
        yield f"no path of {hit} in {text[:300]}"
    left = [str(path.relative_to(work)) for path in work.rglob("*.tmp")] + [
        str(path.relative_to(work)) for path in work.rglob("*.orbax-checkpoint-tmp*")
    ]
    if left and not fault.frozen:
        yield f"left behind: {left}"


def _meant(name: str) -> str:
    """The name that a temporary one stands for."""
    owner = _TEMPORARY.fullmatch(name)
    return name[1 : owner.start(1) - 1] if owner else name


def run(argv: list[str]) -> int:
    """Print one line of JSON per site; the last one counts."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("folder", type=Path)
    reader.add_argument("--every", type=int, default=1)
    reader.add_argument("--commands", nargs="*", default=list(COMMANDS))
    reader.add_argument("--faults", nargs="*", default=[fault.name for fault in FAULTS])
    given = reader.parse_args(argv)
    faults = tuple(fault for fault in FAULTS if fault.name in given.faults)
    prepare(given.folder)
    hurry()
    total = broken = 0
    for name in given.commands:
        for record in sweep(given.folder, name, given.every, faults):
            total += 1
            broken += bool(record["wrong"])
            print(json.dumps(record), flush=True)  # noqa: T201
    print(json.dumps({"sites": total, "broken": broken}), flush=True)  # noqa: T201
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
