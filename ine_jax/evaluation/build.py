"""From config records to runtime objects: which value of a config means which class is decided here only."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ine_jax import assets
from ine_jax.config import DetectorConfig, MetricConfig, SamplerConfig
from ine_jax.evaluation.detectors import Detector
from ine_jax.evaluation.detectors.clip import ClipZeroShot
from ine_jax.evaluation.detectors.nudenet import NudeNet
from ine_jax.evaluation.detectors.q16 import Q16
from ine_jax.evaluation.detectors.vit import VitClassifier
from ine_jax.evaluation.detectors.world import WorldDetector
from ine_jax.evaluation.metrics import inception, lpips
from ine_jax.evaluation.metrics.base import Metric
from ine_jax.evaluation.metrics.clip_score import ClipScore
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


def process() -> int:
    """Index of this process among the hosts of a run; only 0 shows progress."""
    return jax.process_index()


def detector(config: DetectorConfig) -> Detector:
    """The detector of a config.

    Raises:
        InputError: its weights cannot be read, or its package is not installed.
    """
    match config.kind:
        case "world":
            return WorldDetector.load(config.weights or assets.ROOT / "tiny" / "detector")
        case "nudenet":
            return NudeNet.load(config.weights, config.sha256)
        case "q16":
            return Q16.load(config.weights, config.prompts, config.revision)
        case "clip":
            return ClipZeroShot.load(config.weights, config.phrases, config.revision)
        case "vit":
            return VitClassifier.load(config.weights, config.revision)


def metric(config: MetricConfig) -> Metric:
    """The metric of a config.

    Raises:
        InputError: its weights cannot be read.
    """
    match config.kind:
        case "lpips":
            return lpips.load(config.weights, config.size)
        case "clip-score":
            return ClipScore.load(config.weights, config.revision)
        case "fid":
            return inception.load(config.weights)
