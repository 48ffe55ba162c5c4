"""Moving the predicted image away from references: when, by how much, and in the network's own terms."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax import schedulers
from ine_jax.errors import InputError
from ine_jax.guidance import Cfg, Interval, Moment, Negative, SafeDenoiser, Sld, Texts
from ine_jax.guidance.base import phases
from ine_jax.models.layers import per_row
from ine_jax.pipeline.sampling import sample
from ine_jax.schedulers.base import predictions
from tests.support.guards import moment
from tests.support.toys import ToyDenoiser

RNG = np.random.default_rng(5)
SHAPE = (4, 4, 2)
REFERENCES = RNG.standard_normal((7, *SHAPE)).astype(np.float32)
EPS = RNG.standard_normal((3, 2, *SHAPE)).astype(np.float32)
GUARD = SafeDenoiser(Cfg(3.0), jnp.asarray(REFERENCES), 0.5, 2.0, 780.0)


def at(prediction: str = "epsilon", timestep: float = 900.0) -> Moment:
    return dataclasses.replace(moment(), prediction=prediction, timestep=jnp.float32(timestep))


def combine(guard: Any, when: Moment) -> np.ndarray:
    return np.asarray(guard.combine((), jnp.asarray(EPS), when)[0], np.float64)


def clean(output: np.ndarray, when: Moment) -> np.ndarray:
    return np.asarray(predictions(when.prediction, when.latents, jnp.asarray(output), when.alpha, when.sigma)[0])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("squared", [False, True])
def test_the_clean_latents_of_the_prediction_are_the_corrected_ones(prediction: str, squared: bool) -> None:
    when, guard = at(prediction), dataclasses.replace(GUARD, squared=squared, sigma=6.0)
    before = clean(combine(Cfg(3.0), when), when).astype(np.float64)
    gap = np.sqrt(((before[:, None] - REFERENCES) ** 2).sum((2, 3, 4)))
    kernel = np.exp(-(gap**2 if squared else gap) / (2 * 6.0**2))
    expected = before - 0.5 * np.einsum("bj,jhwc->bhwc", kernel, REFERENCES) / kernel.sum(1).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(clean(combine(guard, when), when), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_nothing_changes_late_in_the_run_or_at_strength_zero(prediction: str) -> None:
    plain = combine(Cfg(3.0), at(prediction))
    assert np.abs(combine(GUARD, at(prediction, 780.0)) - plain).max() > 0.01
    np.testing.assert_array_equal(combine(GUARD, at(prediction, 779.0)), plain)
    np.testing.assert_array_equal(combine(dataclasses.replace(GUARD, strength=0.0), at(prediction)), plain)


def test_only_items_near_the_references_are_corrected() -> None:
    """The first item is led onto a reference, the others are far from all of them."""
    when, guard = at(), dataclasses.replace(GUARD, inner=Negative(1.0, 0.0), threshold=0.9, squared=True, sigma=1.0)
    eps = np.repeat(EPS[:, :1], 3, axis=1)
    eps[0] = (np.asarray(when.latents[0]) - 0.8 * REFERENCES[3]) / 0.6
    out, _ = guard.combine((), jnp.asarray(eps), when)
    np.testing.assert_array_equal(out[1:], eps[1:, 0])
    np.testing.assert_allclose(clean(np.asarray(out), when)[0], 0.5 * REFERENCES[3], atol=1e-4)


def test_where_no_reference_is_near_nothing_changes_and_nothing_is_nan() -> None:
    """Squared distances so large that every kernel is 0 in float32."""
    far = dataclasses.replace(GUARD, references=jnp.asarray(REFERENCES) + 500.0, squared=True, sigma=1.0)
    np.testing.assert_array_equal(combine(far, at()), combine(Cfg(3.0), at()))


def test_numbers_may_differ_from_item_to_item() -> None:
    numbers: Any = {
        "strength": [0.0, 0.3, 1.0],
        "sigma": [1.0, 2.0, 5.0],
        "from_timestep": [0.0, 950.0, 0.0],
    }
    arrays: dict[str, Any] = {name: jnp.asarray(values) for name, values in numbers.items()}
    together = combine(dataclasses.replace(GUARD, **arrays), at())
    for i in range(3):
        own: dict[str, Any] = {name: values[i] for name, values in numbers.items()}
        alone = combine(dataclasses.replace(GUARD, **own), at())
        np.testing.assert_allclose(together[i], alone[i], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(together[:2], combine(Cfg(3.0), at())[:2])


def test_a_run_ends_farther_from_the_references() -> None:
    """A network that always answers towards one reference; every sampler."""
    texts = Texts(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 4)))
    target, noise = jnp.asarray(REFERENCES[:1]), jnp.asarray(RNG.standard_normal((2, *SHAPE)), jnp.float32)
    config = {"clip_sample": False, "skip_prk_steps": True, "timestep_spacing": "leading", "steps_offset": 1}
    bar = jnp.asarray(schedulers.alphas_cumprod(config), jnp.float32)

    def network(x: jnp.ndarray, t: jnp.ndarray, c: jnp.ndarray) -> jnp.ndarray:
        x, t = per_row(x, c), per_row(t, c)
        level = bar[t.astype(jnp.int32)].reshape(-1, 1, 1, 1)
        return (x - jnp.sqrt(level) * target) / jnp.sqrt(1 - level)

    for name in schedulers.READERS:
        sampler = schedulers.from_config(config, name)
        ends = [
            sample(network, sampler, sampler.tables(10), guard, texts, noise)
            for guard in (Cfg(1.0), SafeDenoiser(Cfg(1.0), target, 0.5, from_timestep=0.0))
        ]
        plain, moved = (float(jnp.abs(end - target).mean()) for end in ends)
        assert plain < 0.1
        np.testing.assert_allclose(ends[1], 0.5 * target + 0 * ends[1], atol=0.1)  # x_0 - s x_0
        assert moved > 0.3


def test_it_wraps_every_part_of_the_guard_inside_and_carries_its_state() -> None:
    windowed = Interval(Negative(), Cfg(), 0.2, 0.6)
    parts = phases(SafeDenoiser(windowed, jnp.asarray(REFERENCES)), 10)
    assert [(type(part), part.branches, count) for part, count in parts] == [
        (SafeDenoiser, 2, 2),
        (SafeDenoiser, 3, 4),
        (SafeDenoiser, 2, 4),
    ]
    inner, eps = Sld(warmup=0.0), jnp.asarray(RNG.standard_normal((3, 3, *SHAPE)), jnp.float32)
    texts = Texts(*(jnp.zeros((3, 2, 2)) for _ in range(3)))
    guard = SafeDenoiser(inner, jnp.asarray(REFERENCES))
    state = guard.init(texts, jnp.zeros((3, *SHAPE)))
    np.testing.assert_array_equal(guard.combine(state, eps, at())[1], inner.combine(state, eps, at())[1])


def test_references_of_another_size_are_refused() -> None:
    texts = Texts(jnp.zeros((1, 2, 2)), jnp.zeros((1, 2, 2)))
    with pytest.raises(InputError, match=r"\[R, 8, 8, 2\]"):
        GUARD.init(texts, jnp.zeros((1, 8, 8, 2)))


def test_the_toy_denoiser_is_steered_within_jit() -> None:
    """A whole run with other references than those it was compiled for compiles nothing."""
    chex.clear_trace_counter()
    sampler = schedulers.from_config({"clip_sample": False}, "ddim")
    texts = Texts(*(jnp.asarray(RNG.standard_normal((2, 3, 4)), jnp.float32) for _ in range(2)))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(guard: SafeDenoiser) -> jnp.ndarray:
        return sample(ToyDenoiser(), sampler, sampler.tables(4), guard, texts, jnp.ones((2, *SHAPE)))

    first = run(dataclasses.replace(GUARD, from_timestep=0.0))
    second = run(dataclasses.replace(GUARD, from_timestep=500.0, references=-jnp.asarray(REFERENCES)))
    assert not np.allclose(first, second)
