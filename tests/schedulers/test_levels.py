"""(α, σ) that a sampler tells a guard: what the network sees is α x_0 + σ ε."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax import schedulers
from ine_jax.schedulers.base import predictions

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
V = {"prediction_type": "v_prediction"}
KARRAS, TRAILING = {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}
SHAPE = (2, 3, 3, 2)
CLEAN, EPS = jnp.asarray(np.random.default_rng(4).standard_normal((2, *SHAPE)), jnp.float32)
CASES = [
    *((name, settings) for name in ("ddim", "dpm++", "euler") for settings in ({}, V)),
    ("pndm", {}),  # it combines outputs of several calls, which for v is not exact
    *((name, KARRAS | settings) for name in ("dpm++", "euler") for settings in ({}, V)),
    *((name, V | TRAILING | {"rescale_betas_zero_snr": True}) for name in ("ddim", "dpm++", "euler")),
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=lambda value: value if isinstance(value, str) else None)
def test_what_the_network_sees_is_of_the_level_that_the_sampler_tells(name: str, settings: dict[str, Any]) -> None:
    """A network that knows x_0 and ε leads every sampler along α x_0 + σ ε; and α² is ᾱ of the timestep it is told."""
    sampler = schedulers.from_config(CONFIG | settings, name)
    tables = jax.tree.map(jnp.asarray, sampler.tables(10))
    bar = schedulers.alphas_cumprod(sampler.noise)
    latents, state = sampler.initial(EPS, tables)
    for call in range(len(tables.timestep)):
        row = jax.tree.map(lambda column, call=call: column[call], tables)
        told, (alpha, sigma) = float(row.timestep), sampler.level(row)
        if "use_karras_sigmas" not in settings:  # whose levels lie between the trained ones
            np.testing.assert_allclose([alpha, sigma], _level(bar, told), rtol=1e-5, atol=3e-4 if told > 998 else 1e-6)
        if call == 0:
            latents = (alpha * CLEAN + sigma * EPS) / sampler.scale_input(jnp.ones(SHAPE), row)
        seen = sampler.scale_input(latents, row)
        np.testing.assert_allclose(seen, alpha * CLEAN + sigma * EPS, rtol=1e-4, atol=1e-4)
        output = EPS if sampler.noise.prediction_type == "epsilon" else alpha * EPS - sigma * CLEAN
        clean, eps = predictions(sampler.noise.prediction_type, seen, output, alpha, sigma)
        np.testing.assert_allclose(eps, EPS, rtol=1e-4, atol=1e-4)
        if alpha > 0.01:
            np.testing.assert_allclose(clean, CLEAN, rtol=2e-3, atol=2e-3)
        latents, state = sampler.step(state, latents, output, row)


def _level(bar: np.ndarray, told: float) -> tuple[float, float]:
    """α and σ of a timestep; between trained ones Euler interpolates σ/α."""
    ratio = np.interp(told, np.arange(len(bar)), np.sqrt((1 - bar) / np.maximum(bar, 2.0**-24)))
    return 1 / np.sqrt(1 + ratio**2), ratio / np.sqrt(1 + ratio**2)


def test_the_repeated_step_of_pndm_is_told_its_own_level() -> None:
    """Calls 1 and 2 look at the same noise level, one step below where call 1 starts its transfer."""
    sampler = schedulers.from_config(CONFIG, "pndm")
    tables = sampler.tables(10)
    alpha, sigma = sampler.level(tables)
    assert tables.timestep[1] == tables.timestep[2] == 801
    assert alpha[1] == alpha[2] > alpha[0] == tables.alpha[1]
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
