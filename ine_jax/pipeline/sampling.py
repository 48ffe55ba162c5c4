"""The sampling loop: one scan per phase of the guard, one network call per step for all rows of all branches.

This module knows the contracts of samplers and guards, and no particular one.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ine_jax.guidance.base import Guidance, Moment, Referring, Texts, phases
from ine_jax.guidance.base import State as GuardState
from ine_jax.schedulers.base import Scheduler, State, Table
from ine_jax.types import Array, BranchLatents, Latents, Scalar, Step

# (latents [items, h, w, c], timesteps [items], context [rows, token, dim]) -> prediction [rows, h, w, c], with the rows
# of an item one after the other; for a guard with a reference row also (..., reference) -> prediction of all other rows
Denoiser: TypeAlias = Callable[..., Array]


def predict(
    denoise: Denoiser, guidance: Guidance, texts: Texts, latents: Latents, timestep: Scalar, step: Step
) -> BranchLatents:
    """Return the prediction of every branch in float32, from one network call.

    Branches are folded inside the batch axis, with the item as the slower index: row = item · branches + branch. So an
    array sharded over its items stays in place, and stacking branches moves nothing between devices. Latents and time
    are those of the items: what a network computes before it reads the text is the same for all rows of an item.

    Where a guard returns a reference, its `context` becomes one more row of every item, the last, and the network
    receives the reference too: it compares the other rows with that one inside and returns no prediction for it.
    """
    contexts = guidance.contexts(texts, step)
    reference = guidance.reference(texts, step) if isinstance(guidance, Referring) else None
    if reference is not None:
        contexts = jnp.concatenate([contexts, reference.context[:, None].astype(contexts.dtype)], axis=1)
    batch = latents.shape[0]
    inputs = (latents, jnp.full((batch,), timestep), contexts.reshape(-1, *contexts.shape[2:]))
    output = denoise(*inputs) if reference is None else denoise(*inputs, reference)
    return output.astype(jnp.float32).reshape(batch, -1, *latents.shape[1:])


def sample(
    denoise: Denoiser,
    scheduler: Scheduler[Table, State],
    tables: Table,
    guidance: Guidance,
    texts: Texts,
    noise: Float[Array, "batch h w c"],
) -> Latents:
    """Return clean latents in float32, in the scale that the network works in.

    Call it inside `jit` with `denoise` and `scheduler` closed over (or static) and everything else as arguments: then
    another prompt, seed, scale or table of the same length runs the same program. Each item is computed from its own
    row alone, so a batch sharded over a device mesh needs no communication. `tables` are `scheduler.tables(steps)`,
    `noise` is standard normal, and every leaf of `texts` has its batch axis.
    """
    latents, memory = scheduler.initial(noise.astype(jnp.float32), tables)
    calls = tables.timestep.shape[0]

    def loop(part: Guidance, latents: Latents, memory: State, rows: tuple[Array, Table]) -> tuple[Latents, State]:
        def body(
            carry: tuple[Latents, State, GuardState], row: tuple[Step, Table]
        ) -> tuple[tuple[Latents, State, GuardState], None]:
            latents, memory, state = carry
            step, numbers = row
            seen = scheduler.scale_input(latents, numbers)
            eps = predict(denoise, part, texts, seen, numbers.timestep, step)
            level = scheduler.level(numbers)
            at = Moment(step, numbers.timestep, seen, *level, calls, scheduler.noise.prediction_type)
            guided, state = part.combine(state, eps, at)
            latents, memory = scheduler.step(memory, latents, guided, numbers)
            return (latents, memory, state), None

        start = (latents, memory, part.init(texts, latents))
        (latents, memory, _), _ = jax.lax.scan(body, start, rows)
        return latents, memory

    rows, first = (jnp.arange(calls, dtype=jnp.int32), tables), 0
    for part, count in phases(guidance, calls):
        chosen = jax.tree.map(lambda column, a=first, n=count: column[a : a + n], rows)
        latents, memory = loop(part, latents, memory, chosen)
        first += count
    return latents
