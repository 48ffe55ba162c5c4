"""Packs rows into full batches and keeps the device busy with them. Pure; no model is loaded and JAX is not imported.

Rows of one group share a batch. A group ends with one batch that is not full, unless its rows fill it by chance. The
place of a row in its batch follows from its number: on some shapes a decoder rounds by it, and a continued run must end
in the bytes of an undisturbed one. So a continued run may have a few more gaps.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Generic, Protocol, TypeVar, runtime_checkable

from ine_jax.progress import GRACE

IN_FLIGHT = 2  # batches on the device: the one that computes and the next


@runtime_checkable
class Numbered(Protocol):
    """A row: one image to generate."""

    @property
    def number(self) -> int:
        """Its number among all images of the run, those that are there already included."""


@runtime_checkable
class Progress(Protocol):
    """Receives the number of images that are done."""

    def update(self, done: int, /) -> None: ...


R = TypeVar("R", bound=Numbered)
M = TypeVar("M")


@dataclass(frozen=True)
class Group:
    """What rows of a batch have in common; with a block `k`, the batches are that block's alone."""

    program: Hashable
    k: int | None = None


@dataclass
class Packer(Generic[R]):
    """Rows that wait for their batch to fill, by group, in the order in which they came."""

    waiting: dict[Group, list[R]] = field(default_factory=dict)

    def add(self, group: Group, row: R, size: int) -> list[R]:
        """Add a row; return the batch that it fills, or nothing."""
        rows = self.waiting.setdefault(group, [])
        rows.append(row)
        return self.take(group, size) if len({row.number % size for row in rows}) == size else []

    def take(self, group: Group, size: int) -> list[R]:
        """Remove and return the next batch of a group: for every place the row that has waited longest."""
        batch: dict[int, R] = {}
        rows = self.waiting.pop(group, [])
        for row in rows:
            batch.setdefault(row.number % size, row)
        taken = set(map(id, batch.values()))
        if rest := [row for row in rows if id(row) not in taken]:
            self.waiting[group] = rest
        return list(batch.values())

    def of_block(self, k: int) -> list[Group]:
        """Return the groups that are of this block alone."""
        return [group for group in self.waiting if group.k == k]

    def oldest(self) -> Group | None:
        """Return the group with the row that has waited longest."""
        return min(self.waiting, key=lambda group: self.waiting[group][0].number, default=None)


@dataclass
class Pump(Generic[R, M]):
    """Packs, dispatches and fetches batches: while one computes, the one before is taken and the next one prepared.

    Attributes:
        size: returns the most rows of a batch; it may shrink from batch to batch.
        group: returns which rows can share a batch with this one.
        start: begins a batch of one group, each row at its number modulo `size`, and returns a function that waits for
            the results, one for each row.
        take: receives each row, its result, and the seconds that it took.
        stop: set to ask for an end. Then only what ends within a few seconds is begun.
        progress: of the rows taken.
    """

    size: Callable[[], int]
    group: Callable[[R], Group]
    start: Callable[[Sequence[R]], Callable[[], Sequence[M]]]
    take: Callable[[R, M, float], None]
    stop: Event
    progress: Progress | None = None
    packer: Packer[R] = field(default_factory=Packer)
    flight: deque[tuple[list[R], Callable[[], Sequence[M]]]] = field(default_factory=deque)
    done: int = 0
    seconds: float = 0.0  # of the last batch
    asked: float | None = None  # when the request to stop was seen
    fetched: float = field(default_factory=time.monotonic)  # when the last batch was complete

    def add(self, row: R) -> None:
        """Add a row, and dispatch the batch that it fills."""
        group = self.group(row)  # may load a model, and with it the size
        self._start(self.packer.add(group, row, self.size()))

    def finish(self, k: int) -> None:
        """Dispatch the rows of the groups of block k alone."""
        for group in self.packer.of_block(k):
            while group in self.packer.waiting:
                self._start(self.packer.take(group, self.size()))

    def advance(self) -> bool:
        """Dispatch the rows that have waited longest, or else fetch a batch; return whether there was any."""
        oldest = self.packer.oldest()
        if oldest is not None:
            self._start(self.packer.take(oldest, self.size()))
        elif self.flight:
            self._fetch()
        else:
            return False
        return True

    def drain(self) -> None:
        """Compute what waits, oldest first, and fetch everything."""
        while self.advance():
            pass

    def stopped(self) -> bool:
        """Return whether an end was asked for."""
        if self.stop.is_set() and self.asked is None:
            self.asked = time.monotonic()
        return self.asked is not None

    def _start(self, rows: list[R]) -> None:
        """Dispatch a batch, unless there is no time left for it after a request to stop."""
        if not rows or (self.stopped() and not self._in_time()):
            return
        self.flight.append((rows, self.start(rows)))
        while len(self.flight) >= IN_FLIGHT:
            self._fetch()

    def _fetch(self) -> None:
        rows, fetch = self.flight.popleft()
        made = fetch()
        now = time.monotonic()
        self.seconds, self.fetched = now - self.fetched, now
        for row, result in zip(rows, made, strict=True):
            self.take(row, result, self.seconds / len(rows))
        self.done += len(rows)
        if self.progress is not None:
            self.progress.update(self.done)

    def _in_time(self) -> bool:
        """Whether what is in flight and one more batch end within the time that a request to stop leaves."""
        ahead = (len(self.flight) + 1) * self.seconds
        return self.asked is not None and time.monotonic() + ahead - self.asked < GRACE / 2
