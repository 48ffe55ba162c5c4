"""The running posterior of dynamic negative guidance, against chains whose true posterior is known in closed form.

The toy: a mixture of two Gaussians of equal spread, the negative's class (a share of 0.3) around +m and the rest
around -m. The base is the whole mixture, so log p(n | x_t) has a closed form at every noise level.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax import schedulers
from ine_jax.errors import InputError
from ine_jax.guidance import Cfg, DynamicNegative, Guidance, Moment, Negative, Texts
from ine_jax.models.layers import per_row
from ine_jax.pipeline.sampling import sample
from ine_jax.types import Array
from tests.support import cases

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
BAR = schedulers.alphas_cumprod(CONFIG)
SHAPE = (2, 4, 2)
SHARE, SPREAD, MEAN = 0.3, 0.3, 0.8
ITEMS = 200


def class_eps(x: Any, alpha: Any, sigma: Any, mean: float) -> Any:
    """ε of one class: the mean of the noise in x_t = α x_0 + σ ε where x_0 is Gaussian."""
    return sigma * (x - alpha * mean) / (alpha**2 * SPREAD**2 + sigma**2)


def log_odds(x: Any, alpha: Any, sigma: Any, xp: Any = np) -> Any:
    """log p(n | x_t) / p(rest | x_t), [batch, 1, 1, 1]."""
    slope = 2 * alpha * MEAN / (alpha**2 * SPREAD**2 + sigma**2)
    return xp.sum(x, axis=(1, 2, 3), keepdims=True) * slope + np.log(SHARE / (1 - SHARE))


def base_eps(x: Any, alpha: Any, sigma: Any, xp: Any = np) -> Any:
    p = 1 / (1 + xp.exp(-log_odds(x, alpha, sigma, xp)))
    return p * class_eps(x, alpha, sigma, MEAN) + (1 - p) * class_eps(x, alpha, sigma, -MEAN)


def log_posterior(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    return -np.logaddexp(0.0, -log_odds(x, alpha, sigma)[:, 0, 0, 0])


def levels(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """α and σ of `steps` noise levels, from noise to clean."""
    bar = BAR[np.linspace(999, 0, steps).round().astype(int)]
    return np.sqrt(bar), np.sqrt(1 - bar)


def transition(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float, float]:
    """The weights of x_t and ε in DDPM's mean, written as in the released code, and its variance."""
    (alpha, sigma), (alpha_next, sigma_next) = a, b
    step = alpha**2 / alpha_next**2
    return 1 / np.sqrt(step), -(1 - step) / sigma / np.sqrt(step), (1 - step) * sigma_next**2 / sigma**2


