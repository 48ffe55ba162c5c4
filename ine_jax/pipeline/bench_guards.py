"""``ine bench guards``: does an implicit negative cost more than explicit words, guard by guard?

The claim that it does not (arXiv 2511.04834) is about the same guard with another text in its slot. So each guard is
timed from prompts to latents with words and with a learned embedding, the two taking turns and changing places from
turn to turn; the figure is the ratio of the images per second of their fastest turns, which other work on the machine
disturbs least. The lowest and highest ratio of a turn beside it say how much it disturbed. On a CPU the ratio of
processor seconds is the surer figure: it does not count the time that other programs took.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ine_jax.config import BenchConfig, GuidanceConfig
from ine_jax.config.guards import SldConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.guidance import from_config as guards
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline.bench import setting
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.storage.atomic import write_json

SCALE = 7.5
PROMPTS = ("a photo of a cat", "a picture of a dog and a house", "a tree")
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


def run(config: BenchConfig) -> dict[str, Any]:
    """Time every guard with words and with an embedding; write ``config.out`` and return what it holds.

    ``rows`` has one entry per guard: images per second with words and with an embedding, the ratio of the second to
    the first (of the fastest turns; lowest and highest of a turn; of the medians of processor seconds), and how many
    programs the embedding compiled after the words.
    Raises ``InputError`` for a model that cannot be read.
    """
    pipe = load(
        config.model,
        revision=config.revision,
        unlearned=config.unlearned,
        scheduler=config.sampler.scheduler,
        batch_size=config.sampler.batch,
    )
    result = measure(pipe, config)
    write_json(Path(config.out), result, shared=True)
    return result


def measure(pipe: Pipeline, config: BenchConfig) -> dict[str, Any]:
    """What :func:`run` writes, for a pipeline in memory."""
    width = pipe.parts.text_config.hidden_size
    vector = np.random.default_rng(0).standard_normal((1, width)).astype(np.float32)
    slots = {"explicit": Concept(words=WORDS), "implicit": Concept(embeddings=(Embedding(vector, concept="learned"),))}
    # A guard that chooses has one row for each choice: as many embeddings as words, or the rows would differ.
    bank = tuple(Embedding(vector, concept=f"learned-{i}") for i in range(len(WORDS)))
    several = {"explicit": slots["explicit"], "implicit": Concept(embeddings=bank)}
    batch, steps = pipe.rows(), config.sampler.steps
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(batch)]
    rows = []
    for name, record in GUARDS.items():
        guard = guards.guidance(record, True, pipe)
        chosen = several if record.method == "casg" else slots

        def once(concept: Concept, guard: Any = guard) -> tuple[float, float]:
            begun, worked = time.perf_counter(), time.process_time()
            pipe(prompts, guidance=guard, negative=concept, steps=steps, output="latents")
            return time.perf_counter() - begun, time.process_time() - worked

        once(chosen["explicit"])
        before = pipe.compiles
        once(chosen["implicit"])
        rows.append({"guard": name, "compiles": pipe.compiles - before, **_turns(once, chosen, batch, config.repeats)})
    return {"schema": 1, "what": "guards", "rows": rows, **setting(pipe, steps, batch, config)}


def _turns(once: Any, chosen: Mapping[str, Concept], batch: int, repeats: int) -> dict[str, float]:
    """Rates of both negatives and their ratio, over turns in which first and second place change."""
    seconds: dict[str, list[float]] = {kind: [] for kind in chosen}
    processor: dict[str, list[float]] = {kind: [] for kind in chosen}
    for turn in range(max(3, repeats)):
        for kind in sorted(chosen, reverse=bool(turn % 2)):
            elapsed, worked = once(chosen[kind])
            seconds[kind].append(elapsed)
            processor[kind].append(worked)
    ratios = [e / i for e, i in zip(seconds["explicit"], seconds["implicit"], strict=True)]
    rates = {f"{kind}_images_per_second": batch / min(times) for kind, times in seconds.items()}
    best = min(seconds["explicit"]) / min(seconds["implicit"])
    spent = statistics.median(processor["explicit"]) / statistics.median(processor["implicit"])
    return {**rates, "ratio": best, "lowest": min(ratios), "highest": max(ratios), "processor": spent}


def table(result: Mapping[str, Any]) -> list[str]:
    """The result as lines of text, one per guard."""
    what = f"{result['model']}: {result['steps']} steps, batch {result['batch']}, {result['dtype']}"
    lines = [
        f"{what}, {result['device']}; images/s with explicit words and with an implicit embedding",
        f"{'':16}{'explicit':>10}{'implicit':>10}{'ratio':>9}{'lowest':>9}{'highest':>9}{'processor':>11}{'compiles':>10}",
    ]
    for row in result["rows"]:
        rates = f"{row['explicit_images_per_second']:>10.2f}{row['implicit_images_per_second']:>10.2f}"
        ratios = f"{row['ratio']:>9.3f}{row['lowest']:>9.3f}{row['highest']:>9.3f}{row['processor']:>11.3f}"
        lines.append(f"{row['guard']:16}{rates}{ratios}{row['compiles']:>10}")
    return lines
