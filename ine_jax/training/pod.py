"""The processes of one training run: joined, watched, and of one mind about when to stop.

`join` connects this process to the others. From then on `jax.devices()` are those of all of them, and `current()` is
the team that the training loop asks. Without `join`, a process is a team of its own and nothing here costs anything.

Agreement goes through the key-value store of JAX's coordination service, never through the devices: a step is not
slower for it, and it works while a device waits for a process that is gone.
"""

import contextlib
import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import cast

import jax
from jax._src import distributed  # the store is not public; orbax reads it from here too

from ine_jax.errors import IneError, InputError, Interrupted, StorageError
from ine_jax.storage.provenance import value_hash
from ine_jax.training.rendezvous import Place, meet, port_of
from ine_jax.training.watch import PATIENCE, Store, Watch

TIMEOUT = 60.0  # seconds
AHEAD = 3  # steps
_STEPS = "ine/team/last/"
NEVER = 7 * 24 * 3600  # seconds; JAX's own time-outs end a process natively, so this package's must come first


class Team:
    """A process that trains alone."""

    index, count = 0, 1

    def busy(self) -> None:
        """The main thread begins something that may take long and not equally long on all hosts."""

    def step(self) -> None:
        """The main thread begins a step."""

    def gather(self, name: str, value: str) -> list[str]:
        """Every process's value, in order; waits for all of them."""
        return [value]

    def first(self, name: str, value: str) -> str:
        """Process 0's value; waits for it."""
        return value

    def stopping(self, asked: Event, step: int) -> bool:
        """Whether to stop now, after `step` steps."""
        return asked.is_set()

    def finish(self, asked: Event, step: int) -> None:
        """All steps are done; a request of any process to stop becomes one of all."""


class Pod(Team):
    """This process among those of a run."""

    def __init__(self, store: Store, index: int, hosts: list[str], timeout: float) -> None:
        self.index, self.count, self.hosts = index, len(hosts), hosts
        self._store, self._calls = store, 0
        self._told, self._last = False, cast(int | None, None)  # the agreed last step
        self.watch = Watch(store, index, hosts, timeout)
        self.watch.start()

    def busy(self) -> None:
        self.watch.move(patient=True)

    def step(self) -> None:
        self.watch.move(patient=False)

    def gather(self, name: str, value: str) -> list[str]:
        self._calls += 1
        folder, pause = f"ine/team/{self._calls}-{name}/", 0.005
        self._store.key_value_set(f"{folder}{self.index}", value)
        while True:  # the watch ends this process where one of the others does not come
            found = dict(self._store.key_value_dir_get(folder))
            if len(found) == self.count:
                return [found[f"{folder}{i}"] for i in range(self.count)]
            time.sleep(pause)
            pause = min(2 * pause, 0.2)

    def first(self, name: str, value: str) -> str:
        return self.gather(name, value if self.index == 0 else "")[0]

    def stopping(self, asked: Event, step: int) -> bool:
        """Whether to stop now. Once any process is asked, each writes down its step, and goes on until all have.

        No process can be more than two steps beyond what another one writes down: the first of these cannot end without
        that one, and the second is not begun before (the loop fetches the numbers of a step one step late). So
        `AHEAD` steps beyond the farthest, all of them know it, and none has passed it. Nobody waits for anybody.
        """
        if asked.is_set() and not self.watch.stop.is_set():
            self.watch.ask_all_to_stop()
            self.watch.stop.set()
        if not self.watch.stop.is_set():
            return False
        asked.set()
        if self._last is None:
            if not self._told:
                self._store.key_value_set(f"{_STEPS}{self.index}", str(step))
                self._told = True
            found = self._store.key_value_dir_get(_STEPS)
            if len(found) == self.count:
                self._last = max(int(value) for _, value in found) + AHEAD
        return self._last is not None and step >= self._last

    def finish(self, asked: Event, step: int) -> None:
        if not self._told:
            self._store.key_value_set(f"{_STEPS}{self.index}", str(step))  # so that the others come to the end as well
        if "1" in self.gather("asked", str(int(asked.is_set() or self.watch.stop.is_set()))):
            asked.set()


class _Joined:
    """The team of this process."""

    team: Team = Team()


def current() -> Team:
    """The team of this process."""
    if jax.process_count() > 1 and not isinstance(_Joined.team, Pod):  # a program connected JAX itself
        state = distributed.global_state
        hosts = [f"host of {i}" for i in range(jax.process_count())]
        _Joined.team = Pod(cast(Store, state.client), jax.process_index(), hosts, TIMEOUT)
    return _Joined.team


