"""Dynamic negative guidance (DNG, arXiv 2410.14398): the more likely the concept, the stronger the guidance."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ine_jax.guidance.base import Moment, State, Texts, ThreeRows, in_float32, per_item
from ine_jax.schedulers.base import predictions
from ine_jax.types import BranchLatents, Latents, PerItem, Scale


class Chain(NamedTuple):
    """The previous call, and the posterior; every leaf has a leading batch axis.

    Attributes:
        log_p: log of the posterior.
        latents: x_t.
        clean: x_0 predicted by the base.
        gap: x_0 predicted by the negative, minus `clean`.
        alpha: α_t; 1 before the first call, so that no level is cleaner.
        sigma: σ_t.
    """

    log_p: PerItem
    latents: Latents
    clean: Latents
    gap: Latents
    alpha: PerItem
    sigma: PerItem


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DynamicNegative(ThreeRows):
    """ε = ε_b - λ_t (ε_n - ε_b) with λ_t = λ_0 p/(1 - p); three rows: unconditional, prompt, negative.

    p is the posterior that the chain so far is of the negative's class (algorithm 1): with the Gaussian transitions
    x_s ~ N(μ, σ̃²) of DDPM that either prediction implies,

        log p ← log p - (τ / 2σ̃²) (‖x_s - μ_n‖² - ‖x_s - μ_b‖²) + δ / 2σ̃²

    clipped to [`low`, `high`]. The bounds and σ̃² are those of the released code
    (FelixKoulischer/Dynamic-Negative-Guidance). The sampler does not matter: x_s is what the network sees at the next
    call, so the update is made there, from the state that this call left. With a = α_t/α_s, β = 1 - a² and x_0 in place
    of ε,

        μ = (a σ_s²/σ_t²) x_t + (α_s β/σ_t²) x_0,   σ̃² = β σ_s²/σ_t²
        ‖x_s - μ_n‖² - ‖x_s - μ_b‖² = g · (g - 2 (x_s - μ_b)),   g = μ_n - μ_b

    The paper samples with DDPM, where the noise of a step is evidence for one class or the other. Deterministic
    samplers add none, but their x_s still differs from μ_b: DDIM steps further by (σ_s - a σ_s²/σ_t) ε_b. In the limit
    of small steps, and without guidance, the updates sum to the change of log p_n(x)/p_b(x) along the path minus
    -½ Σ β ∇·(∇log p_n - ∇log p_b). Where the base contains the class and both have equal curvature this is positive,
    so p stays below the true posterior; δ > 0 compensates. This is the project's own reading, and so is ε_b = ε_u +
    w (ε_c - ε_u), since the released code has no prompt. σ̃² shrinks with shorter steps, so δ weighs more in longer
    runs. Where the noise level does not fall (the repeated step of PNDM) p does not change.

    Defaults: the lower ends of what a reimplementation quotes from the paper for Stable Diffusion (p_0 0.01, τ 0.2 to
    0.3, δ 0.002 to 0.004, λ_0 12 to 27).

    Attributes:
        scale: w, the guidance scale.
        strength: λ_0; 0 is plain classifier-free guidance.
        prior: p_0, the posterior before the first step.
        temperature: τ.
        offset: δ.
        low: the smallest posterior, from which it can still rise.
        high: the largest, which keeps p/(1 - p) finite; 0.8 in the released example.
    """

    scale: Scale = 7.5
    strength: Scale = 12.0
    prior: Scale = 0.01
    temperature: Scale = 0.2
    offset: Scale = 0.002
    low: Scale = 1e-6
    high: Scale = 0.99

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the chain before its first call."""
        super().init(texts, latents)
        empty, each = jnp.zeros_like(latents, jnp.float32), jnp.ones(latents.shape[0], jnp.float32)
        return Chain(jnp.log(jnp.asarray(self.prior, jnp.float32)) * each, empty, empty, empty, each, each)

    def combine(self, state: Chain, eps: BranchLatents, at: Moment) -> tuple[Latents, Chain]:
        """Return ε_b - λ_t (ε_n - ε_b) and the chain up to here."""
        log_p = self._posterior(state, at)
        p = jnp.exp(log_p)
        uncond, prompt, negative = in_float32(eps)
        base = uncond + per_item(self.scale) * (prompt - uncond)
        guided = base - per_item(self.strength) * per_item(p / (1.0 - p)) * (negative - base)
        here = (at.alpha, at.sigma)
        clean, other = (predictions(at.prediction, at.latents, each, *here)[0] for each in (base, negative))
        level = (jnp.broadcast_to(each, log_p.shape).astype(jnp.float32) for each in here)
        return guided.astype(eps.dtype), Chain(log_p, at.latents, clean, other - clean, *level)

    def _posterior(self, state: Chain, at: Moment) -> PerItem:
        """Return log p after the transition from the call before to what the network sees now."""
        falls = at.alpha > state.alpha
        ratio = state.alpha / jnp.where(falls, at.alpha, 1.0)
        beta = jnp.where(falls, (1.0 - ratio) * (1.0 + ratio), 1.0)
        toward = at.alpha * beta / state.sigma**2
        variance = beta * (at.sigma / state.sigma) ** 2
        kept = per_item(ratio * (at.sigma / state.sigma) ** 2) * state.latents
        rest = at.latents - kept - per_item(toward) * state.clean
        gap = per_item(toward) * state.gap
        difference = jnp.sum(gap * (gap - 2.0 * rest), axis=(1, 2, 3))
        change = (jnp.asarray(self.offset) - jnp.asarray(self.temperature) * difference) / (2.0 * variance)
        low, high = (jnp.log(jnp.asarray(bound, jnp.float32)) for bound in (self.low, self.high))
        return jnp.where(falls, jnp.clip(state.log_p + change, low, high), state.log_p)
