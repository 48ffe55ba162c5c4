"""One inversion on a random pipeline, as a process of its own that a test may kill: PIPELINE_FOLDER OUT CACHE."""

import sys
from pathlib import Path

import numpy as np

from ine_jax.config import InversionConfig
from ine_jax.inversion import invert
from ine_jax.pipeline.pipeline import load

STEPS = 60


def main(folder: str, out: str, cache: str) -> None:
    pipe = load(Path(folder), batch_size=2, compile_cache=cache)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    config = InversionConfig(concept="thing", steps=STEPS, batch=2, save_every=3, log_every=1, templates=("a {}",))
    invert(pipe, images, config, out, preview=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
