"""From config records to a loaded pipeline and to images at its size."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ine_jax.config import SamplerConfig
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.storage.images import read_images


def pipeline(model: str, revision: str | None, sampler: SamplerConfig, unlearned: Sequence[str] = ()) -> Pipeline:
    """Load the model, with checkpoints on top, with the sampler's method, batch and UNet.

    Raises:
        InputError: the model cannot be found or read.
    """
    return load(
        model,
        revision=revision,
        unlearned=unlearned,
        scheduler=sampler.scheduler,
        batch_size=sampler.batch,
        unet_impl=sampler.unet_impl,
    )


def images(folder: str | Path, pipe: Pipeline) -> np.ndarray:
    """Read the images of a folder at the model's own size, uint8 [N, H, W, 3].

    Raises:
        InputError: no folder, no image, or one that cannot be read.
    """
    side = pipe.parts.unet_config.sample_size * pipe.parts.vae_config.downscale
    return read_images(folder, side, side)


def process_index() -> int:
    """Index of this process among the hosts of a run; only 0 shows progress."""
    return jax.process_index()
