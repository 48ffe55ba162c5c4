"""The contract of a sampler, and the arithmetic that all of them share.

A sampler is a frozen, hashable value. Its numbers for a run of n steps are a *table*: a pytree whose leaves have the
network calls along their first axis, computed on the host in float64 and stored in float32. A scan over the table
hands one row to each step, so another table of the same length never compiles again.

    tables(n) ─→ initial(noise) ─→ [ scale_input ─→ network ─→ step ] × calls ─→ clean latents
"""

from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from ine_jax.errors import InputError
from ine_jax.schedulers.noise import TINY_ALPHA_BAR, NoiseConfig, alphas_cumprod
from ine_jax.types import Array

State = Any  # a pytree of the sampler's own; () where it remembers nothing


class Tables(Protocol):
    """What every table has; a row of it is the same object with the first axis taken away."""

    @property
    def timestep(self) -> Any:
        """Noise level that the network is told, float32 [calls]."""


class Scheduler(Protocol):
    """One way of integrating from noise to data; all methods are pure and run inside `jit`."""

    @property
    def noise(self) -> NoiseConfig:
        """Return the forward process and the prediction type."""

    def tables(self, steps: int) -> Any:
        """Return the table of a run; the number of network calls may exceed `steps` (PNDM makes one more).

        Raises:
            InputError: a number of steps that the noise levels do not allow.
        """

    def initial(self, noise: Array, tables: Any) -> tuple[Array, State]:
        """Return the first latents (unit noise [batch, h, w, c], scaled) and the empty state of the scan."""

    def scale_input(self, latents: Array, row: Any) -> Array:
        """Return what the network sees of the current latents."""

    def level(self, row: Any) -> tuple[Array, Array]:
        """Return (α, σ) of what the network sees: α x_0 + σ ε."""

    def step(self, state: State, latents: Array, model_output: Array, row: Any) -> tuple[Array, State]:
        """Return the latents of the next lower noise level and the new state."""


def predictions(prediction_type: str, latents: Array, output: Array, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    """Return (x_0, ε) as the network sees them, from x_t and its output.

    "epsilon": x_0 = (x_t - σ ε) / α.  "v_prediction": x_0 = α x_t - σ v and ε = α v + σ x_t (arXiv 2202.00512).
    """
    if prediction_type == "v_prediction":
        return alpha * latents - sigma * output, alpha * output + sigma * latents
    return (latents - sigma * output) / alpha, output


def check_steps(steps: int, config: NoiseConfig) -> None:
    """Raise `InputError` unless 1 <= steps <= training steps."""
    if not 1 <= steps <= config.train_steps:
        raise InputError(
            f"Sampling steps: {steps}.",
            f"1 to {config.train_steps}, the noise levels that the model was trained on",
            "Choose fewer steps; 20 to 50 are usual.",
        )


def timesteps(steps: int, config: NoiseConfig) -> np.ndarray:
    """Return the visited timesteps, from noisy to clean, float64 [steps], unrounded under "linspace".

    The three spacings of Table 2 in arXiv 2305.08891. "leading" alone adds the offset.

    Raises:
        InputError: the number of steps does not fit, or the offset leaves the trained range.
    """
    check_steps(steps, config)
    count = config.train_steps
    if config.spacing == "linspace":
        return np.linspace(0, count - 1, steps)[::-1]
    if config.spacing == "trailing":
        return np.round(count - np.arange(steps) * (count / steps)) - 1
    levels = np.arange(steps)[::-1] * float(count // steps) + config.offset
    in_range(levels, config)
    return levels


def in_range(levels: np.ndarray, config: NoiseConfig) -> None:
    """Raise `InputError` where a timestep was never trained."""
    if levels.min() < 0 or levels.max() > config.train_steps - 1:
        raise InputError(
            f"These settings visit timestep {levels.max():.0f} ({len(levels)} steps, offset {config.offset}).",
            f"timesteps 0 to {config.train_steps - 1}",
            "Use fewer steps or a smaller steps_offset.",
        )


def sigma_ratios(config: NoiseConfig) -> np.ndarray:
    """Return σ_t / α_t in float64, the noise level of Karras et al. (arXiv 2206.00364), increasing, [train_steps]."""
    alpha_bar = alphas_cumprod(config)
    if config.zero_snr:
        alpha_bar = np.append(alpha_bar[:-1], TINY_ALPHA_BAR)
    return np.sqrt((1.0 - alpha_bar) / alpha_bar)


def karras(low: float, high: float, steps: int, rho: float = 7.0) -> np.ndarray:
    """Return noise levels from `high` to `low`, evenly spaced in level^(1/ρ) (eq. 5 of arXiv 2206.00364)."""
    return np.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho


def timestep_of(ratio: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Return the fractional timestep whose log noise level is that of `ratio`, clipped to the trained range."""
    return np.interp(np.log(np.maximum(ratio, 1e-10)), np.log(ratios), np.arange(len(ratios)))


def float32(*columns: np.ndarray) -> tuple[Any, ...]:
    """Return the columns of a table in float32."""
    return tuple(np.asarray(column, np.float32) for column in columns)


def as_float32(array: Array) -> Array:
    """Return the array in float32, in which every sampler computes."""
    return jnp.asarray(array, jnp.float32)
