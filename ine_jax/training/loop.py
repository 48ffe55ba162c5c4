"""One training loop for everything that is trained here: concept inversion, unlearning, the bundled models.

    state_0 --step(., 0)--> state_1 --step(., 1)--> ... --step(., steps-1)--> state_steps

`step` is a pure function of (state, i), so a run that was killed at any moment and started again repeats exactly what
it would have done: the state comes from the newest complete checkpoint, the log is cut back to it, and both end with
the same bytes as an uninterrupted run. What depends on the clock goes to a file of its own.

In a run of several processes each executes this loop; the step makes them one program. The batch of step i is the same
whatever their number is, so another number of hosts continues a run; topology.jsonl says so (docs/pods.md).

Files in the directory: config.json, checkpoints/<step>/, log.jsonl, timing.jsonl, .lock.
"""

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Generic, Protocol, SupportsFloat, TypeVar, runtime_checkable

import jax
from jaxtyping import PyTree

from ine_jax.errors import InputError, Interrupted, NumericalError
from ine_jax.pipeline.compile_times import compiling
from ine_jax.progress import note, stop_requests
from ine_jax.storage.atomic import clear, lock
from ine_jax.storage.binding import bind
from ine_jax.storage.provenance import value_hash
from ine_jax.training import topology
from ine_jax.training.checkpoint import Checkpoints, Restored, named_leaves, non_finite
from ine_jax.training.finished import check, forget
from ine_jax.training.log import TrainLog
from ine_jax.training.pod import Team, current, require_same
from ine_jax.training.publishing import require_shared

State = TypeVar("State")
Metrics = Mapping[str, SupportsFloat]

# Settings that are arguments of a step's program, or do not reach it.
_ARGUMENTS = {"model", "model_id", "base", "base_model_id", "images_sha256", "concept", "seed", "words", "save_every"}
NON_FINITE_LIMIT = 3  # losses in a row that may be NaN or infinite before the run is given up


@runtime_checkable
class Progress(Protocol):
    """Anything that shows how far the run is."""

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show that `step` steps are done; `metrics` are those of the last one."""


def owned(folder: Path) -> AbstractContextManager[None]:
    """The lock of a run's directory; in a multi-host run process 0 holds it for all."""
    return lock(folder) if jax.process_index() == 0 else nullcontext()


