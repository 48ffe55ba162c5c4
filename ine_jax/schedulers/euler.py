"""Euler's method on the probability-flow ODE in σ/α (arXiv 2206.00364, algorithm 1 without churn)."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ine_jax.errors import InputError
from ine_jax.schedulers.base import Column, as_float32, float32, timesteps
from ine_jax.schedulers.noise import NoiseConfig, Settings, karras, one_of, sigma_ratios, timestep_of
from ine_jax.types import Array, Latents


class EulerTables(NamedTuple):
    """Per network call: the (fractional) timestep, this level, the next one, and the noise scale; float32 [steps]."""

    timestep: Column
    level: Column
    next_level: Column
    noise_scale: Column  # the same number in every row: the standard deviation of the first latents


@dataclass(frozen=True)
class Euler:
    """Euler steps; the latents carry variance 1 + level² and are scaled down before the network sees them.

    Attributes:
        noise: the forward process.
        log_linear: levels evenly spaced in log σ/α instead of at the visited timesteps.
        use_karras: levels by eq. 5 of the paper, between the ends of the visited ones.
        final_zero: the run ends at level 0; otherwise at the smallest trained level.
        low: smallest level under `use_karras`, or None for the visited one.
        high: largest level under `use_karras`, or None for the visited one.
    """

    noise: NoiseConfig
    log_linear: bool = False
    use_karras: bool = False
    final_zero: bool = True
    low: float | None = None
    high: float | None = None

    @staticmethod
    def from_dict(config: Settings) -> "Euler":
        """Read a `scheduler_config.json` dictionary; missing keys take diffusers' defaults."""
        one_of(config, "timestep_type", "discrete", ("discrete",))
        low, high = config.get("sigma_min"), config.get("sigma_max")
        return Euler(
            noise=NoiseConfig.from_dict(config, "linspace"),
            log_linear=one_of(config, "interpolation_type", "linear", ("linear", "log_linear")) == "log_linear",
            use_karras=bool(config.get("use_karras_sigmas", False)),
            final_zero=one_of(config, "final_sigmas_type", "zero", ("zero", "sigma_min")) == "zero",
            low=None if low is None else float(low),
            high=None if high is None else float(high),
        )

    def tables(self, steps: int) -> EulerTables:
        """Return the table of a run; timesteps between trained ones get interpolated levels."""
        ratios = sigma_ratios(self.noise)
        visited = timesteps(steps, self.noise)
        if self.log_linear:  # one level more than steps: the run ends at the smallest trained level by itself
            level = np.geomspace(ratios[-1], ratios[0], steps + 1)
        else:
            level = np.interp(visited, np.arange(len(ratios)), ratios)
        if self.use_karras:
            low = level[-1] if self.low is None else self.low
            high = level[0] if self.high is None else self.high
            level = karras(low, high, steps)
            visited = timestep_of(level, ratios)
        level = np.append(level, 0.0 if self.final_zero else ratios[0])[: steps + 1]
        if not np.all(level[:-1] > 0):
            raise InputError("A noise level of 0 or less.", "sigma_min above 0", "Edit sigma_min, sigma_max.")
        peak = level.max()
        scale = np.sqrt(peak**2 + 1.0) if self.noise.spacing == "leading" else peak
        return EulerTables(*float32(visited, level[:-1], level[1:], np.full(steps, scale)))

    def initial(self, noise: Latents, tables: EulerTables) -> tuple[Latents, tuple[()]]:
        """Return noise of the first level's standard deviation; there is no state."""
        return as_float32(noise) * tables.noise_scale[0], ()

    def scale_input(self, latents: Latents, row: EulerTables) -> Latents:
        """Return latents of variance 1: x / sqrt(level² + 1)."""
        return latents / jnp.sqrt(row.level**2 + 1.0)

    def level(self, row: EulerTables) -> tuple[Array, Array]:
        """Return (1, level) / sqrt(level² + 1)."""
        root = jnp.sqrt(row.level**2 + 1.0)
        return 1.0 / root, row.level / root

    def step(
        self, state: tuple[()], latents: Latents, model_output: Latents, row: EulerTables
    ) -> tuple[Latents, tuple[()]]:
        """Return x + (level' - level) · dx/dlevel, where the slope is ε̂ = (x - x̂_0) / level."""
        slope = as_float32(model_output)
        if self.noise.prediction_type == "v_prediction":
            variance = row.level**2 + 1.0
            slope = slope / jnp.sqrt(variance) + latents * (row.level / variance)
        return latents + (row.next_level - row.level) * slope, state
