"""Does an implicit negative cost more than explicit words, guard by guard?

The claim that it does not (arXiv 2511.04834) is about the same guard with another text in its slot. So each guard is
timed from prompts to latents with words and with a learned embedding. The two take turns and swap places from turn to
turn. The result is the ratio of the images per second of their fastest turns, which other work on the machine affects
least; the lowest and highest ratio of a turn show how much it did. On a CPU the ratio of processor seconds is more
reliable, since it leaves out the time that other programs took.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np

from ine_jax.config import BenchConfig, GuidanceConfig
from ine_jax.config.guards import SldConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.guidance import Guidance
from ine_jax.guidance import from_config as guards
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline import from_config
from ine_jax.pipeline.bench import Setting, setting
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.storage.atomic import write_json

SCALE = 7.5
PROMPTS = ("a photo of a cat", "a photo of a dog and a house", "a tree")
WORDS = ("violence", "blood", "weapon", "a photo of a gun")
GUARDS: Mapping[str, GuidanceConfig] = {
    "cfg": GuidanceConfig(SCALE),
    "negative": GuidanceConfig(SCALE, 5.0),
    "sld-weak": GuidanceConfig(SCALE, method="sld", sld=SldConfig("weak")),
    "sld-max": GuidanceConfig(SCALE, method="sld", sld=SldConfig("max")),
    "safree": GuidanceConfig(SCALE, method="safree"),
    "safree+sld": GuidanceConfig(SCALE, method="safree", inner="sld"),
    "dng": GuidanceConfig(SCALE, method="dng"),
    "casg": GuidanceConfig(SCALE, 5.0, method="casg"),
    "safe-denoiser": GuidanceConfig(SCALE, 5.0, method="safe-denoiser"),
}


Turn: TypeAlias = Callable[[Concept], tuple[float, float]]  # seconds and processor seconds of one run


class Turns(TypedDict):
    """Images per second of both negatives, and the ratio of the implicit one to the explicit one.

    `ratio` is of the fastest turns, `lowest` and `highest` are of one turn, `processor` is of the medians of processor
    seconds.
    """

    explicit_images_per_second: float
    implicit_images_per_second: float
    ratio: float
    lowest: float
    highest: float
    processor: float


class GuardTiming(Turns):
    """One guard, and the number of programs that the embedding compiled after the words."""

    guard: str
    compiles: int


class GuardsResult(Setting):
    """The result file."""

    schema: int
    what: str
    rows: list[GuardTiming]


def run(config: BenchConfig) -> GuardsResult:
    """Time every guard with words and with an embedding, and write the result to `config.out`."""
    pipe = from_config.pipeline(config.model, config.revision, config.sampler, config.unlearned)
    result = measure(pipe, config)
    write_json(Path(config.out), result, shared=True)
    return result


def measure(pipe: Pipeline, config: BenchConfig) -> GuardsResult:
    """Return the result of `run` for a pipeline in memory."""
    width = pipe.parts.text_config.hidden_size
    vector = np.random.default_rng(0).standard_normal((1, width)).astype(np.float32)
    slots = {"explicit": Concept(words=WORDS), "implicit": Concept(embeddings=(Embedding(vector, concept="learned"),))}
    # A guard that chooses has one row per choice, so it needs as many embeddings as words.
    bank = tuple(Embedding(vector, concept=f"learned-{i}") for i in range(len(WORDS)))
    several = {"explicit": slots["explicit"], "implicit": Concept(embeddings=bank)}
    batch, steps = pipe.rows(), config.sampler.steps
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(batch)]
    rows: list[GuardTiming] = []
    for name, record in GUARDS.items():
        guard = guards.guidance(record, True, pipe)
        chosen = several if record.method == "casg" else slots

        def once(concept: Concept, guard: Guidance = guard) -> tuple[float, float]:
            begun, worked = time.perf_counter(), time.process_time()
            pipe(prompts, guidance=guard, negative=concept, steps=steps, output="latents")
            return time.perf_counter() - begun, time.process_time() - worked

        once(chosen["explicit"])
        before = pipe.compiles
        once(chosen["implicit"])
        turns = _turns(once, chosen, batch, config.repeats)
        rows.append({**turns, "guard": name, "compiles": pipe.compiles - before})
    return {**setting(pipe, steps, batch, config), "schema": 1, "what": "guards", "rows": rows}


def _turns(once: Turn, chosen: Mapping[str, Concept], batch: int, repeats: int) -> Turns:
    """Time both negatives in turns that swap their places."""
    seconds: dict[str, list[float]] = {kind: [] for kind in chosen}
    processor: dict[str, list[float]] = {kind: [] for kind in chosen}
    for turn in range(max(3, repeats)):
        for kind in sorted(chosen, reverse=bool(turn % 2)):
            elapsed, worked = once(chosen[kind])
            seconds[kind].append(elapsed)
            processor[kind].append(worked)
    ratios = [e / i for e, i in zip(seconds["explicit"], seconds["implicit"], strict=True)]
    explicit, implicit = (batch / min(seconds[kind]) for kind in ("explicit", "implicit"))
    return {
        "explicit_images_per_second": explicit,
        "implicit_images_per_second": implicit,
        "ratio": implicit / explicit,
        "lowest": min(ratios),
        "highest": max(ratios),
        "processor": statistics.median(processor["explicit"]) / statistics.median(processor["implicit"]),
    }
