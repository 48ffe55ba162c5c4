"""Whole runs against diffusers' StableDiffusionPipelineSafe: same random weights, same initial latents, fp32.

The golden file holds what it computed; where torch and diffusers are installed it computes it again.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.guidance import SLD_PRESETS, Cfg, Guidance, Sld, sld_preset
from ine_jax.pipeline import pipeline
from tests.support import paths
from tests.support.sld_reference import CASES, NEGATIVE, PROMPTS, SCALE, noise, quiet_model, reference

GOLDEN = paths.GOLDEN / "sld.npz"
TOLERANCE = 1e-3
GUARDS = {name: sld_preset(name, SCALE) for name in SLD_PRESETS} | {
    "off": sld_preset("max", SCALE, safety_scale=1.0),
    "medium-pndm": sld_preset("medium", SCALE),
    "medium-25": sld_preset("medium", SCALE),
}


@functools.cache
def loaded(folder: Path, scheduler: str) -> pipeline.Pipeline:
    return pipeline.load(folder, scheduler=scheduler, batch_size=2, compile_cache=False)


def ours(folder: Path, guard: Guidance, name: str = "max", negative: str | None = NEGATIVE) -> np.ndarray:
    scheduler = CASES[name].scheduler.removesuffix("Scheduler").lower()
    pipe = loaded(folder, scheduler)
    return pipe(PROMPTS, guidance=guard, negative=negative, noise=noise(), steps=CASES[name].steps, output="latents")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quiet_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


# Those that run another's program with other numbers, and the one that only compiles another length.
REPEATS = ("weak-200", "strong", "medium-25")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in REPEATS else name for name in CASES]
)
def test_final_latents_are_the_reference_s(name: str, golden: dict[str, np.ndarray], model: Path) -> None:
    assert golden[name].std() > 0.1
    assert np.abs(ours(model, GUARDS[name], name) - golden[name]).max() <= TOLERANCE


def test_the_cases_tell_the_presets_apart(golden: dict[str, np.ndarray], model: Path) -> None:
    assert np.abs(ours(model, Cfg(SCALE), negative=None) - golden["off"]).max() <= TOLERANCE
    names = ("off", "weak", "weak-200", "medium", "strong", "max")
    for i, name in enumerate(names):
        for other in names[:i]:
            assert np.abs(golden[name] - golden[other]).max() > 20 * TOLERANCE


def test_two_presets_in_one_batch(golden: dict[str, np.ndarray], model: Path) -> None:
    """Numbers per item: each item is what the reference makes of it under its own preset."""
    pair = [jax.tree.leaves(GUARDS[name]) for name in ("medium", "max")]
    numbers: Any = [jnp.asarray(both, jnp.float32) for both in zip(*pair, strict=True)]
    mixed = Sld(*numbers)
    got = ours(model, mixed)
    for i, name in enumerate(("medium", "max")):
        assert np.abs(got[i] - golden[name][i]).max() <= TOLERANCE


@pytest.mark.oracle
def test_the_golden_file_is_what_the_reference_computes(golden: dict[str, np.ndarray], model: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("diffusers.pipelines.deprecated.stable_diffusion_safe")
    found = reference(model)
    assert found.keys() == golden.keys() == CASES.keys()
    for name, latents in found.items():
        assert np.abs(latents - golden[name]).max() <= TOLERANCE
        assert np.abs(latents - ours(model, GUARDS[name], name)).max() <= TOLERANCE