def join(place: Place, timeout: float = TIMEOUT) -> Pod:
    """Connect this process with all others of the run, and begin to watch them. Call it before JAX is used.

    Args:
        timeout: seconds after which a lost or stuck process ends the run on all hosts. Starting, loading, compiling
            and saving have ten times as long; a process that dies then is still found after `timeout`.

    Raises:
        InputError: the processes disagree about their numbers, or the port of process 0 is taken.
        Interrupted: some did not come.
    """
    hosts = meet(place, timeout * PATIENCE)
    jax.config.update("jax_enable_preemption_service", False)  # takes SIGTERM for itself
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=_own_devices(),
        cluster_detection_method="deactivate",
        initialization_timeout=math.ceil(timeout * PATIENCE),
        heartbeat_timeout_seconds=NEVER,
        shutdown_timeout_seconds=math.ceil(timeout),
        coordinator_bind_address=f"[::]:{port_of(place.coordinator)}" if socket.has_dualstack_ipv6() else None,
    )
    pod = Pod(cast(Store, distributed.global_state.client), place.index, hosts, timeout)
    _Joined.team = pod
    return pod


def _own_devices() -> list[int] | None:
    """The devices of this process where a host has several processes: srun's local number, one GPU each."""
    local = os.environ.get("SLURM_LOCALID")
    several = int(os.environ.get("SLURM_NTASKS_PER_NODE", "1").split("(")[0] or 1) > 1
    return [int(local)] if local and several else None


@contextlib.contextmanager
def member(pod: Pod | None) -> Iterator[None]:
    """What happens within is the work of all processes: a failure of this one ends the others, with its reason.

    The errors of a collective that lost a process become the message that names it.
    """
    if pod is None:
        yield
        return
    try:
        yield
    except Interrupted:
        raise  # all stop together, or the watch has ended the others
    except (IneError, OSError, MemoryError) as error:
        pod.watch.publish(_reason(pod, error))
        raise
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            found = pod.watch.reason(15.0)
            if found is not None:
                raise found from error
        pod.watch.publish(
            Interrupted(f"{pod.watch.name(pod.index)} failed: {type(error).__name__}", "", "see its output")
        )
        raise


def _reason(pod: Pod, error: Exception) -> IneError:
    """The error as the other processes report it, with the same code."""
    head = pod.watch.name(pod.index)
    if isinstance(error, IneError):
        return type(error)(f"{head}: {error.given}", error.allowed, error.todo)
    if isinstance(error, OSError):
        return StorageError(f"{head}: {error.filename or 'the system'}: {error.strerror}", "", "see its output")
    return InputError(f"{head}: {type(error).__name__}", "", "see its output")


def leave(code: int) -> None:
    """End this process in good order, if it is one of several: JAX's own end would wait for lost ones."""
    team = _Joined.team
    if not isinstance(team, Pod):
        return
    with contextlib.suppress(Exception):
        team.watch.bye(wait=code == 0)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def require_same(team: Team, folder: Path, config: object) -> None:
    """Raise InputError, on all hosts, where they were started with other settings or do not share the directory."""
    if team.count == 1:
        return
    pod = cast(Pod, team)
    hashes = pod.gather("settings", value_hash(json.loads(json.dumps(config))))
    other = [i for i, each in enumerate(hashes) if each != hashes[0]]
    if other:
        given = f"{pod.watch.name(other[0])} has other settings, images or weights than process 0"
        raise InputError(given, "the same command and the same files on all hosts", "correct the command or the files")
    name = pod.first("nonce", f".pod-{os.urandom(8).hex()}")
    mark = folder / name
    if pod.index == 0:
        mark.write_bytes(b"")
    pod.gather("marked", "")
    seen = _appears(mark)
    blind = [i for i, answer in enumerate(pod.gather("seen", str(int(seen)))) if answer == "0"]
    if pod.index == 0:
        mark.unlink()
    if blind:
        given = f"{', '.join(map(pod.watch.name, blind))} cannot see the directory {folder} of {pod.watch.name(0)}"
        raise InputError(given, "one directory that all hosts share", "use a shared file system or object store")


def _appears(mark: Path, seconds: float = 10.0) -> bool:
    """Whether a file of another host becomes visible here; network file systems take a while."""
    until = time.monotonic() + seconds
    while not mark.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
