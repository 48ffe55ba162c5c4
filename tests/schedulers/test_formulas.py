"""Every step against a float64 telling written from the equations of its paper."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from ine_jax import schedulers
from ine_jax.types import Array

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
STEPS = 12
START = np.random.default_rng(7).standard_normal((2, 3, 3, 2))
Net = Callable[[Any, Any], Any]


def eps_net(x: Any, t: Any) -> Any:
    """A smooth network without transcendental functions, so that one source serves NumPy and JAX."""
    return x / (1.0 + 0.1 * x * x) * (0.3 + t / 2000.0) + 0.2


def alpha_bar() -> np.ndarray:
    """ᾱ as in the paper of latent diffusion: β linear in its square root."""
    return np.cumprod(1.0 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def v_net(x: Any, t: Any) -> Any:
    """The v that tells the same as `eps_net`: v = (ε - σ x) / α."""
    sigma, alpha = (1 - alpha_bar()) ** 0.5, alpha_bar() ** 0.5
    levels = jnp.arange(1000.0)
    at = t.astype(int) if isinstance(t, np.ndarray) else t
    table = (jnp.interp(at, levels, jnp.asarray(sigma)), jnp.interp(at, levels, jnp.asarray(alpha)))
    return (eps_net(x, t) - table[0] * x) / table[1]


def run(name: str, net: Net, variant: Callable[..., Any] = jax.jit, **settings: Any) -> jax.Array:
    """The package's run of `STEPS` steps; `variant` wraps what is done at every step."""
    sampler = schedulers.from_config(CONFIG | settings, name)
    tables = sampler.tables(STEPS)

    @variant
    def step(latents: jax.Array, state: Any, row: Any) -> Any:
        output = net(sampler.scale_input(latents, row), row.timestep)
        return sampler.step(state, latents, output, row)

    latents, state = sampler.initial(jnp.asarray(START, jnp.float32), tables)
    for call in range(len(tables.timestep)):
        latents, state = step(latents, state, jax.tree.map(lambda leaf, call=call: jnp.asarray(leaf)[call], tables))
    return latents


def ddim() -> np.ndarray:
    """arXiv 2010.02502, eq. 12 with σ = 0."""
    bar, x = alpha_bar(), START
    times = [1 + 83 * i for i in range(STEPS)][::-1]
    for t in times:
        a, b = bar[t], bar[t - 83] if t >= 83 else bar[0]
        eps = eps_net(x, t)
        x = np.sqrt(b) * ((x - np.sqrt(1 - a) * eps) / np.sqrt(a)) + np.sqrt(1 - b) * eps
    return x


def dpm_plus_plus() -> np.ndarray:
    """arXiv 2211.01095, algorithm 2, at linearly spaced levels that end at the smallest trained one."""
    bar, x = alpha_bar(), START
    times = [*np.round(np.linspace(0, 999, STEPS + 1))[::-1][:-1].astype(int), 0]
    alpha, sigma = np.sqrt(bar[times]), np.sqrt(1 - bar[times])
    lam = np.log(alpha / sigma)
    clean = [(x - sigma[0] * eps_net(x, times[0])) / alpha[0]]
    for i in range(1, STEPS + 1):
        h = lam[i] - lam[i - 1]
        if i == 1:
            data = clean[0]
        else:
            r = (lam[i - 1] - lam[i - 2]) / h
            data = (1 + 1 / (2 * r)) * clean[i - 1] - 1 / (2 * r) * clean[i - 2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (np.exp(-h) - 1) * data
        clean.append((x - sigma[i] * eps_net(x, times[i])) / alpha[i])
    return x


def transfer(x: np.ndarray, eps: np.ndarray, a: float, b: float) -> np.ndarray:
    """arXiv 2202.09778, eq. 9 (φ), from ᾱ = a to ᾱ = b."""
    return np.sqrt(b / a) * x - (b - a) / (np.sqrt(a) * (np.sqrt((1 - b) * a) + np.sqrt((1 - a) * b))) * eps


def pndm() -> np.ndarray:
    """arXiv 2202.09778, eq. 12, started by one step of Heun's method and the lower Adams-Bashforth formulas."""
    bar, x = alpha_bar(), START
    times = [1 + 83 * i for i in range(STEPS)][::-1]
    past: list[np.ndarray] = []
    for t in times:
        a, b = bar[t], bar[t - 83] if t >= 83 else bar[0]
        past.append(eps_net(x, t))
        if len(past) == 1:
            guess = transfer(x, past[0], a, b)
            x = transfer(x, (past[0] + eps_net(guess, t - 83)) / 2, a, b)
            continue
        weights = {2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12]}.get(
            len(past), [55 / 24, -59 / 24, 37 / 24, -9 / 24]
        )
        x = transfer(x, np.sum([w * e for w, e in zip(weights, past[::-1], strict=False)], 0), a, b)
    return x


