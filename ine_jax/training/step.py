"""One optimizer step on a mesh, compiled: the part that concept inversion and unlearning share.

    g = ∇_x loss(x; frozen, data, i),    x ← project(x - rate · factor(i) · rule(g, x))

with the objective's rule: Adam (arXiv 1412.6980), or AdamW (arXiv 1711.05101) after clipping. The rate lies in the
optimizer's state, so another rate compiles nothing; the factor (warm-up, tail) is part of the program.

Every device of the mesh, on whatever host, differentiates the loss of its own rows with respect to what is trained, and
nothing else. One sum over the devices, of gradient and metrics in one vector, is all that they exchange.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Bool, Float, PyTree

from ine_jax.pipeline.mesh import AXIS, everywhere, platform_of, replicated
from ine_jax.training.rows import Share
from ine_jax.types import AnyArray, Array

Trained = TypeVar("Trained")
Frozen = TypeVar("Frozen", contravariant=True)
Data = TypeVar("Data", contravariant=True)
Tree = TypeVar("Tree")
Memory = optax.schedules.InjectStatefulHyperparamsState
Metrics = dict[str, Array]  # scalars by name; one of them is "loss"


class TrainState(NamedTuple):
    """What a step changes, and what a checkpoint holds."""

    trained: PyTree[Array]
    optimizer: Memory  # its hyperparams hold the rate


@runtime_checkable
class Objective(Protocol[Trained, Frozen, Data]):
    """What is minimised, as a hashable value: runs with equal objectives share one compiled step."""

    def __hash__(self) -> int:
        """Return the hash of the value."""

    @property
    def mesh(self) -> Mesh:
        """The devices over which the rows of a step lie."""

    def loss(self, trained: Trained, frozen: Frozen, data: Data, i: Array, share: Share) -> tuple[Array, Metrics]:
        """Return the scalar to differentiate at step `i`, and the metrics; pure, so that a resumed run is exact.

        Both are those of the rows in `share`, such that their sums over all shares are those of the step.
        """

    def running(self, data: Data, i: Array) -> Bool[Array, "part"] | None:
        """Which parts (along the first axis of what is trained) step `i` still trains; None: all of it."""

    def factor(self) -> optax.Schedule:
        """Return the factor on the learning rate, by step."""

    def rule(self, rate: Array) -> optax.GradientTransformation:
        """Return the optimizer at this rate."""

    def finish(self, trained: Trained, metrics: Metrics, data: Data, i: Array, rate: Array) -> tuple[Trained, Metrics]:
        """Project what the optimizer returned at step `i`, and complete the metrics."""


def optimizer(objective: Objective[Trained, Frozen, Data], rate: float) -> optax.GradientTransformation:
    """Return the objective's rule at its rate by step; its state begins with `rate`."""

    def build(rate: Array, factor: Array) -> optax.GradientTransformation:
        return objective.rule(rate * factor)

    return optax.inject_hyperparams(build)(rate=rate, factor=objective.factor())


def first_state(objective: Objective[Trained, Frozen, Data], trained: PyTree[AnyArray], rate: float) -> TrainState:
    """Return the state before step 0, on all devices of the objective's mesh."""
    with jax.numpy_dtype_promotion("standard"):  # schedules divide the step count
        memory = cast(Memory, optimizer(objective, rate).init(trained))
    # A copy: the step donates its state, and the caller may go on using what it gave.
    copied = cast(TrainState, jax.tree.map(np.array, TrainState(trained, memory)))
    return everywhere(copied, objective.mesh)


@functools.lru_cache(maxsize=8)
def compiled_step(
    objective: Objective[Trained, Frozen, Data],
) -> Callable[[Frozen, Data, TrainState, int], tuple[TrainState, Metrics]]:
    """Return the jitted step (frozen, data, state, i) -> (state, metrics); the state is donated."""

    mesh = objective.mesh

    def share(trained: Trained, frozen: Frozen, data: Data, i: Array) -> tuple[Trained, Metrics]:
        own = Share(jax.lax.axis_index(AXIS), mesh.size)
        parts = jax.grad(objective.loss, has_aux=True)(trained, frozen, data, i, own)
        return total(cast(tuple[Trained, Metrics], parts), mesh)

    same = PartitionSpec()
    # check_vma would sum each leaf of the gradient by itself, where it is used.
    gradients = jax.shard_map(share, mesh=mesh, in_specs=same, out_specs=same, check_vma=False)

    def step(frozen: Frozen, data: Data, state: TrainState, i: Array) -> tuple[TrainState, Metrics]:
        gradient, metrics = cast(tuple[Array, Metrics], gradients(state.trained, frozen, data, i))
        # The rate given here is a placeholder: the one in the state is used.
        with jax.numpy_dtype_promotion("standard"):  # optax computes decay ** count
            updates, changed = optimizer(objective, 0.0).update(gradient, state.optimizer, state.trained)
        memory, moved = cast(Memory, changed), cast(Trained, optax.apply_updates(state.trained, updates))
        trained, metrics = objective.finish(moved, metrics, data, i, cast(Array, memory.hyperparams["rate"]))
        return kept(objective.running(data, i), TrainState(trained, memory), state), metrics

    return jax.jit(step, donate_argnums=2, out_shardings=replicated(mesh))


def total(parts: Tree, mesh: Mesh) -> Tree:
    """Sum a tree of float32 arrays over the devices: one all-reduce of one vector, or nothing for one device.

    On accelerators the order of the sum belongs to the topology of the devices. On the CPU it belongs to the library,
    which is another one within a process than between processes. So there each device fills its own row of a table of
    zeros: the sum of such tables is exact in any order, and the rows are then added by the same code everywhere. The
    bits depend on the number of devices, not on how processes share them.
    """
    if mesh.size == 1:
        return parts
    vector, restore = ravel_pytree(parts)
    if platform_of(mesh) == "cpu":
        table: Float[Array, "device number"] = jnp.zeros((mesh.size, vector.size), vector.dtype)
        table = table.at[jax.lax.axis_index(AXIS)].set(vector)
        summed: Tree = restore(jax.lax.psum(table, AXIS).sum(axis=0))
    else:
        summed = restore(jax.lax.psum(vector, AXIS))
    return summed


def kept(running: Bool[Array, "part"] | None, new: TrainState, old: TrainState) -> TrainState:
    """The new state of the parts that are running, the old one of the others; the count of steps goes on for all."""
    if running is None:
        return new

    def one(after: Array, before: Array) -> Array:
        if not after.ndim:
            return after
        return jnp.where(running.reshape(-1, *[1] * (after.ndim - 1)), after, before)

    chosen: TrainState = jax.tree.map(one, new, old)
    return chosen
