"""Fixtures: a small base model in memory and in files, which checkpoints of every layout change."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from ine_jax.models.checkpoints import names, pipeline_folder
from ine_jax.models.checkpoints.recognize import STEMS
from ine_jax.models.parts import ModelParts
from tests.support import layouts
from tests.support.layouts import Base

PARTS = ("text_encoder", "unet", "vae")


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Base:
    parts = pipeline_folder.read_pipeline(tiny_folder)
    states = {p: safetensors.numpy.load_file(tiny_folder / p / f"{STEMS[p]}.safetensors") for p in PARTS}
    configs: Any = {"text_encoder": parts.text_config, "unet": parts.unet_config, "vae": parts.vae_config}
    return Base(tiny_folder, configs, states)


def states(parts: ModelParts) -> layouts.Twin:
    held = {"text_encoder": parts.text_params, "unet": parts.unet_params, "vae": parts.vae_params}
    return {part: names.to_torch(params) for part, params in held.items()}
