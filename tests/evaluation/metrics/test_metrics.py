"""Intervals and tests against published figures, hand-made counts and the formulas written out in float64."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ine_jax.evaluation.metrics import exact_p, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3 (score)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_newcombe(k: int, n: int, low: float, high: float) -> None:
    rate = wilson(k, n)
    assert (round(rate.low, 4), round(rate.high, 4)) == (low, high)


def test_wilson_at_the_ends() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high, wilson(0, 0).rate) == (0.0, 1.0, None)
    z2 = 1.959963984540054**2
    assert wilson(10, 10).high == 1.0
    assert math.isclose(wilson(10, 10).low, 10 / (10 + z2))
    for k, n in [(-1, 3), (4, 3)]:
        with pytest.raises(ValueError, match="no rate"):
            wilson(k, n)


@given(st.integers(0, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_rate_and_mirrors(pair: tuple[int, int]) -> None:
    k, n = pair
    rate, mirror = wilson(k, n), wilson(n - k, n)
    assert 0 <= rate.low <= (k / n if n else 0.5) <= rate.high <= 1
    assert math.isclose(rate.low, 1 - mirror.high, abs_tol=1e-12)


def test_wilson_equals_its_formula() -> None:
    z = 1.959963984540054
    for k, n in [(0, 1), (3, 7), (50, 100), (299, 300), (7, 1000)]:
        p, shrink = k / n, 1 + z * z / n
        centre = (p + z * z / (2 * n)) / shrink
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / shrink
        assert math.isclose(wilson(k, n).low, centre - half, abs_tol=1e-12)
        assert math.isclose(wilson(k, n).high, centre + half, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "p"), [(0, 0, 1.0), (0, 5, 2 / 32), (1, 9, 22 / 1024), (4, 4, 1.0), (0, 12, 2 / 4096)]
)
def test_exact_p_by_hand(a: int, b: int, p: float) -> None:
    assert math.isclose(exact_p(a, b), p)
    assert exact_p(a, b) == exact_p(b, a)


def test_exact_p_equals_twice_the_smaller_tail() -> None:
    for a, b in [(3, 11), (20, 41), (120, 180), (400, 500), (0, 1000)]:
        n = a + b
        tail = sum(math.comb(n, i) for i in range(min(a, b) + 1))
        assert math.isclose(exact_p(a, b), min(1.0, 2 * tail / 2**n), rel_tol=1e-9, abs_tol=1e-300)
