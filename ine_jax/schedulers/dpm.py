"""DPM-Solver++, multistep, first and second order (arXiv 2211.01095, algorithm 2)."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ine_jax.errors import InputError
from ine_jax.schedulers.base import Column, VariancePreserving, as_float32, check_steps, float32, in_range, predictions
from ine_jax.schedulers.noise import Levels, NoiseConfig, Settings, karras, one_of, sigma_ratios, timestep_of
from ine_jax.types import HostArray, Latents

SHORT_RUN = 15  # runs shorter than this end at first order where lower_order_final is set, as in diffusers


class DpmTables(NamedTuple):
    """Per network call: the timestep, (α, σ), and the weights of x, of m_0 and of m_0 - m_1; float32 [steps]."""

    timestep: Column
    alpha: Column
    sigma: Column
    keep: Column
    clean: Column
    slope: Column


@dataclass(frozen=True)
class DpmSolver2M(VariancePreserving):
    """The multistep solver for the data prediction m = x̂_0.

    Attributes:
        noise: the forward process.
        order: 1 or 2.
        heun: the second-order correction integrates exactly ("heun") instead of by the midpoint.
        lower_order_final: the last step of a short run is first order.
        euler_at_final: the last step is always first order.
        final_zero: the run ends at σ = 0; otherwise at the smallest trained σ.
        use_karras: levels by eq. 5 of arXiv 2206.00364 instead of by the spacing.
        lambda_min: levels with log(α/σ) below this are left out.
    """

    noise: NoiseConfig
    order: int = 2
    heun: bool = False
    lower_order_final: bool = True
    euler_at_final: bool = False
    final_zero: bool = True
    use_karras: bool = False
    lambda_min: float = -float("inf")

    @staticmethod
    def from_dict(config: Settings) -> "DpmSolver2M":
        """Read a `scheduler_config.json` dictionary; missing keys take diffusers' defaults."""
        order = int(config.get("solver_order", 2))
        if order not in (1, 2):
            raise InputError(f"Scheduler setting solver_order: {order}.", "1, 2", "Set solver_order to 2.")
        one_of(config, "algorithm_type", "dpmsolver++", ("dpmsolver++",))
        return DpmSolver2M(
            noise=NoiseConfig.from_dict(config, "linspace"),
            order=order,
            heun=one_of(config, "solver_type", "midpoint", ("midpoint", "heun")) == "heun",
            lower_order_final=bool(config.get("lower_order_final", True)),
            euler_at_final=bool(config.get("euler_at_final", False)),
            final_zero=one_of(config, "final_sigmas_type", "zero", ("zero", "sigma_min")) == "zero",
            use_karras=bool(config.get("use_karras_sigmas", False)),
            lambda_min=float(config.get("lambda_min_clipped", -float("inf"))),
        )

    def _levels(self, steps: int, ratios: HostArray) -> Levels:
        """Return integer timesteps, noisy to clean, where the run excludes its own end point (steps + 1 levels)."""
        check_steps(steps, self.noise)
        count = self.noise.train_steps
        last = count - int(np.searchsorted(-np.log(ratios)[::-1], self.lambda_min))
        if self.noise.spacing == "linspace":
            levels: np.ndarray = np.round(np.linspace(0, last - 1, steps + 1))[::-1][:-1]
        elif self.noise.spacing == "leading":
            levels = np.arange(steps + 1)[::-1][:-1] * float(last // (steps + 1)) + self.noise.offset
        else:
            levels = np.round(last - np.arange(steps) * (count / steps)) - 1
            levels = levels[levels >= 0]
        in_range(levels, self.noise)
        return levels

    def tables(self, steps: int) -> DpmTables:
        """Return the table of a run: every step as x' = keep · x + clean · m_0 + slope · (m_0 - m_1)."""
        ratios = sigma_ratios(self.noise)
        levels = self._levels(steps, ratios)
        ratio: np.ndarray = ratios[levels.astype(np.int64)]
        if self.use_karras:
            ratio = karras(ratios[0], ratios[-1], steps)
            levels = timestep_of(ratio, ratios)
            cosine = self.noise.beta_schedule == "squaredcos_cap_v2"
            levels = np.trunc(levels if cosine else np.round(levels))
        ratio = np.append(ratio, 0.0 if self.final_zero else ratios[0])
        if not np.all(np.diff(ratio) < 0):
            given = f"{steps} steps of DPM-Solver++ visit a noise level twice."
            allowed = "fewer steps, so that all levels differ"
            raise InputError(given, allowed, "Lower the number of steps, or set final_sigmas_type to zero.")
        alpha = 1.0 / np.sqrt(ratio**2 + 1.0)
        return DpmTables(*float32(levels, alpha[:-1], (ratio * alpha)[:-1], *self._weights(ratio, alpha)))

    def _weights(self, ratio: HostArray, alpha: HostArray) -> tuple[Levels, Levels, Levels]:
        """Return the three weights; with λ = log(α/σ), h = λ' - λ and r = h_previous / h (algorithm 2)."""
        steps = len(ratio) - 1
        sigma = ratio * alpha
        decay = ratio[1:] / ratio[:-1]  # exp(-h), 0 where the run ends at σ = 0
        clean = alpha[1:] * (1.0 - decay)
        first = np.zeros(steps, bool)
        first[0] = True
        first[-1] |= self.euler_at_final or self.final_zero or (self.lower_order_final and steps < SHORT_RUN)
        slope = np.zeros(steps)
        if self.order == 2:
            here = ~first
            h = -np.log(decay[here])
            r = -np.log(decay[np.flatnonzero(here) - 1]) / h
            half = alpha[1:][here] * (np.expm1(-h) / h + 1.0) if self.heun else 0.5 * clean[here]
            slope[here] = half / r
        return sigma[1:] / sigma[:-1], clean, slope

    def initial(self, noise: Latents, tables: DpmTables) -> tuple[Latents, Latents]:
        """Return unit noise as it is, and zeros for the data prediction before the first."""
        latents = as_float32(noise)
        return latents, jnp.zeros_like(latents)

    def step(self, state: Latents, latents: Latents, model_output: Latents, row: DpmTables) -> tuple[Latents, Latents]:
        """Return x' = (σ'/σ) x + α'(1 - e^-h) m_0 + correction · (m_0 - m_1), and m_0 for the next step."""
        clean, _ = predictions(self.noise.prediction_type, latents, as_float32(model_output), row.alpha, row.sigma)
        return row.keep * latents + row.clean * clean + row.slope * (clean - state), clean
