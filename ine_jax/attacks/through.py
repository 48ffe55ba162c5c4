"""The target's prediction at one noise level, differentiable in the prompt: through its guard and its negative.

A guard combines rows of the network in the sampling loop; here it combines them at a single noise level, as at the step
of the target's run whose timestep is nearest. What a guard remembers of earlier steps (the momentum of SLD) is empty. A
projection of the prompt (SAFREE) is linear in its context; which tokens it removes follows from the ids.
"""

import functools
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from ine_jax.guidance import slots
from ine_jax.guidance.base import Guidance, Moment, Texts, phases
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.bound import Bound
from ine_jax.pipeline.mesh import platform_of
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import Programs, native_unet
from ine_jax.pipeline.sampling import predict
from ine_jax.schedulers import NoiseConfig, alphas_cumprod
from ine_jax.types import Array, Context, Latents, Params, Step, TokenIds


class Frozen(NamedTuple):
    """The target's parameters and its guard with the texts of its slots."""

    text: Params
    unet: Params
    guard: Guidance
    uncond: Context
    negative: Context
    bank: Float[Array, "1 choice token dim"] | None
    columns: Float[Array, "column dim"] | None
    timesteps: Float[Array, "calls"]  # of the target's run


def frozen(text: Params, unet: Params, bound: Bound) -> Frozen:
    """Return what a step differentiates through."""
    held = bound.slots
    return Frozen(text, unet, bound.guard, held.uncond, held.negative, held.bank, held.columns, bound.tables.timestep)  # type: ignore[arg-type]  # arrays of the host, which are placed on the devices together


@dataclass(frozen=True)
class Through:
    """How the target predicts; hashable, so that a compiled step can be kept for it."""

    unet: UNetConfig
    noise: NoiseConfig
    dtype: DTypeLike
    programs: Programs
    end: int  # id of the end token

    @classmethod
    def of(cls, pipe: Pipeline) -> "Through":
        """How a pipeline predicts."""
        end = pipe.tokenizer.backend.eos_token_id
        return cls(pipe.parts.unet_config, pipe.scheduler.noise, pipe.dtype, pipe.programs, end)

    def prediction(self, target: Frozen, ids: TokenIds, prompt: Context, latents: Latents, t: Step) -> Latents:
        """Return the guided prediction for x_t at timestep `t`, of prompts with these ids and contexts."""
        calls, count = len(target.timesteps), len(prompt)
        step = jnp.argmin(jnp.abs(target.timesteps - t.astype(jnp.float32))).astype(jnp.int32)
        level = jnp.asarray(alphas_cumprod(self.noise), jnp.float32)[t]
        at = Moment(
            step,
            t.astype(jnp.float32),
            latents,
            jnp.sqrt(level),
            jnp.sqrt(1.0 - level),
            calls,
            self.noise.prediction_type,
        )
        texts = self._texts(target, ids, prompt, count, calls)
        network = native_unet(self.unet, self.dtype, platform_of(self.programs.mesh))
        denoise = functools.partial(network, target.unet)

        def of(part: Guidance) -> Latents:
            eps = predict(denoise, part, texts, latents, at.timestep, step)
            return part.combine(part.init(texts, latents), eps, at)[0]

        parts = phases(target.guard, calls)
        ends = list(itertools.accumulate(number for _, number in parts))
        which = jnp.searchsorted(jnp.asarray(ends[:-1], jnp.int32), step, side="right") if len(parts) > 1 else 0
        found: Latents = jax.lax.switch(which, [functools.partial(of, part) for part, _ in parts])
        return found

    def _texts(self, target: Frozen, ids: TokenIds, prompt: Context, count: int, calls: int) -> Texts:
        def each(text: Array) -> Array:
            return jnp.broadcast_to(text, (count, *text.shape[1:]))

        bank = None if target.bank is None else each(target.bank)
        texts = Texts(prompt, each(target.uncond), each(target.negative), bank)
        projects = slots.projection(target.guard)
        if projects is None:
            return texts
        where = (target.text, ids, jnp.zeros((8, prompt.shape[-1])), jnp.zeros((count,), bool), np.int32(self.end))
        found = self.programs.project(*where, projects, prompt, target.columns, np.float32(calls))
        return Texts(prompt, texts.uncond, texts.negative, bank, found.safe, found.until)
