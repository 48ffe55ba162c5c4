"""The gate: shut for prompts that have nothing to do with the concept, open for those that head for it."""

import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.errors import InputError
from ine_jax.guidance import Cfg, Gated, Negative, Texts
from tests.support.guards import LATENT, moment

W, S = 7.5, 3.0


def directions(cosine: float, seed: int = 3) -> np.ndarray:
    """Branches [1, 3, h, w, c] whose prompt and negative directions enclose an angle with this cosine."""
    rng = np.random.default_rng(seed)
    start, a, b = (rng.standard_normal(LATENT) for _ in range(3))
    a /= np.linalg.norm(a)
    b -= (a * b).sum() * a
    b /= np.linalg.norm(b)
    return np.stack([start, start + 2.0 * a, start + 0.7 * (cosine * a + np.sqrt(1 - cosine**2) * b)])[None]


def guided(guard: Gated | Negative | Cfg, eps: np.ndarray, times: int = 1) -> np.ndarray:
    texts = Texts(*(jnp.zeros((1, 2, 3)) for _ in range(3)))
    state = guard.init(texts, jnp.zeros((1, *LATENT)))
    for step in range(times):
        out, state = guard.combine(state, jnp.asarray(eps, jnp.float32), moment(step, 1))
    return np.asarray(out)


@pytest.mark.parametrize(
    ("cosine", "gate"), [(-0.5, 0.0), (0.2, 0.0), (0.4, 0.5), (0.55, 0.875), (0.6, 1.0), (0.9, 1.0)]
)
def test_the_gate_opens_linearly_between_its_cosines(cosine: float, gate: float) -> None:
    eps = directions(cosine)
    np.testing.assert_allclose(guided(Gated(W, S, 0.2, 0.6), eps), guided(Negative(W, S * gate), eps), atol=1e-4)


def test_a_shut_gate_is_plain_guidance_and_an_open_one_the_negative() -> None:
    for cosine in (-0.9, 0.0, 0.9):
        eps = directions(cosine)
        np.testing.assert_allclose(guided(Gated(W, S, 1.0, 1.0), eps), guided(Cfg(W), eps[:, :2]), atol=1e-5)
        np.testing.assert_allclose(guided(Gated(W, S, -1.0, -1.0), eps), guided(Negative(W, S), eps), atol=1e-5)


def test_momentum_averages_the_evidence_without_a_bias_to_zero() -> None:
    """After n steps of one cosine the corrected mean is that cosine; after a change it lies between."""
    guard, eps = Gated(W, S, 0.0, 1.0, 0.8), directions(0.5)
    for times in (1, 2, 7):
        np.testing.assert_allclose(guided(guard, eps, times), guided(Negative(W, 0.5 * S), eps), atol=1e-4)
    texts = Texts(*(jnp.zeros((1, 2, 3)) for _ in range(3)))
    state = guard.init(texts, jnp.zeros((1, *LATENT)))
    _, state = guard.combine(state, jnp.asarray(directions(1.0), jnp.float32), moment(0, 1))
    out, _ = guard.combine(state, jnp.asarray(directions(0.5), jnp.float32), moment(1, 1))
    gate = (0.8 * 0.2 * 1.0 + 0.2 * 0.5) / (1 - 0.8**2)
    np.testing.assert_allclose(out, guided(Negative(W, gate * S), directions(0.5)), atol=1e-4)


def test_equal_predictions_give_a_number() -> None:
    eps = np.repeat(directions(0.5)[:, :1], 3, axis=1)
    np.testing.assert_allclose(guided(Gated(W, S), eps), eps[:, 0], atol=1e-5)


def test_no_negative_is_refused() -> None:
    with pytest.raises(InputError, match="Gated"):
        Gated().init(Texts(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3))), jnp.zeros((1, *LATENT)))


def test_a_window_steers_the_part_that_shows_the_concept() -> None:
    """Left half: both directions agree. Right half: they oppose. Only the left half moves."""
    left = np.zeros((8, 8, 2))
    left[:, :4] = 1.0
    toward = np.random.default_rng(0).standard_normal((8, 8, 2))
    away = np.where(left > 0, toward, -toward)
    eps = np.stack([0 * toward, toward, away])[None]
    texts = Texts(*(jnp.zeros((1, 2, 3)) for _ in range(3)))
    guard = Gated(W, S, 0.9, 0.95, window=3)
    state = guard.init(texts, jnp.zeros((1, 8, 8, 2)))
    out, _ = guard.combine(state, jnp.asarray(eps, jnp.float32), moment(0, 1))
    np.testing.assert_allclose(out[0, :, :3], (W - S) * toward[:, :3], rtol=1e-4)
    np.testing.assert_allclose(out[0, :, 5:], W * toward[:, 5:], rtol=1e-4)


@pytest.mark.parametrize("window", [2, -1])
def test_a_window_without_a_middle_is_refused(window: int) -> None:
    with pytest.raises(InputError, match="window"):
        Gated(window=window)
