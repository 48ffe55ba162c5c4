"""Fixtures: a small pipeline, and a folder of the same model after unlearning."""

import dataclasses
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.models.checkpoints.pipeline_folder import read_pipeline, write_pipeline
from ine_jax.pipeline.pipeline import Pipeline, load
from tests.support.tiny_pipeline import WIDTH


def changed(params: Any, mix: np.ndarray) -> Any:
    """UNet parameters whose cross-attention reads c · mix wherever it read c."""
    flat = flax.traverse_util.flatten_dict(params)
    for path in flat:
        if "attn2" in path and path[-2] in ("to_k", "to_v"):
            flat[path] = jnp.asarray(mix @ np.asarray(flat[path], np.float64), jnp.float32)
    return flax.traverse_util.unflatten_dict(flat)


MIX = np.eye(WIDTH) + 0.3 * np.random.default_rng(7).standard_normal((WIDTH, WIDTH))


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=8, compile_cache=False)


@pytest.fixture(scope="module")
def unlearned_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = read_pipeline(tiny_folder)
    parts = dataclasses.replace(parts, unet_params=changed(parts.unet_params, MIX))
    return write_pipeline(parts, tmp_path_factory.mktemp("unlearned") / "pipeline", "float32")


@pytest.fixture(scope="module")
def pipe(unlearned_folder: Path) -> Pipeline:
    return load(unlearned_folder, batch_size=8, compile_cache=False)
