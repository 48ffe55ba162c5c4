"""Fakes that follow the real contracts and have closed forms."""

from dataclasses import dataclass

import jax
import numpy as np

from ine_jax.models.layers import per_row


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ToyDenoiser:
    """A linear denoiser: ε(x, t, c) = gain · x + push · mean(c) + drift · t / 1000.

    The mean runs over the tokens and channels of one row, so a row depends on itself alone.
    """

    gain: float = 0.4
    push: float = 0.5
    drift: float = 0.1

    def __call__(self, latents: jax.Array, timesteps: jax.Array, context: jax.Array) -> jax.Array:
        shape = (-1, 1, 1, 1)
        latents, timesteps = per_row(latents, context), per_row(timesteps, context)
        shift = self.push * context.mean(axis=(1, 2)).reshape(shape) + self.drift * timesteps.reshape(shape) / 1000.0
        return self.gain * latents + shift.astype(latents.dtype)

    def numpy(self, latents: np.ndarray, timestep: float, context: np.ndarray) -> np.ndarray:
        """Tell the same in float64 for one timestep, context [batch, token, dim]."""
        mean = context.astype(np.float64).mean(axis=(1, 2)).reshape(-1, 1, 1, 1)
        return np.asarray(self.gain * latents + self.push * mean + self.drift * timestep / 1000.0)
