"""Rates as k of n with Wilson's 95 % score interval (Wilson 1927, JASA 22, 209-212)."""

from __future__ import annotations

import dataclasses
import math

Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


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


def wilson(k: int, n: int, z: float = Z95) -> Rate:
    """Wilson's score interval of k successes in n trials; [0, 1] where n = 0. ValueError unless 0 <= k <= n."""
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no rate")
    if n == 0:
        return Rate(0, 0, 0.0, 1.0)
    p = k / n
    shrink = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / shrink
    # at k = 0 and k = n the bound is exactly 0 or 1; rounding would leave 1e-17 there
    return Rate(k, n, 0.0 if k == 0 else centre - half, 1.0 if k == n else centre + half)
