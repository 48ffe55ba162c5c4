"""A guard that acts in one part of a run only (the limited interval of arXiv 2404.07724)."""

import dataclasses
import math
from dataclasses import dataclass, field

import jax

from ine_jax.errors import InputError
from ine_jax.guidance.base import Guidance, State, Texts, Wrapper, phases
from ine_jax.types import STATIC, BranchContext, Latents, Step


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Unaware(Wrapper):
    """A guard without the negative text, which would take the unconditional row of `Cfg`."""

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the guard's state."""
        return self.inner.init(dataclasses.replace(texts, negative=None), latents)

    def contexts(self, texts: Texts, step: Step) -> BranchContext:
        """Return the guard's rows of texts without a negative."""
        return self.inner.contexts(dataclasses.replace(texts, negative=None), step)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Interval(Wrapper):
    """`inner` at the network calls from start · calls up to, not including, stop · calls, and `outside` at the others.

    Both ends are rounded to the nearest call, halves up. Rows that nobody reads are not computed: the run is cut into
    phases. A guard with phases of its own keeps them in place and loses those outside the window: a warm-up counts from
    the start of the run. Inside the window the guard begins with an empty state. `outside` sees no negative text.

    Attributes:
        inner: the guard.
        outside: the guard before and after the window, usually `Cfg` at the same scale.
        start: start of the window, a fraction of the run; static.
        stop: end of the window; static.

    Raises:
        InputError: not 0 <= start < stop <= 1.
    """

    outside: Guidance
    start: float = field(metadata=STATIC)
    stop: float = field(metadata=STATIC)

    def __post_init__(self) -> None:
        """Check the window."""
        super().__post_init__()
        if not 0 <= self.start < self.stop <= 1:
            given = f"the interval {self.start} to {self.stop}"
            raise InputError(given, "0 <= start < stop <= 1, fractions of a run", "change it")

    def phases(self, calls: int) -> list[tuple[Guidance, int]]:
        """Return the phases of `outside`, of `inner` and of `outside` again, each cut to its part of the run."""
        first, last = (math.floor(end * calls + 0.5) for end in (self.start, self.stop))
        around = phases(Unaware(self.outside), calls)
        return [*_cut(around, 0, first), *_cut(phases(self.inner, calls), first, last), *_cut(around, last, calls)]


def _cut(parts: list[tuple[Guidance, int]], first: int, last: int) -> list[tuple[Guidance, int]]:
    """Return the phases of a whole run, cut to the calls from `first` up to, not including, `last`."""
    kept, begin = [], 0
    for guard, count in parts:
        inside = min(begin + count, last) - max(begin, first)
        if inside > 0:
            kept.append((guard, inside))
        begin += count
    return kept
