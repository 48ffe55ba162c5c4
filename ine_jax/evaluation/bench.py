"""Images per second of an evaluation, from the prompts to PNG files and verdicts, and how busy the device is meanwhile.

This package's turn is what `ine evaluate` does into an empty run directory: packed batches, and threads that encode,
hash, write and score behind them. PyTorch's turn is the plain script of diffusers' classes: batch after batch is
encoded, sampled, decoded, written as PNG and scored by the same detectors. `diffusers-flax` is this package's
evaluation with diffusers' Flax UNet. The FLOPs are those of the UNet and the decoder.

After the turns one more is traced: the share of time in which an operation of a compiled program runs, between the
first one and the last. Detectors count too.
"""

import contextlib
import functools
import glob
import gzip
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from ine_jax.config import BenchConfig, EvaluateConfig, ModelConfig, PromptsConfig
from ine_jax.errors import ItemErrors
from ine_jax.evaluation import from_config
from ine_jax.evaluation.from_config import Scorers
from ine_jax.evaluation.generating import evaluate
from ine_jax.evaluation.images import ImageGenerator
from ine_jax.evaluation.plan import Plan, plan_from_config
from ine_jax.pipeline.bench import in_torch
from ine_jax.pipeline.bench.model import pipeline
from ine_jax.pipeline.bench.sampling import with_diffusers
from ine_jax.pipeline.bench.turns import Compared, Contender, Makers, Turn, compare, decoder_flops, network_flops
from ine_jax.pipeline.noise import item_noise
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.prompts.items import Item
from ine_jax.storage import untrusted
from ine_jax.storage.images import png
from ine_jax.storage.runs import Run
from ine_jax.types import HostArray

MAX_TRACE = 1 << 30  # bytes, compressed
Span = tuple[float, float]  # begin and end in seconds


class EvaluationResult(Compared):
    """`device_busy` is the share of a traced turn; None where the trace names no operations."""

    device_busy: float | None


@dataclass(frozen=True)
class Work:
    """What every implementation does: the plan of one cell, its items, what scores them, and a folder for files."""

    plan: Plan
    items: Sequence[Item]
    scorers: Scorers
    folder: Path


def run(config: BenchConfig) -> EvaluationResult:
    """Load the model and return its result."""
    return measure(pipeline(config, scheduler="ddim"), config)


def measure(pipe: Pipeline, config: BenchConfig) -> EvaluationResult:
    """Return the result for a pipeline in memory, with DDIM."""
    settings = EvaluateConfig(
        models=(ModelConfig(config.model, name=config.model),),
        prompts=(PromptsConfig("attack"),),
        limit=config.items,
        sampler=config.sampler,
        block=config.block,
        detectors=config.detectors,
    )
    plan = plan_from_config(settings)
    (items,) = plan.lists.values()
    each = 2 * config.sampler.steps * network_flops(pipe) + decoder_flops(pipe)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(plan, items, from_config.scorers(settings), Path(folder))
        others: Makers = {
            "torch": functools.partial(_in_torch, pipe, work),
            "torch-compile": functools.partial(_in_torch, pipe, work, compiled=True),
            "diffusers-flax": lambda: _in_jax(with_diffusers(pipe), work),
        }
        ours = _in_jax(pipe, work)
        result = compare(pipe, config, ours, others, "images", len(items), each)
        return {**result, "what": "evaluation", "device_busy": busy(ours.run, work.folder / "trace")}


@dataclass
class _Runs:
    """Run directories of the turns: each turn has one of its own."""

    pipe: Pipeline
    work: Work
    generator: ImageGenerator = field(init=False)
    last: Run | None = None

    def __post_init__(self) -> None:
        self.generator = ImageGenerator(lambda model, plan: self.pipe)

    def turn(self) -> None:
        """Generate and score into a new directory."""
        scorers, plan = self.work.scorers, self.work.plan
        behind = scorers.behind()
        root = tempfile.mkdtemp(dir=self.work.folder)
        name = {"model_id": self.pipe.name}  # the content of random weights has no files to be hashed
        self.last = evaluate(plan, f"{root}/run", generate=self.generator, hashes=lambda _: name, behind=behind)
        with contextlib.suppress(ItemErrors):  # random weights may make constant images, which get no verdict
            scorers.score(self.last, behind=behind)

    def images(self) -> HostArray:
        """Return the images of the last run."""
        assert self.last is not None  # noqa: S101  asked after a turn
        return np.concatenate([self.last.images(k) for k in self.last.blocks()])


def _in_jax(pipe: Pipeline, work: Work) -> Contender:
    """The evaluation of this package."""
    runs, before = _Runs(pipe, work), pipe.compiles
    return Contender(runs.turn, runs.images, lambda: pipe.compiles - before)


def _in_torch(pipe: Pipeline, work: Work, compiled: bool = False) -> Contender:
    """diffusers' classes batch after batch, PNG files, and the same detectors."""
    import torch

    plan, items, scale = work.plan, work.items, pipe.parts.vae_config.scaling_factor
    unet, text, autoencoder = in_torch.unet(pipe, compiled), in_torch.text_encoder(pipe), in_torch.autoencoder(pipe)
    decode = torch.compile(autoencoder.decode) if compiled else autoencoder.decode
    sample = in_torch.sampler(pipe, unet, plan.steps, float(plan.cells[0].guidance.scale))
    ids = in_torch.tensor(pipe, pipe.tokenizer.ids([*(item.prompt for item in items), ""]), "int64")
    noise = item_noise([item.seed for item in items], pipe.latent_shape())
    made: list[HostArray] = []

    def batch(first: int, count: int) -> HostArray:
        latents = in_torch.tensor(pipe, noise[first : first + count]).permute(0, 3, 1, 2)
        with torch.no_grad():
            rows = ids[first : first + len(latents)]
            empty = ids[-1:].expand(len(latents), -1)
            images = decode(sample(latents, text(rows)[0], text(empty)[0]) / scale).sample
            levels = ((images.float() * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        found: HostArray = levels.permute(0, 2, 3, 1).cpu().numpy()
        return found

    def turn() -> None:
        made.clear()
        for first in range(0, len(items), pipe.rows()):
            made.append(batch(first, pipe.rows()))
            for i, image in enumerate(made[-1], start=first):
                (work.folder / f"{i}.png").write_bytes(png(image))
            for detector in work.scorers.detectors:
                detector.detect(made[-1])

    return Contender(turn, lambda: np.concatenate(made))


def busy(turn: Turn, folder: Path) -> float | None:
    """Return the share of time in which a compiled program computes, of one turn, from a trace of `jax.profiler`."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level, options.host_tracer_level = 0, 2
    with jax.profiler.trace(folder, profiler_options=options):
        turn()
    spans = operations(folder)
    window = max(end for _, end in spans) - spans[0][0] if spans else 0.0
    return covered(spans) / window if window else None


def operations(folder: Path) -> list[Span]:
    """Return when each operation of a compiled program ran, in the trace below a folder, sorted."""
    found: list[Span] = []
    for path in glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True):
        events = json.loads(gzip.decompress(untrusted.read(path, MAX_TRACE)))["traceEvents"]
        named = [e for e in events if e.get("ph") == "X" and "hlo_module" in e.get("args", {})]
        found += [(e["ts"] / 1e6, (e["ts"] + e["dur"]) / 1e6) for e in named]
    return sorted(found)


def covered(spans: Sequence[Span]) -> float:
    """Return the seconds that at least one of the sorted spans covers."""
    total, until = 0.0, float("-inf")
    for begin, end in spans:
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total
