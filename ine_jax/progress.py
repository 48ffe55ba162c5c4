"""Progress of a long run, and requests to stop it.

On a terminal a bar, elsewhere one plain line every ten seconds; only process 0 of a multi-host run shows anything. The
first step is compilation and is not part of the rate.

Nothing heavy is imported here: the program handles signals before it imports anything else.
"""

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, SupportsFloat, TextIO

from ine_jax.errors import IneError, Interrupted, clean

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
else:
    Bar = object  # rich is loaded where a bar is opened

LINE_SECONDS = 10.0
GRACE = 8.0  # seconds from a request to stop to the end, for loops that keep what is finished anyway
STOPPED = ("interrupted", "", "run the same command again to continue")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def duration(seconds: float) -> str:
    """Return seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def note(text: str) -> None:
    """Print one line beside the progress."""
    sys.stderr.write(f"{clean(text)}\n")
    sys.stderr.flush()


def note_stored(place: object, stored: int, total: int) -> None:
    """Print how many images an earlier call stored, if it stored any."""
    if 0 < stored < total:
        note(f"{place}: continuing, {stored} of {total} images are already stored")
    elif stored:
        note(f"{place}: all {total} images are already stored")


def announce(text: str, after: float = 0.7) -> Callable[[], None]:
    """Print one line after so many seconds, unless the returned function is called before: what is quick is quiet."""
    timer = threading.Timer(after, note, (text,))
    timer.daemon = True
    timer.start()
    return timer.cancel


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
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to show `total` units of work on `stream` (standard error), on process 0 and where `shown`."""
        self.total, self.label, self.unit = total, clean(label), unit
        self.stream = sys.stderr if stream is None else stream
        self.shown = shown and process == 0
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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichBar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    bar = RichBar(*columns, TextColumn("{task.fields[info]}", markup=False), console=Console(file=stream))
    bar.add_task(label, total=total, info="")
    bar.start()
    return bar


class _Receiver:
    """What `receive_signals` started: whether it did, the event of the loop that takes requests, and its grace."""

    active = False
    loop: threading.Event | None = None
    grace: float | None = None
    last_words = b""
    farewell: Callable[[], None] | None = None


def receive_signals(last_words: bytes = b"") -> None:
    """From now on SIGINT and SIGTERM end this process with code 75 at once, unless a loop takes them as requests.

    A thread receives them: a handler of Python's waits until the main thread returns from native code, where a program
    compiles for minutes, and an exception from it ends in whatever library happens to run. Outside the loops nothing is
    to be saved, so the process leaves without unwinding. Ignored signals (`nohup`) stay ignored.

    Args:
        last_words: written to standard output before the process leaves (the line of `--json`).
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    numbers = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]

    def end() -> None:
        if _Receiver.farewell is not None:
            _Receiver.farewell()
        leave(Interrupted(*STOPPED))

    def too_late(loop: threading.Event) -> None:
        if _Receiver.loop is loop:
            end()

    def receive() -> None:
        while True:
            if os.read(read_end, 1)[0] not in numbers:
                continue
            loop = _Receiver.loop
            if loop is None or loop.is_set():
                end()
                continue
            loop.set()
            if _Receiver.grace is not None:  # a device program or a compilation may take minutes
                timer = threading.Timer(_Receiver.grace, too_late, (loop,))
                timer.daemon = True
                timer.start()

    _Receiver.active, _Receiver.last_words = True, last_words
    threading.Thread(target=receive, name="signals", daemon=True).start()
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _nothing)


def set_farewell(farewell: Callable[[], None]) -> None:
    """Call this before a signal ends the process at once; it must not take long."""
    _Receiver.farewell = farewell


def leave(error: IneError) -> NoReturn:
    """Report an error and end this process at once, from any thread, whatever the main thread is doing."""
    words = _Receiver.last_words if error.exit_code == Interrupted.exit_code else b""
    for handle, text in ((2, f"{error}\n".encode()), (1, words)):
        with contextlib.suppress(OSError):
            os.write(handle, text)
    os._exit(error.exit_code)


def ignore_signals() -> None:
    """From now on SIGINT and SIGTERM do nothing: the work is done, and Python would end by the system's default."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _nothing(_: int, __: FrameType | None) -> None:
    """The handler while a thread receives the signals."""


@contextlib.contextmanager
def stop_requests(grace: float | None = None) -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; the second signal acts as it does outside.

    With `receive_signals`, a loop that has not ended `grace` seconds after the first signal ends as by a second one.

    A loop that ends by itself after a request raises `Interrupted` here, so that what follows it does not begin.
    Without `receive_signals`, signals are handled in the main thread only; elsewhere the event is never set.
    """
    asked = threading.Event()
    with _receiving(asked, grace) if _Receiver.active else _handling(asked):
        yield asked
    if asked.is_set():
        raise Interrupted(*STOPPED)


@contextlib.contextmanager
def _receiving(asked: threading.Event, grace: float | None) -> Iterator[None]:
    before = _Receiver.loop, _Receiver.grace
    _Receiver.grace, _Receiver.loop = grace, asked
    try:
        yield
    finally:
        _Receiver.loop, _Receiver.grace = before


@contextlib.contextmanager
def _handling(asked: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(_: int, __: FrameType | None) -> None:
        asked.set()
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        restore()
