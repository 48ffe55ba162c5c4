"""PNDM without Runge-Kutta start, also known as PLMS (arXiv 2202.09778, eq. 9 and 12)."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ine_jax.errors import InputError
from ine_jax.schedulers.base import Column, VariancePreserving, as_float32, float32, in_range, timesteps
from ine_jax.schedulers.noise import NoiseConfig, Settings, alphas_cumprod
from ine_jax.types import Array, Latents

# Adams-Bashforth weights of the newest output and the three before it. Call 1 repeats the first step from its
# start with the mean of the two outputs known by then (Heun), which replaces the Runge-Kutta start of the paper.
STARTUP = np.array([[1, 0, 0, 0], [1 / 2, 1 / 2, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0]])
ADAMS = np.array([55, -59, 37, -9]) / 24


class PndmTables(NamedTuple):
    """Per network call, float32 [calls] (`weights` [calls, 4]).

    `timestep` is the network's, (seen_alpha, seen_sigma) its level. (alpha, sigma) and the transfer's two factors
    belong to the level where the step starts, another one in call 1. `again` is 1 in call 1 and 0 elsewhere.
    """

    timestep: Column
    seen_alpha: Column
    seen_sigma: Column
    alpha: Column
    sigma: Column
    keep: Column
    move: Column
    weights: Column
    again: Column


class PndmState(NamedTuple):
    """The last three network outputs, newest first, and the latents where the first step began."""

    outputs: tuple[Latents, Latents, Latents]
    start: Latents


@dataclass(frozen=True)
class Pndm(VariancePreserving):
    """The pseudo linear multistep sampler.

    Attributes:
        noise: the forward process.
        alpha_one: the last step ends at ᾱ = 1; otherwise at ᾱ_0, as Stable Diffusion does.
    """

    noise: NoiseConfig
    alpha_one: bool = False

    @staticmethod
    def from_dict(config: Settings) -> "Pndm":
        """Read a `scheduler_config.json` dictionary; missing keys take diffusers' defaults.

        Configs of other classes have no Runge-Kutta steps, so these are skipped for them.
        """
        own = "PNDM" in str(config.get("_class_name", ""))
        if not config.get("skip_prk_steps", not own):
            raise InputError(
                "Scheduler setting skip_prk_steps: false (or missing in a PNDM config, which means the same).",
                "true, as in every Stable Diffusion checkpoint",
                'Add "skip_prk_steps": true to scheduler_config.json, or choose another sampler.',
            )
        return Pndm(NoiseConfig.from_dict(config, "leading"), bool(config.get("set_alpha_to_one", False)))

    def tables(self, steps: int) -> PndmTables:
        """Return the table of a run of steps + 1 network calls (1 where steps is 1)."""
        alpha_bar = alphas_cumprod(self.noise)
        seen_at = np.round(timesteps(steps, self.noise))
        stride = self.noise.train_steps // steps
        seen_at = np.concatenate([seen_at[:2], seen_at[1:2], seen_at[2:]]).astype(np.int64)
        again = np.arange(len(seen_at)) == 1
        start = np.where(again, seen_at + stride, seen_at)
        in_range(start, self.noise)
        end = start - stride
        last = 1.0 if self.alpha_one else alpha_bar[0]
        seen, here, there = alpha_bar[seen_at], alpha_bar[start], np.where(end >= 0, alpha_bar[end], last)
        keep = np.sqrt(there / here)
        move = (there - here) / (here * np.sqrt(1 - there) + np.sqrt(here * (1 - here) * there))
        weights = np.concatenate([STARTUP, np.tile(ADAMS, (len(seen_at), 1))])[: len(seen_at)]
        levels = (np.sqrt(seen), np.sqrt(1 - seen), np.sqrt(here), np.sqrt(1 - here))
        return PndmTables(*float32(seen_at, *levels, keep, move, weights, again))

    def initial(self, noise: Latents, tables: PndmTables) -> tuple[Latents, PndmState]:
        """Return unit noise as it is, and an empty history."""
        latents = as_float32(noise)
        empty = jnp.zeros_like(latents)
        return latents, PndmState((empty, empty, empty), latents)

    def level(self, row: PndmTables) -> tuple[Array, Array]:
        """Return (α, σ) of the latents before the step, which in call 1 are the first step's outcome."""
        return row.seen_alpha, row.seen_sigma

    def step(
        self, state: PndmState, latents: Latents, model_output: Latents, row: PndmTables
    ) -> tuple[Latents, PndmState]:
        """Return the transfer of eq. 9 along the combined output of eq. 12.

        The history holds raw network outputs; under v-prediction the combined v becomes ε at the step's start.
        """
        output, past = as_float32(model_output), state.outputs
        again = row.again > 0.5
        start = jnp.where(again, state.start, latents)
        eps = row.weights[0] * output + sum(row.weights[i + 1] * past[i] for i in range(3))
        if self.noise.prediction_type == "v_prediction":
            eps = row.alpha * eps + row.sigma * start
        history = tuple(jnp.where(again, old, new) for old, new in zip(past, (output, *past[:2]), strict=True))
        return row.keep * start - row.move * eps, PndmState((history[0], history[1], history[2]), start)
