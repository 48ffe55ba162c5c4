"""The log of a training run: one JSON line per window of steps, the same bytes however often the run was interrupted.

log.jsonl holds what the steps computed; timing.jsonl beside it holds what depends on the clock.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TextIO

import jax

from ine_jax.storage import untrusted
from ine_jax.storage.atomic import naming, write_atomic
from ine_jax.storage.untrusted import MAX_RECORDS
from ine_jax.training.checkpoint import Window


class TrainLog:
    """log.jsonl and timing.jsonl; cut back on opening to the step that the run continues from."""

    def __init__(
        self,
        folder: Path,
        start: int,
        window: Window,
        every: int,
        lines_at: Collection[int],
        on_log: Callable[[int, Mapping[str, float]], None] | None,
    ) -> None:
        self._every, self._lines_at, self._on_log = every, frozenset(lines_at), on_log
        self._sums = dict(window.get("sums", {}))
        self._count = window.get("count", 0)
        self._clock, self._clock_step = time.monotonic(), start
        self._writes = jax.process_index() == 0
        paths = [folder / name if self._writes else Path(os.devnull) for name in ("log.jsonl", "timing.jsonl")]
        for path in paths if self._writes else ():
            truncate(path, start)
        self._log, self._timing = (path.open("a") for path in paths)

    def __enter__(self) -> "TrainLog":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._log, self._timing):
            with contextlib.suppress(OSError):  # what a full disk did not take has been reported, and is written again
                file.close()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the metrics of one step; every `every` steps, and at those of `lines_at`, their means become a line."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if step % self._every == 0 or step in self._lines_at:
            self.close_window(step)

    def close_window(self, step: int) -> None:
        """Write the means since the last line, if there are any."""
        if not self._count:
            return
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        names = sorted(means, key=lambda name: (name != "loss", name))  # independent of the order of the metrics
        line = {"step": step, **{name: means[name] if math.isfinite(means[name]) else None for name in names}}
        self._put(self._log, line)
        now = time.monotonic()
        speed = (step - self._clock_step) / max(now - self._clock, 1e-9)
        self._clock, self._clock_step = now, step
        self._put(self._timing, {"step": step, "time": time.time(), "steps_per_second": speed})
        if self._on_log is not None:
            self._on_log(step, means)

    def _put(self, file: TextIO, line: Mapping[str, object]) -> None:
        with naming(Path(file.name)):
            file.write(json.dumps(line) + "\n")
            file.flush()

    def window(self) -> Window:
        """Flush the log, and return what a checkpoint keeps of the unfinished line."""
        if self._writes:
            with naming(Path(self._log.name)):
                os.fsync(self._log.fileno())
        return {"sums": dict(self._sums), "count": self._count}


def truncate(path: Path, step: int) -> None:
    """Keep the lines up to `step`; drop later ones and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in untrusted.read(path, MAX_RECORDS).decode(errors="replace").splitlines(keepends=True):
        try:
            if not line.endswith("\n") or json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    write_atomic(path, "".join(kept).encode())
