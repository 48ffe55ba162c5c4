"""Means of per-image numbers with a 95 % interval by the normal approximation: mean ± 1.96 s / sqrt(n)."""

import dataclasses
import math
from collections.abc import Sequence

Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution
INTERVAL = "95 %, mean ± 1.96 s / √n"


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean of `n` numbers and the bounds of its 95 % interval; None where there are too few (none, or only one)."""

    n: int
    mean: float | None
    low: float | None
    high: float | None


def mean(values: Sequence[float]) -> Mean:
    """The mean of finite numbers; s is the sample deviation (divisor n - 1). Sums are exact: order is nothing."""
    n = len(values)
    if n == 0:
        return Mean(0, None, None, None)
    centre = math.fsum(values) / n
    if n == 1:
        return Mean(1, centre, None, None)
    half = Z95 * math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (n - 1) / n)
    return Mean(n, centre, centre - half, centre + half)
