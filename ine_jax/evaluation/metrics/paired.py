"""Two guards judged on the same items: the exact McNemar test (McNemar 1947, Psychometrika 12, 153-157)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Paired:
    """Outcomes of `a` and `b` on `n` common items.

    `only_a`, `only_b`: items where just the one succeeded; `difference` = rate of b - rate of a on the common items;
    `p`: two-sided exact p-value of the hypothesis that a discordant item is as likely to favour a as b.
    """

    n: int
    both: int
    only_a: int
    only_b: int
    difference: float
    p: float


def exact_p(only_a: int, only_b: int) -> float:
    """Two-sided binomial test of the discordant items at 1/2: twice the smaller tail, at most 1."""
    n = only_a + only_b
    term = tail = 1
    for i in range(min(only_a, only_b)):  # each coefficient from the one before: for large n they are costly alone
        term = term * (n - i) // (i + 1)
        tail += term
    # an integer ratio, so that the tail neither underflows nor overflows for any n
    return min(1.0, 2 * tail / 2**n) if n < 1000 else min(1.0, math.exp(math.log(2 * tail) - n * math.log(2)))


def from_counts(n: int, both: int, only_a: int, only_b: int) -> Paired:
    """The test of `n` common items, of which `both` sides, or only the one, succeeded."""
    return Paired(n, both, only_a, only_b, (only_b - only_a) / n if n else 0.0, exact_p(only_a, only_b))


def mcnemar(a: Mapping[str, bool], b: Mapping[str, bool]) -> Paired:
    """Compare outcomes keyed by item id; items that only one side has (unscored on the other) are left out."""
    common = sorted(a.keys() & b.keys())
    only_a = sum(a[i] and not b[i] for i in common)
    only_b = sum(b[i] and not a[i] for i in common)
    return from_counts(len(common), sum(a[i] and b[i] for i in common), only_a, only_b)
