"""Progress of a long run, and requests to stop it.

On a terminal a bar, elsewhere one plain line every ten seconds; only process 0 of a multi-host run shows anything. The
first step is compilation and is not part of the rate.
"""

import contextlib
import io
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import SupportsFloat, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from ine_jax.errors import clean

LINE_SECONDS = 10.0


def duration(seconds: float) -> str:
    """Return seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Shows how far a run is: steps, loss, steps per second, time left.

    Use it as a context manager and call `update` after every step.
    """

    def __init__(
        self,
        total: int,
        label: str = "",
        *,
        stream: TextIO | io.StringIO | None = None,
        process: int = 0,
        unit: str = "steps",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to show `total` units of work on `stream` (standard error); processes other than 0 stay silent."""
        self.total, self.label, self.unit = total, clean(label), unit
        self.stream = sys.stderr if stream is None else stream
        self.shown = process == 0
        self.clock = clock
        self._bar: Bar | None = None
        self._start: tuple[float, int] | None = None
        self._last = clock()

    def __enter__(self) -> "Progress":
        """Open the bar when the stream is a terminal."""
        if self.shown and self.stream.isatty():
            self._bar = _open_bar(self.stream, self.label, self.total)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, step: int, metrics: Mapping[str, SupportsFloat] | None = None) -> None:
        """Record that `step` units are finished; `metrics` (a loss) are shown beside the rate.

        Metrics may be device arrays: they are read only when something is shown, so a step never waits for them.
        """
        if not self.shown:
            return
        now = self.clock()
        if self._start is None:
            self._start = (now, step)
        due = 0.1 if self._bar is not None else LINE_SECONDS
        if now - self._last < due and step < self.total:
            return
        self._last = now
        values = [f"{name} {float(value):.4g}" for name, value in (metrics or {}).items()]
        text = "  ".join([*values, self._pace(now, step)])
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, info=text)
        else:
            print(f"{self.label} {step}/{self.total}  {text}".strip(), file=self.stream, flush=True)

    def _pace(self, now: float, done: int) -> str:
        begin, first = self._start or (now, done)
        if done <= first or now <= begin:
            return f"-- {self.unit}/s"
        rate = (done - first) / (now - begin)
        return f"{rate:.3g} {self.unit}/s  ETA {duration((self.total - done) / rate)}"


def _open_bar(stream: TextIO | io.StringIO, label: str, total: int) -> Bar:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    bar = Bar(*columns, TextColumn("{task.fields[info]}", markup=False), console=Console(file=stream))
    bar.add_task(label, total=total, info="")
    bar.start()
    return bar


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; the second signal acts as usual.

    Signals can be handled only in the main thread; elsewhere the event is never set.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(_: int, __: FrameType | None) -> None:
        asked.set()
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        restore()