def run(
    step: Callable[[State, int], tuple[State, Metrics]],
    state: State,
    *,
    steps: int,
    directory: Path | str,
    save_every: int,
    config: Mapping[str, object],
    log_every: int = 1,
    lines_at: Collection[int] = (),
    progress: Progress | None = None,
    on_log: Callable[[int, Mapping[str, float]], None] | None = None,
    on_save: Callable[[int, State], None] | None = None,
) -> State:
    """Apply `step` for i = 0 .. steps-1, continuing from what `directory` holds, and return the final state.

    Args:
        step: pure in (state, i); returns the next state and scalars, of which "loss" is watched. It may donate its
            state. Scalars are fetched one step late: the host never waits for the step it has just dispatched.
        state: any pytree of arrays, the same on every host; the start of a new run, and the shape of what is restored.
        steps: number of steps in all; raising it later continues a finished run.
        save_every: a checkpoint is written after each so many steps and at the end; the last three are kept.
        config: plain JSON values; all that changes the result. A directory is continued only with the same config.
        log_every: steps per line of log.jsonl, {"step": steps done, name: mean since the line before, ...}.
        lines_at: steps after which there is a line too.
        on_log: called with each log line's step and means.
        on_save: called with (step, state) at each checkpoint, before the next step may donate the state.

    Raises:
        InputError: another config or other arrays in the directory, or another process at work in it.
        NumericalError: three non-finite losses in a row, or a non-finite state at the end; the last checkpoint is
            from before.
        Interrupted: SIGINT or SIGTERM; everything done is saved. A second signal ends the process at once.
        CorruptRunError: no checkpoint in the directory can be read, or a finished run's config or log was changed.
    """
    if steps < 0 or save_every < 1 or log_every < 1:
        given = f"steps={steps}, save_every={save_every}, log_every={log_every}"
        raise InputError(given, "steps >= 0, save_every >= 1, log_every >= 1", "correct the number")
    folder = Path(directory)
    require_shared(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    writer, team = jax.process_index() == 0, current()
    team.busy()
    with (
        owned(folder),
        Checkpoints(folder / "checkpoints", check(folder) if writer else {}) as checkpoints,
        stop_requests() as stop,
    ):
        require_same(team, folder, {"config": config, "steps": steps})
        if writer:
            clear(folder, alone=True)
            bind(folder, config, fresh=not checkpoints.steps())
        start, state, window, before = checkpoints.restore(state) or Restored(0, state, {})
        if start > steps:
            raise InputError(f"{folder} already holds {start} steps", f"steps >= {start}", "use a new directory")
        if writer:
            if start:
                note(f"{folder}: already complete" if start == steps else f"continuing at step {start} of {steps}")
            forget(folder)
            topology.record(folder, start, before)
        program = _program(config, state) if writer else ""
        with TrainLog(folder, start, window, log_every, lines_at, on_log) as log:
            keeper = _Keeper(checkpoints, _Watch(log, progress), save_every, steps, on_save)
            return _advance(step, state, start, keeper, stop, team, program)


def _advance(
    step: Callable[[State, int], tuple[State, Metrics]],
    state: State,
    start: int,
    keeper: "_Keeper[State]",
    stop: Event,
    team: Team,
    program: str,
) -> State:
    for i in range(start, keeper.steps):
        if team.stopping(stop, i):
            team.busy()
            if i > start:
                keeper.after(i, state)
            raise Interrupted(f"stopped after step {i} of {keeper.steps}", "", "run the same command to continue")
        # The first step compiles, which takes longer than any step and not equally long on all hosts.
        team.busy() if i == start else team.step()
        with compiling(program) if program and i == start else nullcontext():
            state, metrics = step(state, i)
        keeper.watch.push(i + 1, metrics)
        if keeper.due(i + 1):
            team.busy()
            keeper.after(i + 1, state)
    team.finish(stop, keeper.steps)
    return state


def _program(config: Mapping[str, object], state: PyTree) -> str:
    """Identifies the program of a step: the settings and shapes, without what its arguments hold."""

    def settings(value: object) -> object:
        if isinstance(value, Mapping):
            return {name: settings(inner) for name, inner in value.items() if name not in _ARGUMENTS}
        return [settings(inner) for inner in value] if isinstance(value, list | tuple) else value

    shapes = [f"{getattr(leaf, 'shape', ())} {getattr(leaf, 'dtype', '')}" for leaf in jax.tree.leaves(state)]
    device = jax.devices()[0]
    where = [jax.__version__, device.platform, device.device_kind, jax.device_count()]
    return value_hash([settings(config), shapes, where])


class _Watch:
    """Fetches the numbers of a step once the next one is under way, and counts the losses that are not finite."""

    def __init__(self, log: TrainLog, progress: Progress | None) -> None:
        self.log, self._progress = log, progress
        self._pending: tuple[int, Metrics] | None = None
        self.bad = 0

    def push(self, step: int, metrics: Metrics) -> None:
        self.drain()
        self._pending = step, metrics

    def drain(self) -> None:
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        self.log.add(step, values)
        self.bad = 0 if math.isfinite(values.get("loss", 0.0)) else self.bad + 1
        if self.bad >= NON_FINITE_LIMIT:
            raise _diverged(f"the loss was not finite in steps {step - self.bad + 1} to {step}")
        if self._progress is not None:
            self._progress.update(step, values)


@dataclass(frozen=True)
class _Keeper(Generic[State]):
    """Decides when a checkpoint is due and writes it."""

    checkpoints: Checkpoints
    watch: _Watch
    save_every: int
    steps: int
    on_save: Callable[[int, State], None] | None

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after this step."""
        return step == self.steps or step % self.save_every == 0

    def after(self, step: int, state: State) -> None:
        """Save, unless something is not finite (then the last good checkpoint stays the newest)."""
        last = step == self.steps
        self.watch.drain()
        if last:
            self.watch.log.close_window(step)
        bad = non_finite(named_leaves(state))
        if bad is None and not self.watch.bad:
            self.checkpoints.save(step, state, self.watch.log.window())
            if self.on_save is not None:
                self.on_save(step, state)
        elif last:
            raise _diverged(f"after the last step, {step}, {bad or 'the loss'} is not finite")


def _diverged(what: str) -> NumericalError:
    allowed = "finite numbers; the last checkpoint is from before"
    return NumericalError(what, allowed, "lower the learning rate, in a new directory")
