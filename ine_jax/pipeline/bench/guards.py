"""Does an implicit negative cost more than explicit words, guard by guard?

The claim that it does not (arXiv 2511.04834) is about the same guard with another text in its slot. So each guard is
timed from prompts to latents with words and with a learned embedding. The two take turns and swap places from turn to
turn. The result is the ratio of the images per second of their fastest turns, which other work on the machine affects
least; the lowest and highest ratio of a turn show how much it did. On a CPU the ratio of processor seconds is more
reliable, since it leaves out the time that other programs took.

The share of the matmul rate counts the rows that the guard's network calls have, and nothing else.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.config import BenchConfig, GuidanceConfig
from ine_jax.config.guards import SldConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.guidance import Guidance, slots
from ine_jax.guidance import from_config as guards
from ine_jax.guidance.base import Referring, phases
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline.bench.model import pipeline
from ine_jax.pipeline.bench.records import Setting
from ine_jax.pipeline.bench.turns import (
    MATMUL,
    Matmul,
    Times,
    matrix_product,
    network_flops,
    rate_of,
    setting,
    take_turns,
)
from ine_jax.pipeline.bound import texts_of
from ine_jax.pipeline.pipeline import Pipeline

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
    """One guard, its share of the matmul rate, and the number of programs that the embedding compiled after the words.

    The share is that of the median turns with the embedding.
    """

    guard: str
    network_rows_per_image: int
    flops_per_second: float
    share_of_matmul: float
    compiles: int


class GuardsResult(Setting):
    """The result file."""

    matmul: Matmul
    rows: list[GuardTiming]


def run(config: BenchConfig) -> GuardsResult:
    """Load the model and time every guard with words and with an embedding."""
    chosen(config)
    return measure(pipeline(config), config)


def chosen(config: BenchConfig) -> dict[str, GuidanceConfig]:
    """Return the guards that a config names; InputError for an unknown one."""
    for name in config.guards:
        if name not in GUARDS:
            raise InputError(f"guards: {name!r}", ", ".join(GUARDS), "change guards and run again")
    return {name: GUARDS[name] for name in config.guards or GUARDS}


def measure(pipe: Pipeline, config: BenchConfig) -> GuardsResult:
    """Return the result of `run` for a pipeline in memory."""
    width = pipe.parts.text_config.hidden_size
    vector = np.random.default_rng(0).standard_normal((1, width)).astype(np.float32)
    words, learned = Concept(words=WORDS), Concept(embeddings=(Embedding(vector, concept="learned"),))
    # A guard that chooses has one row per choice, so it needs as many embeddings as words.
    bank = Concept(embeddings=tuple(Embedding(vector, concept=f"learned-{i}") for i in range(len(WORDS))))
    batch, steps = pipe.rows(), config.sampler.steps
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(batch)]
    product, work = matrix_product(pipe)
    product()
    rows: list[GuardTiming] = []
    seconds: list[float] = []  # of the matrix product
    each = network_flops(pipe)
    for name, record in chosen(config).items():
        guard, implicit = guards.guidance(record, True, pipe), bank if record.method == "casg" else learned

        def turn(concept: Concept, guard: Guidance = guard) -> Callable[[], object]:
            return lambda: pipe(prompts, guidance=guard, negative=concept, steps=steps, output="latents").latents

        runs = {"explicit": turn(words), "implicit": turn(implicit), MATMUL: product}
        runs["explicit"]()
        before = pipe.compiles
        runs["implicit"]()
        times = take_turns(runs, config.repeats)
        calls = network_rows(pipe, guard, implicit, steps)
        found = _ratios(times, batch)
        rate = each * calls * batch / statistics.median(times.seconds["implicit"])
        share = rate / rate_of(work, times.seconds[MATMUL], pipe)["flops_per_second"]
        seconds += times.seconds[MATMUL]
        rows.append(
            {
                **found,
                "guard": name,
                "network_rows_per_image": calls,
                "flops_per_second": rate,
                "share_of_matmul": share,
                "compiles": pipe.compiles - before,
            }
        )
    matmul = rate_of(work, seconds, pipe)
    return {**setting(pipe, config), "what": "guards", "matmul": matmul, "rows": rows}


def network_rows(pipe: Pipeline, guard: Guidance, concept: Concept, steps: int) -> int:
    """Return the rows of all network calls for one image."""
    bound = pipe.bind(slots.resolve(guard, concept, None), concept, pipe.latent_shape(), steps=steps)
    texts = texts_of([bound] * pipe.rows(), pipe.programs.batch_sharding())
    texts = dataclasses.replace(texts, safe=texts.prompt, until=jnp.zeros((pipe.rows(),), jnp.int32))
    step, total = jnp.int32(0), 0
    for part, count in phases(bound.guard, bound.calls):
        rows: int = jax.eval_shape(part.contexts, texts, step).shape[1]
        refers = isinstance(part, Referring) and jax.eval_shape(part.reference, texts, step) is not None
        total += count * (rows + refers)
    return total


def _ratios(times: Times, batch: int) -> Turns:
    seconds, processor = times.seconds, times.processor
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
