"""A guard that acts in one part of a run only (the limited interval of arXiv 2404.07724)."""

import dataclasses
import functools
import math
from dataclasses import dataclass

import jax

from ine_jax.errors import InputError
from ine_jax.guidance.base import Guidance, Moment, State, Texts, phases
from ine_jax.types import Array, BranchContext, BranchLatents, Latents


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Unaware:
    """A guard that sees no negative text: under `Cfg` the negative would otherwise take the unconditional row."""

    inner: Guidance

    @property
    def branches(self) -> int:
        """Return those of the guard."""
        return self.inner.branches

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the guard's own."""
        return self.inner.init(dataclasses.replace(texts, negative=None), latents)

    def contexts(self, texts: Texts, step: Array) -> BranchContext:
        """Return the guard's rows of texts without a negative."""
        return self.inner.contexts(dataclasses.replace(texts, negative=None), step)

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return the guard's own."""
        return self.inner.combine(state, eps, at)


@functools.partial(jax.tree_util.register_dataclass, data_fields=("inner", "outside"), meta_fields=("start", "stop"))
@dataclass(frozen=True)
class Interval:
    """`inner` at the network calls from start · calls to stop · calls (without the last), `outside` at the others.

    Both ends are rounded to the nearest call, halves up. Rows that nobody reads are not computed: the run is cut into
    phases. A guard with phases of its own keeps them where they lie and loses what lies outside the window: a warm-up
    counts from the start of the run. Inside the window the guard begins with an empty state.

    `outside` sees no negative text: nothing is avoided there.

    Attributes:
        inner: the guard.
        outside: what acts before and after it, usually `Cfg` at the same scale.
        start: where the window begins, a fraction of the run; static.
        stop: where it ends; static.

    Raises:
        InputError: not 0 <= start < stop <= 1.
    """

    inner: Guidance
    outside: Guidance
    start: float
    stop: float

    def __post_init__(self) -> None:
        """Check the window."""
        if not 0 <= self.start < self.stop <= 1:
            raise InputError(
                f"the interval {self.start} to {self.stop}", "0 <= start < stop <= 1, fractions of a run", "mend it"
            )

    @property
    def branches(self) -> int:
        """Return those of `inner`."""
        return self.inner.branches

    def phases(self, calls: int) -> list[tuple[Guidance, int]]:
        """Return the phases of `outside`, of `inner` and of `outside` again, each cut to its part of the run."""
        first, last = (math.floor(end * calls + 0.5) for end in (self.start, self.stop))
        around: list[tuple[Guidance, int]] = [(Unaware(part), n) for part, n in phases(self.outside, calls)]
        return [
            *_cut(around, 0, first),
            *_cut(phases(self.inner, calls), first, last),
            *_cut(around, last, calls),
        ]

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the state of `inner`."""
        return self.inner.init(texts, latents)

    def contexts(self, texts: Texts, step: Array) -> BranchContext:
        """Return the rows of `inner`."""
        return self.inner.contexts(texts, step)

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return what `inner` makes of it."""
        return self.inner.combine(state, eps, at)


def _cut(parts: list[tuple[Guidance, int]], first: int, last: int) -> list[tuple[Guidance, int]]:
    """Return the phases of a whole run as far as they lie in the calls from `first` to `last` (without the last)."""
    kept, begin = [], 0
    for guard, count in parts:
        inside = min(begin + count, last) - max(begin, first)
        if inside > 0:
            kept.append((guard, inside))
        begin += count
    return kept
