"""From config records to a loaded pipeline and to images at its size."""

from collections.abc import Sequence
from pathlib import Path

import jax
from jax.typing import DTypeLike

from ine_jax.config import SamplerConfig
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.storage.images import read_images
from ine_jax.types import HostImages


def pipeline(
    model: str,
    revision: str | None,
    sampler: SamplerConfig,
    unlearned: Sequence[str] = (),
    dtype: DTypeLike | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Pipeline:
    """Load the model, with checkpoints on top, with the sampler's method, batch and UNet."""
    return load(
        model,
        revision=revision,
        unlearned=unlearned,
        dtype=dtype,
        devices=devices,
        scheduler=sampler.scheduler,
        batch_size=sampler.batch,
        unet_impl=sampler.unet_impl,
    )


def images(folder: str | Path, pipe: Pipeline) -> HostImages:
    """Read the images of a folder at the model's own size."""
    return read_images(folder, pipe.image_side, pipe.image_side)


def process_index() -> int:
    """Index of this process among the hosts of a run; only 0 shows progress."""
    return jax.process_index()
