"""Two guards on the same items: the exact McNemar test (McNemar 1947, Psychometrika 12, 153-157)."""

import dataclasses
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
    """Two-sided exact binomial test of the discordant items at 1/2; 1 where there are none."""
    if only_a + only_b == 0:
        return 1.0
    from scipy import stats  # on first use: it takes longer to import than a command to start

    return float(stats.binomtest(only_a, only_a + only_b).pvalue)


def from_counts(n: int, both: int, only_a: int, only_b: int) -> Paired:
    """The test of `n` common items, of which `both` sides, or only the one, succeeded."""
    return Paired(n, both, only_a, only_b, (only_b - only_a) / n if n else 0.0, exact_p(only_a, only_b))


def mcnemar(a: Mapping[str, bool], b: Mapping[str, bool]) -> Paired:
    """Compare outcomes keyed by item id; items that only one side has (unscored on the other) are left out."""
    common = sorted(a.keys() & b.keys())
    only_a = sum(a[i] and not b[i] for i in common)
    only_b = sum(b[i] and not a[i] for i in common)
    return from_counts(len(common), sum(a[i] and b[i] for i in common), only_a, only_b)
