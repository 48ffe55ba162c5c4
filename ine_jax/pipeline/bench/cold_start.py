"""Time from starting a process to the first image, with an empty and a full cache of compiled programs.

Every start is a process of its own. The first one fills the cache, the second one finds it full; diffusers'
StableDiffusionPipeline on the same folder and device is a third. Timed are imports, loading the model, and the first
and the second call, of one image each. The first call minus the second is what tracing, lowering, and compiling or
reading compiled programs cost. The parent process starts no device, which the children need.
"""

import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict, cast

from ine_jax import assets
from ine_jax.config import BenchConfig, yaml_file
from ine_jax.errors import IneError, InputError
from ine_jax.pipeline.bench.records import Setting
from ine_jax.pipeline.compile_cache import VARIABLE

EMPTY, FULL, TORCH = "ine_jax, empty cache", "ine_jax, full cache", "torch"
PARTS = ("imports", "load", "first", "second")
PROMPT = "a photo of a cat"


class Start(TypedDict):
    """What one process reports: seconds and processor seconds of `PARTS`, and its setting."""

    seconds: list[float]
    processor: list[float]
    setting: Setting


class StartTiming(TypedDict):
    """One kind of start: medians of `PARTS`, and the seconds until the first image with the lowest and highest one.

    `processor_seconds` are those until the first image, of all threads.
    """

    implementation: str
    parts: dict[str, float]
    first_image: float
    lowest: float
    highest: float
    processor_seconds: float


class StartResult(Setting):
    """The result file; `missing` gives the reason for a start that did not run."""

    rows: list[StartTiming]
    missing: dict[str, str]


Launch: TypeAlias = Callable[[str, BenchConfig, Path], Start]  # (implementation, config, cache)


def run(config: BenchConfig) -> StartResult:
    """Start processes in turns and return the result."""
    return measure(config, launch)


def measure(config: BenchConfig, start: Launch) -> StartResult:
    """Return the result of starts by a function."""
    found: dict[str, list[Start]] = {EMPTY: [], FULL: []}
    missing: dict[str, str] = {}
    for turn in range(config.repeats):
        with tempfile.TemporaryDirectory() as cache:
            order = [EMPTY, FULL]
            if "torch" in config.baselines and TORCH not in missing:
                order.insert(2 * (turn % 2), TORCH)
            for name in order:
                try:
                    found.setdefault(name, []).append(start(name, config, Path(cache)))
                except (ImportError, IneError) as error:
                    if name != TORCH:
                        raise
                    missing[TORCH] = str(error).splitlines()[0]
    rows = [_timing(name, starts) for name, starts in found.items() if starts]
    setting = found[EMPTY][0]["setting"] | {"what": "cold-start", "batch": 1, "repeats": config.repeats}
    return cast(StartResult, {**setting, "rows": rows, "missing": missing})


def _timing(name: str, starts: Sequence[Start]) -> StartTiming:
    until = PARTS.index("first") + 1
    totals = [sum(each["seconds"][:until]) for each in starts]
    worked = [sum(each["processor"][:until]) for each in starts]
    return {
        "implementation": name,
        "parts": {part: statistics.median(each["seconds"][i] for each in starts) for i, part in enumerate(PARTS)},
        "first_image": statistics.median(totals),
        "lowest": min(totals),
        "highest": max(totals),
        "processor_seconds": statistics.median(worked),
    }


def launch(name: str, config: BenchConfig, cache: Path) -> Start:
    """Start a process and return what it reports.

    Raises:
        InputError: as raised there, or for a PyTorch pipeline without a folder.
    """
    folder = str(_folder(config)) if name == TORCH else ""
    given = json.dumps([dataclasses.asdict(config), folder, time.monotonic()])
    command = [sys.executable, "-m", "ine_jax.pipeline.bench.cold_start", given]
    environment = {**os.environ, VARIABLE: str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)  # noqa: S603  our own words
    answer = json.loads(done.stdout.splitlines()[-1]) if done.stdout else None
    if done.returncode or answer is None:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(f"{name}: {lines[-1]}", "a process that makes an image", "run ine generate to see the error")
    if "error" in answer:
        raise InputError(*answer["error"])
    return cast(Start, answer)


def _folder(config: BenchConfig) -> Path:
    """The folder that diffusers can read."""
    known = assets.resolve(config.model)
    place, delta = known or (Path(config.model), None)
    if config.unlearned or delta or not (place / "model_index.json").is_file():
        given = (
            f"{config.model}{' with unlearned weights' if config.unlearned or delta else ''}: no folder for diffusers"
        )
        raise InputError(given, "a folder in diffusers' layout", "convert it with ine convert-model")
    return place


def child(config: BenchConfig, folder: str, begun: float) -> Mapping[str, object]:
    """Make two images and return the times; in PyTorch where a folder is given. `begun` is when the parent asked."""
    marks = [(begun, 0.0)]

    def mark() -> None:
        marks.append((time.monotonic(), time.process_time()))

    try:
        setting = _torch(config, folder, mark) if folder else _ours(config, mark)
    except (ImportError, IneError) as error:
        return {"error": ([*str(error).splitlines(), "", ""])[:3]}
    seconds = [after[0] - before[0] for before, after in itertools.pairwise(marks)]
    processor = [after[1] - before[1] for before, after in itertools.pairwise(marks)]
    return {"seconds": seconds, "processor": processor, "setting": setting}


def _ours(config: BenchConfig, mark: Callable[[], None]) -> Mapping[str, object]:
    from ine_jax.pipeline.bench import model, turns

    mark()
    pipe = model.pipeline(config)
    mark()
    for _ in range(2):
        pipe(PROMPT, steps=config.sampler.steps, batch_size=1)
        mark()
    return turns.setting(pipe, config)


def _torch(config: BenchConfig, folder: str, mark: Callable[[], None]) -> Mapping[str, object]:
    import torch
    from diffusers import StableDiffusionPipeline

    mark()
    place = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, config.dtype or ("float32" if place == "cpu" else "bfloat16"))
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, safety_checker=None).to(place)
    pipe.set_progress_bar_config(disable=True)
    mark()
    for _ in range(2):
        pipe(PROMPT, num_inference_steps=config.sampler.steps)
        mark()
    return {}


if __name__ == "__main__":
    values, asked, started = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps(child(yaml_file.build(BenchConfig, values, "config"), asked, started)) + "\n")
