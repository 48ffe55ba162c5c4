"""A guard in a window of the run: which rows are computed where, and whose phases they are."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax import schedulers
from ine_jax.errors import InputError
from ine_jax.guidance import Cfg, Guidance, Interval, Negative, NoGuidance, Sld, Texts, sld_preset
from ine_jax.guidance.base import phases
from ine_jax.pipeline.sampling import sample
from tests.support.toys import ToyDenoiser

RNG = np.random.default_rng(2)
TEXTS = Texts(*(jnp.asarray(RNG.standard_normal((2, 5, 4)), jnp.float32) for _ in range(3)))
NOISE = RNG.standard_normal((2, 4, 4, 2)).astype(np.float32)
SAMPLER = schedulers.from_config({"clip_sample": False, "timestep_spacing": "leading"}, "euler")


def counts(guard: Guidance, calls: int) -> list[tuple[int, int]]:
    """Rows and calls of every part."""
    return [(part.branches, count) for part, count in phases(guard, calls)]


def run(guard: Guidance, steps: int = 10, net: Any = None) -> np.ndarray:
    return np.asarray(sample(net or ToyDenoiser(), SAMPLER, SAMPLER.tables(steps), guard, TEXTS, jnp.asarray(NOISE)))


def test_the_run_is_plain_outside_and_guarded_inside() -> None:
    """Told by hand: ten Euler steps, of which those with index 2 to 5 avoid the negative."""
    net, tables = ToyDenoiser(), SAMPLER.tables(10)
    prompt, uncond, negative = (np.asarray(text, np.float64) for text in (TEXTS.prompt, TEXTS.uncond, TEXTS.negative))
    x = NOISE.astype(np.float64) * tables.noise_scale[0]
    for i, (t, level, following) in enumerate(zip(*tables[:3], strict=True)):
        seen = x / np.sqrt(level**2 + 1)
        u, c, n = (net.numpy(seen, t, text) for text in (uncond, prompt, negative))
        eps = u + 3.0 * (c - u) - (2.0 * (n - u) if 2 <= i < 6 else 0.0)
        x = x + (following - level) * eps
    np.testing.assert_allclose(run(Interval(Negative(3.0, 2.0), Cfg(3.0), 0.2, 0.6)), x, rtol=1e-4, atol=1e-4)


def test_rows_that_nobody_reads_are_not_computed() -> None:
    rows: list[int] = []

    def network(latents: jax.Array, timesteps: jax.Array, context: jax.Array) -> jax.Array:
        rows.append(context.shape[0])
        return ToyDenoiser()(latents, timesteps, context)

    run(Interval(Negative(3.0, 2.0), Cfg(3.0), 0.2, 0.6), net=network)
    assert rows == [4, 6, 4]


def test_the_negative_of_cfg_acts_in_the_window_only() -> None:
    """Under `Cfg` a negative takes the unconditional row; outside the window that row is the empty prompt."""
    windowed, without = Interval(Cfg(3.0), Cfg(3.0), 0.0, 0.5), dataclasses.replace(TEXTS, negative=None)
    first, second = phases(windowed, 10)
    assert (first[1], second[1]) == (5, 5)
    np.testing.assert_array_equal(first[0].contexts(TEXTS, jnp.int32(0))[:, 0], TEXTS.negative)
    np.testing.assert_array_equal(second[0].contexts(TEXTS, jnp.int32(5)), Cfg().contexts(without, jnp.int32(5)))


def test_the_whole_run_is_the_guard_itself() -> None:
    for guard in (Negative(3.0, 2.0), sld_preset("weak"), Cfg(3.0)):
        assert phases(Interval(guard, Cfg(3.0), 0.0, 1.0), 50) == phases(guard, 50)
    np.testing.assert_array_equal(run(Interval(Negative(3.0, 2.0), Cfg(), 0.0, 1.0)), run(Negative(3.0, 2.0)))


@pytest.mark.parametrize(
    ("start", "stop", "calls", "expected"),
    [
        (0.0, 0.5, 10, [(3, 5), (2, 5)]),
        (0.5, 1.0, 10, [(2, 5), (3, 5)]),
        (0.25, 0.75, 50, [(2, 13), (3, 25), (2, 12)]),  # 12.5 and 37.5: halves up
        (0.25, 0.75, 51, [(2, 13), (3, 25), (2, 13)]),
        (0.0, 1.0, 1, [(3, 1)]),
        (0.1, 0.2, 1, [(2, 1)]),
    ],
)
def test_the_ends_are_rounded_to_calls(start: float, stop: float, calls: int, expected: list[tuple[int, int]]) -> None:
    assert counts(Interval(Negative(), Cfg(), start, stop), calls) == expected


def test_a_warm_up_counts_from_the_start_of_the_run() -> None:
    """`weak` computes two rows for the first 15 of 50 calls; a window cuts that and does not move it."""
    weak = sld_preset("weak")
    assert counts(weak, 50) == [(2, 15), (3, 35)]
    assert counts(Interval(weak, Cfg(), 0.2, 0.6), 50) == [(2, 10), (2, 5), (3, 15), (2, 20)]
    assert counts(Interval(weak, Cfg(), 0.4, 0.6), 50) == [(2, 20), (3, 10), (2, 20)]
    assert counts(Interval(weak, Cfg(), 0.0, 0.2), 50) == [(2, 10), (2, 40)]


def test_a_warm_up_without_phases_counts_from_the_start_of_the_run() -> None:
    """Call 12 of 50 lies behind the warm-up of 10, though it is the second call of the window that starts at 11."""
    late = Sld(3.0, 1.5, 0.5, 0.3, 0.4, 10.0)
    without = dataclasses.replace(late, warmup=0.0)
    first, second = (run(Interval(guard, Cfg(3.0), 0.22, 0.5), 50) for guard in (late, without))
    np.testing.assert_array_equal(first, second)


def test_windows_nest_and_the_outside_may_have_phases() -> None:
    inner = Interval(Negative(), Cfg(), 0.2, 0.6)
    assert counts(Interval(inner, NoGuidance(), 0.4, 0.8), 10) == [(1, 4), (3, 2), (2, 2), (1, 2)]
    outside = Interval(NoGuidance(), Cfg(), 0.0, 0.2)
    assert counts(Interval(Negative(), outside, 0.5, 0.6), 10) == [(1, 2), (2, 3), (3, 1), (2, 4)]


@pytest.mark.parametrize(("start", "stop"), [(-0.1, 0.5), (0.5, 0.5), (0.6, 0.4), (0.5, 1.1), (float("nan"), 1.0)])
def test_a_window_outside_the_run_is_refused(start: float, stop: float) -> None:
    with pytest.raises(InputError, match="0 <= start < stop <= 1"):
        Interval(Negative(), Cfg(), start, stop)
