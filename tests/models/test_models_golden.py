"""Our networks equal PyTorch's (1e-4) and diffusers' Flax (1e-5): outputs stored, weights rebuilt from their names."""

import dataclasses
import gzip
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.models.checkpoints import configs, names
from ine_jax.models.clip import ClipText, ClipTextConfig, embed_tokens
from ine_jax.models.unet import UNet, UNetConfig
from ine_jax.models.vae import VaeConfig
from tests.support.cases import sample
from tests.support.model_recipes import (
    FLAX_UNETS,
    TEXTS,
    UNETS,
    VAES,
    text_ids,
    torch_state,
    unet_inputs,
)
from tests.support.model_runs import distance, run_unet, run_vae
from tests.support.paths import GOLDEN
from tests.support.published import CONFIGS, COUNTS

CLASSES = {"unet": UNetConfig, "vae": VaeConfig, "text_encoder": ClipTextConfig}


@pytest.fixture(scope="module")
def golden() -> Mapping[str, np.ndarray]:
    with np.load(GOLDEN / "models.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize("recipe", sample(UNETS, ("shallow",)))
def test_unet_equals_pytorch(recipe: str, golden: Mapping[str, np.ndarray]) -> None:
    want = golden[f"torch/unet/{recipe}/out"]
    assert want.std() > 0.1
    assert distance(run_unet(UNETS[recipe]), want) <= 1e-4


@pytest.mark.parametrize("recipe", sample(FLAX_UNETS, ("sd1",)))
def test_unet_equals_diffusers_flax(recipe: str, golden: Mapping[str, np.ndarray]) -> None:
    config = dataclasses.replace(FLAX_UNETS[recipe], reference="flax")
    assert distance(run_unet(config), golden[f"flax/unet/{recipe}/out"]) <= 1e-5


def test_the_two_references_differ(golden: Mapping[str, np.ndarray]) -> None:
    as_flax = dataclasses.replace(UNETS["shallow"], reference="flax")
    assert distance(run_unet(as_flax), golden["torch/unet/shallow/out"]) > 1e-5


@pytest.mark.parametrize("recipe", VAES)
def test_vae_equals_pytorch_and_flax(recipe: str, golden: Mapping[str, np.ndarray]) -> None:
    for key, got in run_vae(VAES[recipe]).items():
        assert golden[f"torch/vae/{recipe}/{key}"].std() > 0.1
        assert distance(got, golden[f"torch/vae/{recipe}/{key}"]) <= 1e-4
        assert distance(got, golden[f"flax/vae/{recipe}/{key}"]) <= 1e-5


@pytest.mark.parametrize("recipe", TEXTS)
def test_text_encoder_equals_pytorch(recipe: str, golden: Mapping[str, np.ndarray]) -> None:
    config = TEXTS[recipe]
    params, ids = names.from_torch("text", torch_state(config), config), jnp.asarray(text_ids(config))
    got: Any = ClipText(config).apply({"params": params}, ids)
    assert distance(np.asarray(got.hidden), golden[f"torch/text/{recipe}/hidden"]) <= 1e-4
    assert distance(np.asarray(got.pooled), golden[f"torch/text/{recipe}/pooled"]) <= 1e-4
    # Rows given in place of the table's must be the same computation: ids then only place the end token.
    spliced: Any = ClipText(config).apply({"params": params}, ids, embed_tokens(params, ids))
    np.testing.assert_array_equal(spliced.hidden, got.hidden)


@pytest.mark.thorough
def test_bfloat16_compute_stays_close(golden: Mapping[str, np.ndarray]) -> None:
    config = UNETS["shallow"]
    params, inputs = names.from_torch("unet", torch_state(config), config), unet_inputs(config)
    arrays = (jnp.asarray(inputs[k]) for k in ("latents", "timesteps", "context"))
    out = jax.jit(UNet(config, dtype=jnp.bfloat16).apply)({"params": params}, *arrays)
    assert out.dtype == jnp.bfloat16
    want = golden["torch/unet/shallow/out"]
    assert np.sqrt(np.mean((np.asarray(out, np.float32) - want) ** 2)) < 0.05 * want.std()


@pytest.mark.parametrize("family", sample(CONFIGS, ("sd1",)))
@pytest.mark.parametrize("part", CLASSES)
def test_full_size_names_shapes_and_counts(family: str, part: str) -> None:
    published = json.loads(gzip.decompress((GOLDEN / "published_shapes.json.gz").read_bytes()))[family][part]
    config = configs.parse_config(CLASSES[part], CONFIGS[family][part], part)
    ours = {name: list(shape) for name, shape in names.torch_shapes(config).items()}
    assert ours == published
    assert sum(math.prod(shape) for shape in names.parameter_shapes(config).values()) == COUNTS[family][part]
