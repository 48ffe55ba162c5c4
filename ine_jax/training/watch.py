"""Who of a run's processes is still there: heartbeats in the coordination service, which every process checks.

JAX has no time-out of its own for a process that is alive and does nothing, and ends the others natively for one that
is dead. Here every process writes once a second how often its heart has beaten and how far its main thread is. A heart
that stands still for the time-out has stopped; a main thread that stands still while others wait for it is stuck. The
first to find that out writes it down for the others, and all leave with one message and code 75, also from within a
collective that never ends.

The service lives in process 0. When that one dies, JAX ends this process from a thread of its own through `abort`; a
handler of the signal turns this into the message and the code.
"""

import contextlib
import ctypes
import json
import os
import signal
import threading
import time
from typing import NoReturn, Protocol, runtime_checkable

from ine_jax import progress
from ine_jax.errors import CorruptRunError, IneError, InputError, Interrupted, ItemErrors, NumericalError, StorageError

PATIENCE = 10  # times the time-out, for loading, compiling, saving: slow, and not equally slow on all hosts
FAREWELL = 3.0  # seconds that process 0 waits for the others to read why all leave, because they read it from there
FAILED = 5.0  # seconds without a heartbeat that are enough once a collective has failed
_KINDS = (Interrupted, InputError, NumericalError, ItemErrors, CorruptRunError, StorageError)
_ROOT = "ine/watch/"
_TODO = "run the same command on all hosts to continue"


@runtime_checkable
class Store(Protocol):
    """The key-value store of JAX's coordination service."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Set a key; an error where it exists, unless it may be overwritten."""

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """Every key below `key`, with its value."""


class _Peer:
    """What is known of a process: its last words, and when they changed."""

    def __init__(self) -> None:
        self.beat, self.beaten = -1, time.monotonic()
        self.place, self.moved = 0, time.monotonic()
        self.patient, self.gone = True, False

    def hear(self, text: str) -> None:
        now = time.monotonic()
        if text == "gone":
            self.gone = True
            return
        beat, place, patient = (int(part) for part in text.split(";"))
        if beat != self.beat:
            self.beat, self.beaten = beat, now
        if place != self.place:
            self.place, self.moved = place, now
        self.patient = bool(patient)


