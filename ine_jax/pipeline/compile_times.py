"""How long programs take to compile, as a file in the folder of the compilation cache remembers it.

The time of a program is that of the call that compiled it without what XLA took, whose result is in the cache: the next
time only traces and lowers.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from ine_jax.errors import InputError
from ine_jax.pipeline.compile_cache import SETTING
from ine_jax.progress import note
from ine_jax.storage import untrusted
from ine_jax.storage.atomic import write_atomic

NAME = ".ine-times.json"
LEAST = 2.0  # seconds: a shorter wait needs no line
MOST = 1000  # programs that are remembered
_EVENT = "/jax/core/compile/backend_compile_duration"


class _Xla:
    """Seconds that XLA compiled in this process; JAX has no way to stop listening, so one listener stays."""

    seconds = 0.0
    listens = False


def _listen() -> None:
    def add(event: str, duration_secs: float, **_: str | int) -> None:
        _Xla.seconds += duration_secs if event == _EVENT else 0.0

    if not _Xla.listens:
        jax.monitoring.register_event_duration_secs_listener(add)
        _Xla.listens = True


def cache_folder() -> Path | None:
    """The folder of JAX's compilation cache, or None where it is off."""
    folder = getattr(jax.config, SETTING)
    return Path(folder) if folder else None


@contextlib.contextmanager
def compiling(program: str) -> Iterator[None]:
    """Do the first call of a program, after a line with the time that is known of it; then remember its time.

    Without a cache nothing is known. `program` identifies what compiles to the same code.
    """
    folder = cache_folder()
    if folder is None:
        yield
        return
    known = _read(folder / NAME).get(program, 0.0)
    if known >= LEAST:
        note(f"compiling (about {known:.0f} s, as last time)")
    _listen()
    begun, before = time.monotonic(), _Xla.seconds
    yield
    taken = max(0.0, time.monotonic() - begun - (_Xla.seconds - before))
    times = {**_read(folder / NAME), program: round(taken, 1)}
    with contextlib.suppress(OSError):  # a line that is missing next time is no reason to fail
        write_atomic(folder / NAME, json.dumps(dict(list(times.items())[-MOST:])))


def _read(path: Path) -> dict[str, float]:
    """The seconds of each program; nothing where the file is missing or damaged."""
    try:
        found = json.loads(untrusted.read(path, untrusted.MAX_JSON)) if path.is_file() else {}
    except (InputError, ValueError, RecursionError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: float(value) for name, value in pairs if isinstance(value, int | float)}
