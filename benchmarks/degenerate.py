"""How often the rule for degenerate images fires: on ordinary images of the bundled family, and on garbage.

    PYTHONPATH=. python benchmarks/degenerate.py [--items 50]       # about 5 minutes on two cores

Ordinary: both models, guidance scales 3 and 7.5, alone and with the embedding of the concept as negative at one more.
Garbage: guidance scales of 1e3, 1e4 and 1e5. A line per group: degenerate of all, with Wilson's 95 % interval, and the
lowest and highest RMS of latents.
"""

import argparse

import numpy as np

import ine_jax
from ine_jax import assets, evaluation
from ine_jax.evaluation.detectors.base import check_image
from ine_jax.evaluation.images import outside
from ine_jax.evaluation.metrics.statistics import wilson
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.prompts.items import Item

MODELS = ("tiny", "tiny-unlearned-0")
GROUPS = {"ordinary": (3.0, 7.5), "garbage": (1e3, 1e4, 1e5)}
STEPS = 16


def latents(pipe: Pipeline, items: list[Item], scale: float, negative: ine_jax.Embedding | None) -> np.ndarray:
    """Latents [n, h, w, c] of the items."""
    return pipe(
        [item.prompt for item in items],
        guidance=ine_jax.Cfg(scale),
        negative=negative,
        negative_scale=None if negative is None else scale + 1,
        seeds=[item.seed for item in items],
        steps=STEPS,
        output="latents",
    ).latents


def main() -> None:
    """Print a line per group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=50, help="of each of the two prompt sets")
    items = [item for name in ("attack", "benign") for item in evaluation.read_items(name, parser.parse_args().items)]
    embedding = ine_jax.Embedding.load(assets.embedding("weapon-tiny-unlearned-0"))
    pipes = [ine_jax.load(name, scheduler="dpm++", batch_size=50) for name in MODELS]
    for group, scales in GROUPS.items():
        found, bad = [], 0
        for pipe in pipes:
            for scale in scales:
                for negative in (None, embedding) if group == "ordinary" else (None,):
                    made = latents(pipe, items, scale, negative)
                    found += [float(np.sqrt(np.mean(np.square(one, dtype=np.float64)))) for one in made]
                    images = pipe.decode(made)
                    bad += sum(bool(outside(a) or check_image(b)) for a, b in zip(made, images, strict=True))
        rate = wilson(bad, len(found))
        print(
            f"{group}: {bad} of {len(found)} degenerate [{rate.low:.4f}, {rate.high:.4f}],"
            f" RMS of latents {min(found):.3g} to {max(found):.3g}"
        )


if __name__ == "__main__":
    main()