class Watch:
    """Two threads: one talks to the service, one checks the clock and never waits for anything."""

    def __init__(self, store: Store, index: int, hosts: list[str], timeout: float) -> None:
        self._store, self._index, self._hosts, self._timeout = store, index, hosts, timeout
        self._peers = [_Peer() for _ in hosts]
        self._place, self._patient = 0, True
        self._answered, self._failures = time.monotonic(), 0
        self._verdict: IneError | None = None
        self._lock = threading.Lock()
        self.failed = False  # a collective has ended with an error
        self.stop = threading.Event()  # someone has been asked to stop
        self._end = threading.Event()

    def start(self) -> None:
        """Begin to watch and to be watched."""
        _take_abort(self)
        progress.set_farewell(
            lambda: self.publish(Interrupted(f"{self.name(self._index)} was asked to stop", "", _TODO))
        )
        for work in (self._talk, self._check):
            threading.Thread(target=work, name=f"pod{work.__name__}", daemon=True).start()

    def name(self, index: int) -> str:
        """A process for a message: "process 1 of 4 (host)"."""
        return f"process {index} of {len(self._hosts)} ({self._hosts[index]})"

    def move(self, patient: bool) -> None:
        """The main thread goes on to the next part of the work: the same sequence in every process."""
        self._patient = patient
        self._place += 1

    def ask_all_to_stop(self) -> None:
        """Let every process know that one has been asked to stop."""
        with contextlib.suppress(Exception):  # where the service is gone, that is found elsewhere
            self._store.key_value_set(f"{_ROOT}stop", "1", allow_overwrite=True)

    def publish(self, error: IneError) -> None:
        """Write down why all leave, for the others to read; never waits long for it."""
        text = json.dumps([error.exit_code, error.given, error.allowed, error.todo])

        self._verdict = self._verdict or error
        self._write("verdict", text, overwrite=False)

    def bye(self, wait: bool) -> None:
        """Say that this process leaves in good order; process 0 stays until the others have, if `wait` forever."""
        self._end.set()
        self._write(f"beat/{self._index}", "gone", overwrite=True)
        if self._index:
            return
        until = time.monotonic() + (self._timeout * PATIENCE if wait else FAREWELL)
        while time.monotonic() < until and not all(peer.gone for peer in self._peers[1:]):
            if wait and self._missing():
                break
            time.sleep(0.05)
            self._listen()

    def _write(self, name: str, value: str, overwrite: bool) -> None:
        """Set a key, in a thread that is left behind where the service has stopped in the middle of something."""

        def write() -> None:
            with contextlib.suppress(Exception), self._lock:  # the key is taken, or the service is gone
                self._store.key_value_set(_ROOT + name, value, allow_overwrite=overwrite)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        writer.join(2.0)

    def reason(self, seconds: float) -> IneError | None:
        """What another process wrote down, or what is found here within `seconds` after a collective failed."""
        self.failed = True
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._verdict is not None:
                return self._verdict
            time.sleep(0.05)
        return None

    # ------------------------------------------------------------------------------------------------------- threads

    def _talk(self) -> None:
        beat, pause = 0, min(1.0, self._timeout / 10)
        while not self._end.is_set():
            beat += 1
            try:
                with self._lock:
                    if self._end.is_set():
                        return
                    words = f"{beat};{self._place};{int(self._patient)}"
                    self._store.key_value_set(f"{_ROOT}beat/{self._index}", words, allow_overwrite=True)
                self._listen()
                self._failures = 0
            except Exception:  # gRPC's errors have no public type
                self._failures += 1
            self._end.wait(pause if not self.stop.is_set() else pause / 4)

    def _listen(self) -> None:
        for key, value in self._store.key_value_dir_get(_ROOT):
            name = key.removeprefix(_ROOT)
            if name.startswith("beat/"):
                self._peers[int(name.removeprefix("beat/"))].hear(value)
            elif name == "stop":
                self.stop.set()
            elif name == "verdict" and self._verdict is None:
                code, *text = json.loads(value)
                self._verdict = next((kind for kind in _KINDS if kind.exit_code == code), Interrupted)(*text)
        self._answered = time.monotonic()

    def _check(self) -> None:
        while not self._end.wait(0.1):
            found = self._verdict or self._lost_service() or self._lost() or self._stuck()
            if found is not None:
                self.leave(found)

    def leave(self, error: IneError) -> NoReturn:
        """Write down why, and end this process at once; process 0 last, for the others read it there."""
        self.publish(error)
        with contextlib.suppress(Exception):
            self.bye(wait=False)
        progress.leave(self._verdict or error)

    def _lost_service(self) -> Interrupted | None:
        silent = time.monotonic() - self._answered
        if self._index and (silent > self._timeout or (self._failures > 2 and silent > 2.0)):
            return self.lost([0], silent)
        return None

    def _missing(self) -> list[int]:
        limit = min(self._timeout, FAILED) if self.failed else self._timeout
        now = time.monotonic()
        return [i for i, p in enumerate(self._peers) if i != self._index and not p.gone and now - p.beaten > limit]

    def _lost(self) -> Interrupted | None:
        missing = self._missing()
        return self.lost(missing, time.monotonic() - self._peers[missing[0]].beaten) if missing else None

    def lost(self, missing: list[int], seconds: float) -> Interrupted:
        """The error about processes that no longer answer."""
        names = ", ".join(map(self.name, missing))
        have = "has" if len(missing) == 1 else "have"
        given = f"{names} {have} not answered for {seconds:.0f} s"
        return Interrupted(given, f"an answer within --pod.timeout ({self._timeout:g} s)", _TODO)

    def _stuck(self) -> Interrupted | None:
        """A main thread behind the others that stands still while they wait; or all of them, for much longer."""
        now, at_work = time.monotonic(), [i for i, peer in enumerate(self._peers) if not peer.gone and peer.beat >= 0]
        if not at_work or any(peer.gone for peer in self._peers):
            return None
        last = min(self._peers[i].place for i in at_work)
        behind = [i for i in at_work if self._peers[i].place == last]
        still = min(now - self._peers[i].moved for i in at_work)
        slow = len(behind) == len(at_work) or any(self._peers[i].patient for i in behind)
        if still <= self._timeout * (PATIENCE if slow else 1):
            return None
        names = ", ".join(map(self.name, behind))
        given = f"{names} {'is' if len(behind) == 1 else 'are'} stuck: no progress for {still:.0f} s"
        return Interrupted(given, f"progress within --pod.timeout ({self._timeout:g} s)", _TODO)


class _Abort:
    """The handler of SIGABRT, which must outlive whoever installed it."""

    handler: object = None


def _take_abort(watch: Watch) -> None:
    """Turn JAX's native end after the loss of the service into the message and code 75.

    A handler of Python's would only run once the main thread returns, and `abort` does not wait for that. No call of
    the service may be made here: the aborting thread holds its locks.
    """

    def handle(_: int) -> None:
        error = watch._verdict or watch.lost([0], time.monotonic() - watch._answered)
        progress.leave(error)

    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    _Abort.handler = kind(handle)
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = [ctypes.c_int, kind], ctypes.c_void_p
    library.signal(int(signal.SIGABRT), _Abort.handler)
    # The C++ log of the abort would bury the message.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
