"""A trained method's run: the objective's step in the one training loop, then its result."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
import numpy as np

from ine_jax.pipeline.mesh import everywhere, first_decides
from ine_jax.training import loop
from ine_jax.training.step import Metrics, Objective, compiled_step, first_state
from ine_jax.types import AnyArray, Array
from ine_jax.unlearning.result import Result

Data = TypeVar("Data")
Frozen = TypeVar("Frozen")
Trained = dict[str, Array]


class Unconstrained:
    """The part that objectives share which train all of their weights to the end, and leave them as they become."""

    def running(self, data: object, i: Array) -> None:
        """All weights are trained to the end."""

    def finish(
        self, weights: Trained, metrics: Metrics, data: object, i: Array, rate: Array
    ) -> tuple[Trained, Metrics]:
        """The weights are not constrained."""
        return weights, metrics


@runtime_checkable
class Steps(Protocol):
    """The settings of the loop, which every trained method has."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""

    @property
    def learning_rate(self) -> float:
        """Rate before the factor of a step."""

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""

    @property
    def log_every(self) -> int:
        """Steps between lines of the log."""


def optimize(
    objective: Objective[Trained, Frozen, Data],
    start: Mapping[str, AnyArray],
    frozen: Frozen,
    data: Callable[[], Data],
    settings: Steps,
    folder: Path,
    config: Mapping[str, object],
    progress: loop.Progress | None,
    finish: Callable[[Trained], Result],
) -> Result:
    """Train from `start`, continuing what `folder` holds, and return what `finish` makes of the result.

    `data` is called when a step is due; its arrays are process 0's on all hosts. The directory is bound to
    `config`.
    """
    ready = functools.cache(lambda: everywhere(first_decides(data()), objective.mesh))
    placed, step = everywhere(frozen, objective.mesh), compiled_step(objective)
    with loop.owned(folder):
        final = loop.run(
            lambda state, i: step(placed, ready(), state, i),
            first_state(objective, dict(start), settings.learning_rate),
            steps=settings.steps,
            directory=folder,
            save_every=settings.save_every,
            config=config,
            log_every=settings.log_every,
            progress=progress,
        )
        return finish({name: jnp.asarray(np.asarray(leaf)) for name, leaf in final.trained.items()})


def binding(settings: object, idle: tuple[str, ...]) -> dict[str, object]:
    """The fields of a config record without those that do not change what a given number of steps computes."""
    return {k: v for k, v in dataclasses.asdict(settings).items() if k not in idle}  # type: ignore[call-overload]
