"""DDIM, deterministic (arXiv 2010.02502, eq. 12 with η = 0)."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ine_jax.errors import InputError
from ine_jax.schedulers.base import Column, VariancePreserving, as_float32, float32, predictions, timesteps
from ine_jax.schedulers.noise import NoiseConfig, Settings, alphas_cumprod
from ine_jax.types import Latents


class DdimTables(NamedTuple):
    """Per network call: the timestep, (α, σ) of this level and of the next one; float32 [steps]."""

    timestep: Column
    alpha: Column
    sigma: Column
    next_alpha: Column
    next_sigma: Column


@dataclass(frozen=True)
class Ddim(VariancePreserving):
    """The deterministic DDIM sampler.

    Attributes:
        noise: the forward process.
        clip: bound of the predicted clean latents, or None.
        alpha_one: the last step ends at ᾱ = 1; otherwise at ᾱ_0, as Stable Diffusion does.
    """

    noise: NoiseConfig
    clip: float | None = None
    alpha_one: bool = True

    @staticmethod
    def from_dict(config: Settings) -> "Ddim":
        """Read a `scheduler_config.json` dictionary; missing keys take diffusers' defaults (which clip at 1)."""
        noise = NoiseConfig.from_dict(config, "leading")
        if noise.zero_snr and noise.prediction_type == "epsilon":
            given = "rescale_betas_zero_snr with prediction_type epsilon."
            allowed = "zero terminal SNR with v_prediction only, since ε says nothing about the image in pure noise"
            raise InputError(given, allowed, "Set one of the two settings differently.")
        clip = float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample", True) else None
        return Ddim(noise, clip, bool(config.get("set_alpha_to_one", True)))

    def tables(self, steps: int) -> DdimTables:
        """Return the table of a run; the step length is train_steps // steps whatever the spacing is."""
        alpha_bar = alphas_cumprod(self.noise)
        current = np.round(timesteps(steps, self.noise)).astype(np.int64)
        following = current - self.noise.train_steps // steps
        last = 1.0 if self.alpha_one else alpha_bar[0]
        here, there = alpha_bar[current], np.where(following >= 0, alpha_bar[following], last)
        return DdimTables(*float32(current, np.sqrt(here), np.sqrt(1 - here), np.sqrt(there), np.sqrt(1 - there)))

    def initial(self, noise: Latents, tables: DdimTables) -> tuple[Latents, tuple[()]]:
        """Return unit noise as it is; there is no state."""
        return as_float32(noise), ()

    def step(
        self, state: tuple[()], latents: Latents, model_output: Latents, row: DdimTables
    ) -> tuple[Latents, tuple[()]]:
        """Return x_s = α_s x̂_0 + σ_s ε̂ (eq. 12), with x̂_0 clipped where the config asks for it."""
        clean, eps = predictions(self.noise.prediction_type, latents, as_float32(model_output), row.alpha, row.sigma)
        if self.clip is not None:
            clean = jnp.clip(clean, -self.clip, self.clip)
        return row.next_alpha * clean + row.next_sigma * eps, state
