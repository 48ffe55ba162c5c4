"""One optimizer step on a mesh, compiled: the part that concept inversion and unlearning share.

    g = ∇_x loss(x; frozen, data, i),    x ← project(x - rate · factor(i) · Adam(g))

with Adam of arXiv 1412.6980. The rate lies in the optimizer's state, so another rate compiles nothing; the factor
(warm-up, tail) is part of the program.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import jax
import optax
from jaxtyping import PyTree

from ine_jax.types import AnyArray, Array

Trained = TypeVar("Trained")
Frozen = TypeVar("Frozen", contravariant=True)
Data = TypeVar("Data", contravariant=True)
Memory = optax.schedules.InjectStatefulHyperparamsState
Metrics = dict[str, Array]  # scalars by name; one of them is "loss"


class TrainState(NamedTuple):
    """What a step changes, and what a checkpoint holds."""

    trained: PyTree[Array]
    optimizer: Memory  # its hyperparams hold the rate


@runtime_checkable
class Objective(Protocol[Trained, Frozen, Data]):
    """What is minimised, as a hashable value: runs with equal objectives share one compiled step."""

    def loss(self, trained: Trained, frozen: Frozen, data: Data, i: Array) -> tuple[Array, Metrics]:
        """Return the scalar to differentiate at step `i`, and the metrics; pure, so that a resumed run is exact."""

    def factor(self) -> optax.Schedule:
        """Return the factor on the learning rate, by step."""

    def finish(self, trained: Trained, metrics: Metrics, data: Data, rate: Array) -> tuple[Trained, Metrics]:
        """Project what the optimizer returned, and complete the metrics."""


def adam(rate: float | Array, factor: optax.Schedule) -> optax.GradientTransformation:
    """Adam without weight decay. Its arithmetic is elementwise, so concepts or weights in one state never mix."""

    def build(rate: Array, factor: Array) -> optax.GradientTransformation:
        return optax.adam(rate * factor)

    return optax.inject_hyperparams(build)(rate=rate, factor=factor)


def first_state(
    objective: Objective[Trained, Frozen, Data], trained: PyTree[AnyArray], rate: float, sharding: jax.sharding.Sharding
) -> TrainState:
    """Return the state before step 0, on the devices."""
    with jax.numpy_dtype_promotion("standard"):  # schedules divide the step count
        memory = cast(Memory, adam(rate, objective.factor()).init(trained))
    state: TrainState = jax.device_put(TrainState(trained, memory), sharding)
    return state


@functools.lru_cache(maxsize=8)
def compiled_step(
    objective: Objective[Trained, Frozen, Data],
) -> Callable[[Frozen, Data, TrainState, int], tuple[TrainState, Metrics]]:
    """Return the jitted step (frozen, data, state, i) -> (state, metrics); the state is donated."""

    def step(frozen: Frozen, data: Data, state: TrainState, i: Array) -> tuple[TrainState, Metrics]:
        gradient, metrics = jax.grad(objective.loss, has_aux=True)(state.trained, frozen, data, i)
        # The rate given here is a placeholder: the one in the state is used.
        with jax.numpy_dtype_promotion("standard"):  # optax computes decay ** count
            updates, optimizer = adam(0.0, objective.factor()).update(gradient, state.optimizer, state.trained)
        memory, moved = cast(Memory, optimizer), cast(Trained, optax.apply_updates(state.trained, updates))
        trained, metrics = objective.finish(moved, metrics, data, cast(Array, memory.hyperparams["rate"]))
        return TrainState(trained, memory), metrics

    return jax.jit(step, donate_argnums=2)