def chain(steps: int, ddpm: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x_t of every level, [steps, batch, h, w, c], sampled from the base in float64; and the levels."""
    rng = np.random.default_rng(seed)
    alpha, sigma = levels(steps)
    seen = [rng.standard_normal((ITEMS, *SHAPE))]
    for a, b in itertools.pairwise(zip(alpha, sigma, strict=True)):
        x, eps = seen[-1], base_eps(seen[-1], *a)
        keep, push, variance = transition(a, b)
        if ddpm:
            seen.append(keep * x + push * eps + np.sqrt(variance) * rng.standard_normal(x.shape))
        else:
            seen.append(b[0] * (x - a[1] * eps) / a[0] + b[1] * eps)
    return np.stack(seen), alpha, sigma


def told(seen: np.ndarray, alpha: np.ndarray, sigma: np.ndarray, tau: float, delta: float, p: float) -> np.ndarray:
    """log p [steps, batch] by algorithm 1, in float64, from the latents of a chain."""
    log_p = [np.full(seen.shape[1], np.log(p))]
    for i in range(len(seen) - 1):
        keep, push, variance = transition((alpha[i], sigma[i]), (alpha[i + 1], sigma[i + 1]))
        means = (
            keep * seen[i] + push * eps
            for eps in (class_eps(seen[i], alpha[i], sigma[i], MEAN), base_eps(seen[i], alpha[i], sigma[i]))
        )
        from_negative, from_base = (((seen[i + 1] - mean) ** 2).sum((1, 2, 3)) for mean in means)
        change = (-tau * (from_negative - from_base) + delta) / (2 * variance)
        log_p.append(np.clip(log_p[-1] + change, np.log(1e-6), np.log(0.99)))
    return np.stack(log_p)


@functools.partial(jax.jit, static_argnames="kind")
def tracked(guard: DynamicNegative, seen: Array, alpha: Array, sigma: Array, kind: str = "epsilon") -> tuple[Any, Any]:
    """The guard's log p and prediction at every level of a chain that is given."""
    texts = Texts(*(jnp.zeros((seen.shape[1], 1, 1)) for _ in range(3)))

    def body(state: Any, row: Any) -> Any:
        x, a, s = row
        base, negative = base_eps(x, a, s, jnp), class_eps(x, a, s, MEAN)
        if kind == "v_prediction":
            base, negative = ((eps - s * x) / a for eps in (base, negative))
        at = Moment(jnp.int32(0), jnp.float32(0), x, a, s, len(seen), kind)
        out, state = guard.combine(state, jnp.stack([base, base, negative], 1), at)
        return state, (state.log_p, out)

    return jax.lax.scan(body, guard.init(texts, seen[0]), (seen, alpha, sigma))[1]


def in_float32(*arrays: np.ndarray) -> list[Array]:
    return [jnp.asarray(array, jnp.float32) for array in arrays]


@pytest.mark.parametrize("ddpm", [True, False], ids=["ddpm", "ddim"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("tau", "delta", "prior"), [(1.0, 0.0, 0.3), (0.2, 0.002, 0.01)])
def test_the_posterior_follows_algorithm_1(ddpm: bool, kind: str, tau: float, delta: float, prior: float) -> None:
    """Means and distances written out in float64 against what is expressed through two predictions."""
    given = chain(40, ddpm)
    mine, _ = tracked(DynamicNegative(7.5, 3.0, prior, tau, delta), *in_float32(*given), kind=kind)
    np.testing.assert_allclose(mine, told(*given, tau, delta, prior), rtol=2e-3, atol=2e-3)


def test_the_guidance_is_the_odds_times_the_difference() -> None:
    given = chain(12, ddpm=True)
    log_p, out = tracked(DynamicNegative(7.5, 3.0, 0.1, 0.5, 0.001), *in_float32(*given))
    seen, alpha, sigma = (np.asarray(array)[..., *(None,) * n] for array, n in zip(given, (0, 4, 4), strict=True))
    p = np.exp(told(*given, 0.5, 0.001, 0.1))[..., None, None, None]
    base = np.stack([base_eps(x, a, s) for x, a, s in zip(seen, alpha, sigma, strict=True)])
    expected = base - 3.0 * p / (1 - p) * (class_eps(seen, alpha, sigma, MEAN) - base)
    np.testing.assert_allclose(log_p[0], np.log(0.1), rtol=1e-6)
    np.testing.assert_allclose(out, expected, rtol=5e-3, atol=5e-3)


def test_on_a_ddpm_chain_it_is_the_true_posterior() -> None:
    """At τ = 1, δ = 0 and the true prior, up to the length of the steps and what x_T already tells."""
    seen, alpha, sigma = chain(300, ddpm=True)
    mine, _ = tracked(DynamicNegative(1.0, 0.0, SHARE, 1.0, 0.0), *in_float32(seen, alpha, sigma))
    true = np.stack([log_posterior(*level) for level in zip(seen, alpha, sigma, strict=True)])
    start = true[0] - np.log1p(-np.exp(true[0])) - np.log(SHARE / (1 - SHARE))
    decided = np.abs(true[-1] - true[0]) > 0.5
    assert np.mean(np.abs(np.exp(mine) - np.exp(np.minimum(true, np.log(0.99))))) < 0.08
    assert np.abs(start).mean() < 0.8  # the evidence that the chain does not see
    negative = true[-1] > np.log(0.5)
    assert 30 < negative.sum() < 100
    assert np.asarray(mine[-1])[negative].min() > np.asarray(mine[-1])[~negative].max()
    assert np.mean(np.sign(mine[-1] - mine[0])[decided] == np.sign(true[-1] - true[0])[decided]) > 0.97


@pytest.mark.parametrize("ddpm", [True, False], ids=["ddpm", "ddim"])
def test_it_rises_where_the_sample_heads_for_the_concept_and_falls_elsewhere(ddpm: bool) -> None:
    """With the published τ and δ, through 50 steps."""
    seen, alpha, sigma = chain(50, ddpm)
    mine, _ = tracked(DynamicNegative(1.0, 0.0, 0.1), *in_float32(seen, alpha, sigma))
    negative = log_posterior(seen[-1], alpha[-1], sigma[-1]) > np.log(0.5)
    change = np.asarray(mine[-1] - mine[0])
    assert change[negative].min() > 0.5
    assert change[~negative].max() < -0.5


def test_on_a_deterministic_chain_only_the_divergence_is_missing() -> None:
    """log p(n | x) changes by the updates, and by -β/2 ∇·(∇log p_n - ∇log p_b) = β/2 p (1 - p) ‖2 α m / v‖² a step."""
    seen, alpha, sigma = chain(1000, ddpm=False)
    guard = DynamicNegative(1.0, 0.0, 1e-3, 1.0, 0.0, low=1e-30, high=0.9)
    mine, _ = tracked(guard, *in_float32(seen, alpha, sigma))
    true = np.stack([log_posterior(*level) for level in zip(seen, alpha, sigma, strict=True)])
    slope = 2 * alpha * MEAN / (alpha**2 * SPREAD**2 + sigma**2)
    p, beta = np.exp(true[:-1]), 1 - (alpha[:-1] / alpha[1:]) ** 2
    missing = 0.5 * beta[:, None] * p * (1 - p) * (slope[:-1, None] ** 2 * np.prod(SHAPE))
    upto = 700  # beyond it the last, small noise levels make the steps coarse
    change, told_by_updates = true[upto] - true[0], np.asarray(mine[upto] - mine[0], np.float64)
    kept = (change > -40) & (told_by_updates < np.log(0.9 / 1e-3) - 1e-3)
    assert kept.sum() > 60
    total = told_by_updates + missing[:upto].sum(0)
    np.testing.assert_allclose(total[kept], change[kept], rtol=0.03, atol=0.06)
    assert (missing[:upto].sum(0)[kept] > 0).all()


def network(x: Array, t: Array, context: Array) -> Array:
    """The base for a context of zeros, the negative's class for a context of ones."""
    x, t = per_row(x, context), per_row(t, context)
    bar = jnp.asarray(BAR, jnp.float32)[t.astype(jnp.int32)].reshape(-1, 1, 1, 1)
    alpha, sigma = jnp.sqrt(bar), jnp.sqrt(1 - bar)
    negative = context.mean(axis=(1, 2)).reshape(-1, 1, 1, 1) > 0.5
    return jnp.where(negative, class_eps(x, alpha, sigma, MEAN), base_eps(x, alpha, sigma, jnp))


TEXTS = Texts(jnp.zeros((ITEMS, 2, 3)), jnp.zeros((ITEMS, 2, 3)), jnp.ones((ITEMS, 2, 3)))


PLAIN = dataclasses.replace(TEXTS, negative=None)


def ends(name: str, guard: Guidance, texts: Texts = TEXTS) -> np.ndarray:
    config = CONFIG | {"skip_prk_steps": True, "timestep_spacing": "leading", "steps_offset": 1}
    sampler = schedulers.from_config(config, name)
    noise = jnp.asarray(np.random.default_rng(1).standard_normal((ITEMS, *SHAPE)), jnp.float32)
    run = jax.jit(lambda guard: sample(network, sampler, sampler.tables(25), guard, texts, noise))
    return np.asarray(run(guard))


@pytest.mark.parametrize("name", cases.sample(schedulers.READERS, ("ddim",)))
def test_a_run_avoids_the_concept_and_leaves_the_rest_alone(name: str) -> None:
    """A constant scale that avoids as much drives the rest far out of the data."""
    plain = ends(name, Cfg(1.0), PLAIN)
    was, rest = plain.mean((1, 2, 3)) > 0.4, plain.mean((1, 2, 3)) < -0.4
    assert was.sum() > 40
    for guard, moved in ((DynamicNegative(1.0, 12.0, SHARE, 1.0, 0.0), (0.0, 0.2)), (Negative(1.0, 5.0), (5.0, 10.0))):
        guided = ends(name, guard)
        assert (guided.mean((1, 2, 3))[was] < 0.0).all()
        assert moved[0] < np.abs(guided - plain)[rest].mean() < moved[1]


def test_a_prior_of_zero_and_a_strength_of_zero_are_plain_guidance() -> None:
    plain = ends("ddim", Cfg(2.0), PLAIN)
    for guard in (DynamicNegative(2.0, 12.0, prior=0.0, low=0.0), DynamicNegative(2.0, 0.0, prior=0.9)):
        np.testing.assert_allclose(ends("ddim", guard), plain, rtol=1e-5, atol=1e-5)


def test_the_posterior_stays_within_its_bounds_and_can_leave_them() -> None:
    given = in_float32(*chain(50, ddpm=True))
    mine, out = tracked(DynamicNegative(1.0, 1.0, 0.1, 1.0, 0.0, low=0.05, high=0.6), *given)
    p = np.exp(mine)
    np.testing.assert_allclose([p.min(), p.max()], [0.05, 0.6], rtol=1e-5)
    rises = (p[1:] > 0.3) & (np.minimum.accumulate(p)[:-1] < 0.0501)
    assert rises.any()
    assert np.isfinite(out).all()


def test_the_noise_level_must_fall_for_the_posterior_to_move() -> None:
    """As in the repeated step of PNDM; and before the first call there is nothing to compare with."""
    seen, alpha, sigma = in_float32(*chain(3, ddpm=True))
    again = [array[jnp.array([0, 1, 1, 2])] for array in (seen, alpha, sigma)]
    mine, _ = tracked(DynamicNegative(1.0, 1.0, 0.1), *again)
    once, _ = tracked(DynamicNegative(1.0, 1.0, 0.1), seen, alpha, sigma)
    np.testing.assert_array_equal(mine[2], mine[1])
    np.testing.assert_allclose(mine[jnp.array([0, 1, 3])], once, rtol=1e-6)


def test_a_run_may_begin_at_pure_noise() -> None:
    """Zero terminal SNR: α = 0 at the first call, where only v tells anything."""
    guard, texts = DynamicNegative(1.0, 1.0, 0.1), Texts(*(jnp.zeros((2, 1, 1)) for _ in range(3)))
    rng = np.random.default_rng(0)
    state = guard.init(texts, jnp.zeros((2, *SHAPE)))
    for alpha in (0.0, 0.3, 0.8):
        x, v = (jnp.asarray(rng.standard_normal((2, *shape)), jnp.float32) for shape in (SHAPE, (3, *SHAPE)))
        sigma = jnp.sqrt(1.0 - jnp.float32(alpha) ** 2)
        at = Moment(jnp.int32(0), jnp.float32(0), x, jnp.float32(alpha), sigma, 3, "v_prediction")
        out, state = guard.combine(state, v, at)
        assert np.isfinite(out).all()
        assert np.isfinite(state.log_p).all()


def test_a_missing_negative_is_refused() -> None:
    for call in (
        lambda: DynamicNegative().init(PLAIN, jnp.zeros((1, *SHAPE))),
        lambda: DynamicNegative().contexts(PLAIN, jnp.int32(0)),
    ):
        with pytest.raises(InputError, match="DynamicNegative"):
            call()
