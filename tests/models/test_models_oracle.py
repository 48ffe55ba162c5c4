"""Our networks against PyTorch (diffusers, transformers) and diffusers' Flax, run side by side on the same weights."""

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.model_recipes import FLAX_UNETS, TEXTS, UNETS, VAES
from tests.support.model_runs import distance, run_unet, run_vae
from tests.support.paths import GOLDEN
from tests.support.tiny_pipeline import write_tiny

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from ine_jax.models.checkpoints import names, pipeline_folder  # noqa: E402
from ine_jax.models.clip import ClipText  # noqa: E402
from tests.support import model_oracles  # noqa: E402  only where its libraries are installed


@pytest.mark.parametrize("recipe", UNETS)
def test_unet_equals_pytorch(recipe: str) -> None:
    assert distance(run_unet(UNETS[recipe]), model_oracles.torch_unet(UNETS[recipe])["out"]) <= 1e-4


@pytest.mark.parametrize("recipe", FLAX_UNETS)
def test_unet_equals_diffusers_flax_on_the_same_params(recipe: str) -> None:
    config = FLAX_UNETS[recipe]
    ours = run_unet(dataclasses.replace(config, reference="flax"))
    assert distance(ours, model_oracles.flax_unet(config)["out"]) <= 1e-5


@pytest.mark.parametrize("recipe", VAES)
def test_vae_equals_pytorch_and_diffusers_flax(recipe: str) -> None:
    ours, config = run_vae(VAES[recipe]), VAES[recipe]
    in_torch, in_flax = model_oracles.torch_vae(config), model_oracles.flax_vae(config)
    for key, got in ours.items():
        assert distance(got, in_torch[key]) <= 1e-4
        assert distance(got, in_flax[key]) <= 1e-5


@pytest.mark.parametrize("recipe", TEXTS)
def test_text_encoder_equals_transformers(recipe: str) -> None:
    from tests.support.model_recipes import text_ids, torch_state

    config = TEXTS[recipe]
    want = model_oracles.torch_text(config)
    params = names.from_torch("text", torch_state(config), config)
    got: Any = ClipText(config).apply({"params": params}, text_ids(config))
    assert distance(np.asarray(got.hidden), want["hidden"]) <= 1e-4
    assert distance(np.asarray(got.pooled), want["pooled"]) <= 1e-4


def test_parameter_tree_is_that_of_diffusers_flax() -> None:
    import flax
    import jax

    config = FLAX_UNETS["sd2"]
    module = model_oracles.flax_unet_module(config)
    theirs = flax.traverse_util.flatten_dict(jax.eval_shape(module.init_weights, jax.random.key(0)))
    assert {path: leaf.shape for path, leaf in theirs.items()} == names.parameter_shapes(config)


def test_stored_list_of_published_names_is_what_the_libraries_declare() -> None:
    from tests.golden import make_models

    stored = json.loads(gzip.decompress((GOLDEN / "published_shapes.json.gz").read_bytes()))
    for family, parts in stored.items():
        assert make_models.published_shapes(family) == parts


def test_folders_travel_both_ways(tmp_path: Path) -> None:
    """diffusers loads what we write; we read what diffusers writes, to the bit."""
    from diffusers import StableDiffusionPipeline

    tiny_folder = write_tiny(tmp_path)
    ours = pipeline_folder.read_pipeline(tiny_folder)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, local_files_only=True)
    pipe.save_pretrained(tmp_path / "theirs")
    back = pipeline_folder.read_pipeline(tmp_path / "theirs")
    for part in ("text_config", "unet_config", "vae_config"):
        assert getattr(back, part) == getattr(ours, part)
    for part in ("text_params", "unet_params", "vae_params"):
        mine, theirs = names.to_torch(getattr(ours, part)), names.to_torch(getattr(back, part))
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)
