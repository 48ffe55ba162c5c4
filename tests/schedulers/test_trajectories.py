"""Whole runs against the stored runs of diffusers' PyTorch samplers, and against PyTorch itself where it is there."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from ine_jax import schedulers
from tests.support.trajectories import CASES, GOLDEN, Case, kept, ours, torch_run

LIMIT = 1e-3  # the project's promise for every run
ROUNDING = 1e-5  # of the largest latent (10 at least): what float32 leaves; a wrong coefficient shows far above


def assert_close(mine: np.ndarray, theirs: np.ndarray) -> None:
    assert mine.shape == theirs.shape
    limit = min(LIMIT, ROUNDING * max(10.0, float(np.abs(theirs).max())))
    assert np.abs(mine - theirs).max() <= limit


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    return load_file(GOLDEN)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_run_is_the_stored_run_of_diffusers(case: Case, stored: dict[str, np.ndarray]) -> None:
    history = ours(case)
    assert_close(history[kept(len(history))], stored[case.name])


def test_every_stored_run_has_a_case(stored: dict[str, np.ndarray]) -> None:
    assert set(stored) == {case.name for case in CASES}


@pytest.mark.oracle
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_run_is_the_run_of_diffusers(case: Case) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    history, timesteps = torch_run(case)
    np.testing.assert_allclose(schedulers.from_config(case.config).tables(case.steps).timestep, timesteps, atol=2e-3)
    assert_close(ours(case), history)


@pytest.mark.oracle
@pytest.mark.parametrize("case", [case for case in CASES if case.kind == "DDIMScheduler"], ids=lambda case: case.name)
def test_the_noise_levels_are_those_of_diffusers(case: Case) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler.from_config(case.config).alphas_cumprod.numpy()
    np.testing.assert_allclose(schedulers.alphas_cumprod(case.config), theirs, rtol=2e-5, atol=1e-7)