def euler() -> np.ndarray:
    """arXiv 2206.00364, algorithm 1 with γ = 0 and without its Heun correction, on the variance-preserving levels."""
    level = np.sqrt((1 - alpha_bar()) / alpha_bar())
    times = [1 + 83 * i for i in range(STEPS)][::-1]
    x = START * np.sqrt(level[times[0]] ** 2 + 1)
    for t, following in zip(times, [*times[1:], None], strict=True):
        here, there = level[t], 0.0 if following is None else level[following]
        denoised = x - here * eps_net(x / np.sqrt(here**2 + 1), t)
        x = x + (there - here) * (x - denoised) / here
    return x


LEADING: dict[str, Any] = {"timestep_spacing": "leading"}
TOLD = [
    ("ddim", ddim, {}),
    ("dpm++", dpm_plus_plus, {"final_sigmas_type": "sigma_min", "lower_order_final": False}),
    ("pndm", pndm, {}),
    ("euler", euler, LEADING),
]


class ConformanceTest(chex.TestCase):
    """Every scheduler against its paper, compiled and step by step."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    @parameterized.named_parameters(*((row[0], *row) for row in TOLD))
    def test_the_run_follows_the_paper(self, name: str, telling: Callable[[], np.ndarray], settings: Any) -> None:
        mine = run(name, eps_net, self.variant, **settings)
        chex.assert_tree_all_finite(mine)
        chex.assert_trees_all_close(mine, telling().astype(np.float32), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["ddim", "dpm++", "euler"])
def test_the_same_network_told_as_v_gives_the_same_run(name: str) -> None:
    as_eps = run(name, eps_net, **LEADING)
    as_v = run(name, v_net, prediction_type="v_prediction", **LEADING)
    np.testing.assert_allclose(as_v, as_eps, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", list(schedulers.READERS))
def test_a_perfect_network_is_led_to_its_clean_latents(name: str) -> None:
    """A distribution of one point x_0 has ε = (x - α x_0) / σ; every sampler must end near x_0."""
    point, bar = 0.7, jnp.asarray(alpha_bar(), jnp.float32)

    def net(x: Array, t: Array) -> Array:
        at = jnp.interp(t, jnp.arange(1000.0), bar)
        return (x - jnp.sqrt(at) * point) / jnp.sqrt(1 - at)

    assert np.abs(run(name, net, **LEADING) - point).max() < 0.15  # what is left at the smallest trained level


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("on_host", [True, False])
def test_adding_noise_and_the_target(kind: str, on_host: bool) -> None:
    rng, bar = np.random.default_rng(3), alpha_bar()
    x, eps, t = rng.standard_normal((4, 2, 2, 3)), rng.standard_normal((4, 2, 2, 3)), np.array([0, 1, 500, 999])
    alpha, sigma = (root.reshape(4, 1, 1, 1) for root in (np.sqrt(bar[t]), np.sqrt(1 - bar[t])))
    mine = schedulers.alphas_cumprod(CONFIG) if on_host else jnp.asarray(bar, jnp.float32)
    x32, eps32 = jnp.asarray(x, jnp.float32), jnp.asarray(eps, jnp.float32)
    noisy = schedulers.add_noise(x32, eps32, jnp.asarray(t), mine)
    np.testing.assert_allclose(noisy, alpha * x + sigma * eps, rtol=1e-5, atol=1e-5)
    told = schedulers.target(kind, x32, eps32, jnp.asarray(t), mine)
    expected = eps if kind == "epsilon" else alpha * eps - sigma * x
    np.testing.assert_allclose(told, expected, rtol=1e-5, atol=1e-5)
    assert (
        schedulers.add_noise(x32.astype(jnp.bfloat16), eps32.astype(jnp.bfloat16), jnp.asarray(t), mine).dtype
        == "bfloat16"
    )
