"""Rates as k of n with Wilson's 95 % score interval (Wilson 1927, JASA 22, 209-212)."""

import dataclasses


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
    """Wilson's 95 % interval of k successes in n trials; [0, 1] where n = 0. ValueError unless 0 <= k <= n."""
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no rate")
    if n == 0:
        return Rate(0, 0, 0.0, 1.0)
    from scipy import stats  # on first use: it takes longer to import than a command to start

    found = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    # at k = 0 and k = n the bound is exactly 0 or 1; rounding would leave 1e-17 there
    return Rate(k, n, 0.0 if k == 0 else float(found.low), 1.0 if k == n else float(found.high))
