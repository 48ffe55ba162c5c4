"""Rates and means with 95 % intervals, and the test of two guards on the same items.

SciPy is imported on first use: it takes longer to import than a command to start.
"""

import dataclasses
import math
from collections.abc import Sequence

Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution
INTERVAL = "95 %, mean ± 1.96 s / √n"


@dataclasses.dataclass(frozen=True)
class Rate:
    """`k` of `n` with the bounds of the 95 % interval; `rate` is None where n = 0."""

    k: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float | None:
        """k / n."""
        return self.k / self.n if self.n else None


def wilson(k: int, n: int) -> Rate:
    """Wilson's 95 % score interval (Wilson 1927, JASA 22, 209-212) of k successes in n trials; [0, 1] where n = 0."""
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no rate")
    if n == 0:
        return Rate(0, 0, 0.0, 1.0)
    from scipy import stats

    found = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    # at k = 0 and k = n the bound is exactly 0 or 1; rounding would leave 1e-17 there
    return Rate(k, n, 0.0 if k == 0 else float(found.low), 1.0 if k == n else float(found.high))


def mean(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Mean and bounds of `INTERVAL` with the sample deviation s (divisor n - 1); None where n is too small.

    Sums are exact, so that the order of the numbers changes nothing.
    """
    n = len(values)
    centre = math.fsum(values) / n if n else None
    if centre is None or n == 1:
        return centre, None, None
    half = Z95 * math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (n - 1) / n)
    return centre, centre - half, centre + half


def exact_p(only_a: int, only_b: int) -> float:
    """Exact McNemar test (1947, Psychometrika 12, 153-157): two-sided binomial test at 1/2; 1 without discordant items.

    `only_a` and `only_b` count the items on which just the one side succeeded.
    """
    if only_a + only_b == 0:
        return 1.0
    from scipy import stats

    return float(stats.binomtest(only_a, only_a + only_b).pvalue)
