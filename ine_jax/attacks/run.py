"""An attack's run: its step in the one training loop, then the prompt set."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
import numpy as np

from ine_jax.attacks.objective import Data, Held, PromptObjective
from ine_jax.attacks.result import AttackResult, drop_damaged, write
from ine_jax.attacks.tries import Tries
from ine_jax.pipeline.mesh import everywhere
from ine_jax.training import loop
from ine_jax.training.step import TrainState, compiled_step, first_state

State = TypeVar("State")


@runtime_checkable
class Steps(Protocol):
    """The settings of the loop, which every attack has."""

    @property
    def steps(self) -> int:
        """Steps in all."""

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""

    @property
    def log_every(self) -> int:
        """Steps between lines of the log."""


def search(
    step: Callable[[State, int], tuple[State, loop.Metrics]],
    start: State,
    settings: Steps,
    folder: Path,
    bound: Mapping[str, object],
    progress: loop.Progress | None,
    finish: Callable[[State], AttackResult],
) -> AttackResult:
    """Search from `start`, continuing what `folder` holds, and return what `finish` writes of the final state."""
    with loop.owned(folder):
        drop_damaged(folder)
        final = loop.run(
            step,
            start,
            steps=settings.steps,
            directory=folder,
            save_every=settings.save_every,
            config=bound,
            log_every=settings.log_every,
            progress=progress,
        )
        return finish(final)


def optimize(
    problem: PromptObjective,
    start: np.ndarray,
    held: Held,
    data: Data,
    settings: Steps,
    rate: float,
    tries: Tries[TrainState],
    folder: Path,
    bound: Mapping[str, object],
    progress: loop.Progress | None,
) -> AttackResult:
    """Optimize from `start`, make each try when it is due, and write the prompts that succeed, or the last ones."""
    step, placed, given = compiled_step(problem), everywhere(held, problem.mesh), everywhere(data, problem.mesh)

    def advance(state: TrainState, i: int) -> tuple[TrainState, loop.Metrics]:
        active = tries.active(state, i)
        if not active.any():
            return state, {"loss": 0.0, "success": 1.0}
        attacked = given._replace(active=everywhere(jnp.asarray(active), problem.mesh))
        state, metrics = step(placed, attacked, state, i)
        return state, {**metrics, "success": 1.0 - active.mean()}

    def finish(final: TrainState) -> AttackResult:
        tries.active(final, settings.steps)
        return write(folder, bound, tries.items, tries.found)

    return search(advance, first_state(problem, start, rate), settings, folder, bound, progress, finish)
