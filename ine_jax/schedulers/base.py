"""The contract of a sampler, and the arithmetic that all samplers share.

A sampler is a frozen, hashable value. Its numbers for a run of n steps are a *table*: a named tuple whose columns hold
one number per network call, computed on the host in float64 and stored in float32. A scan over the table passes one
row to each step, so another table of the same length never compiles again.

    tables(n) ─→ initial(noise) ─→ [ scale_input ─→ network ─→ step ] × calls ─→ clean latents
"""

from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from ine_jax.errors import InputError
from ine_jax.schedulers.noise import Levels, NoiseConfig
from ine_jax.types import Array, HostArray, Latents, Scale

Column: TypeAlias = Float[Array, "*calls"]  # float32; a scalar in a row


@runtime_checkable
class Tables(Protocol):
    """What every table has. A row is the same named tuple without the first axis."""

    @property
    def timestep(self) -> Column:
        """Timestep that the network receives, float32 [calls]."""


Table = TypeVar("Table", bound=Tables)
State = TypeVar("State", bound=PyTree[Array])  # () where a sampler remembers nothing


@runtime_checkable
class Scheduler(Protocol[Table, State]):
    """One way of integrating from noise to data; all methods are pure and run inside `jit`."""

    @property
    def noise(self) -> NoiseConfig:
        """The forward process and the prediction type."""

    def tables(self, steps: int) -> Table:
        """Return the table of a run. It may have more rows than `steps`: PNDM makes one call more."""

    def initial(self, noise: Latents, tables: Table) -> tuple[Latents, State]:
        """Return the first latents (unit noise, scaled) and the empty state of the scan."""

    def scale_input(self, latents: Latents, row: Table) -> Latents:
        """Return the current latents as the network sees them."""

    def level(self, row: Table) -> tuple[Array, Array]:
        """Return (α, σ) of what the network sees: α x_0 + σ ε."""

    def step(self, state: State, latents: Latents, model_output: Latents, row: Table) -> tuple[Latents, State]:
        """Return the latents of the next lower noise level and the new state."""


AnyScheduler: TypeAlias = Scheduler[Any, Any]


class VariancePreserving:
    """The part that samplers share whose latents are α x_0 + σ ε, as the network sees them."""

    def scale_input(self, latents: Latents, row: object) -> Latents:
        """Return the latents unchanged."""
        return latents

    def level(self, row: Any) -> tuple[Array, Array]:
        """Return (α, σ)."""
        return row.alpha, row.sigma


def predictions(
    prediction_type: str, latents: Latents, output: Latents, alpha: Scale, sigma: Scale
) -> tuple[Latents, Latents]:
    """Return (x_0, ε) as the network sees them, from x_t and its output.

    "epsilon": x_0 = (x_t - σ ε) / α.  "v_prediction": x_0 = α x_t - σ v and ε = α v + σ x_t (arXiv 2202.00512).
    """
    if prediction_type == "v_prediction":
        return latents * alpha - output * sigma, output * alpha + latents * sigma
    return (latents - output * sigma) / alpha, output


def check_steps(steps: int, config: NoiseConfig) -> None:
    """Raise `InputError` unless 1 <= steps <= training steps."""
    if not 1 <= steps <= config.train_steps:
        allowed = f"1 to {config.train_steps}, the noise levels that the model was trained on"
        raise InputError(f"Sampling steps: {steps}.", allowed, "Choose fewer steps; 20 to 50 are usual.")


def timesteps(steps: int, config: NoiseConfig) -> Levels:
    """Return the visited timesteps, from noisy to clean, float64 [steps], unrounded under "linspace".

    The three spacings of Table 2 in arXiv 2305.08891. "leading" alone adds the offset.
    """
    check_steps(steps, config)
    count = config.train_steps
    if config.spacing == "linspace":
        return np.linspace(0, count - 1, steps)[::-1]
    if config.spacing == "trailing":
        return np.asarray(np.round(count - np.arange(steps) * (count / steps)) - 1)
    levels = np.arange(steps)[::-1] * float(count // steps) + config.offset
    in_range(levels, config)
    return levels


def in_range(levels: HostArray, config: NoiseConfig) -> None:
    """Raise `InputError` where a timestep was never trained."""
    if levels.min() < 0 or levels.max() > config.train_steps - 1:
        given = f"These settings visit timestep {levels.max():.0f} ({len(levels)} steps, offset {config.offset})."
        allowed = f"timesteps 0 to {config.train_steps - 1}"
        raise InputError(given, allowed, "Use fewer steps or a smaller steps_offset.")


def float32(*columns: HostArray) -> tuple[Column, ...]:
    """Return the columns of a table in float32."""
    return tuple(jnp.asarray(column, jnp.float32) for column in columns)


def as_float32(array: Latents) -> Latents:
    """Return the array in float32, in which every sampler computes."""
    return jnp.asarray(array, jnp.float32)
