"""The forward process: betas, their cumulative products, adding noise, and what a network is trained to predict.

Notation of this package: ᾱ_t is the cumulative product of 1 - β; α_t = sqrt(ᾱ_t) scales the clean latents,
σ_t = sqrt(1 - ᾱ_t) scales the noise, so that x_t = α_t x_0 + σ_t ε (variance preserving).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ine_jax.errors import InputError
from ine_jax.types import AnyArray, Array

Settings: TypeAlias = Mapping[str, Any]  # a parsed scheduler_config.json, or some keys of it
AlphaBars: TypeAlias = Float[AnyArray, "train_steps"]
Levels: TypeAlias = Float[np.ndarray, "calls"]
Batch: TypeAlias = Float[Array, "batch *item"]
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction")
SPACINGS = ("leading", "trailing", "linspace")
# Zero terminal SNR makes σ/α infinite; solvers that work with that ratio take the smallest subnormal of float16.
TINY_ALPHA_BAR = 2.0**-24


def one_of(config: Settings, key: str, default: str, allowed: tuple[str, ...]) -> str:
    """Return the text under `key`, raising `InputError` where it is not one of `allowed`."""
    value = config.get(key, default)
    if value not in allowed:
        raise InputError(f"Scheduler setting {key}: {value!r}.", f"{', '.join(allowed)}", "Edit the config.")
    return str(value)


@dataclass(frozen=True)
class NoiseConfig:
    """The part of a `scheduler_config.json` that every sampler shares; hashable, defaults as in diffusers.

    Attributes:
        train_steps: number of noise levels of the training, 1000 in Stable Diffusion.
        beta_start: variance of the first step.
        beta_end: variance of the last step.
        beta_schedule: how β runs between them, one of `BETA_SCHEDULES`.
        trained_betas: explicit betas, which replace the three above.
        prediction_type: what the network predicts, "epsilon" or "v_prediction".
        spacing: which noise levels a short run visits (Table 2 of arXiv 2305.08891).
        offset: added to every timestep under "leading" spacing.
        zero_snr: betas rescaled so that the last level is pure noise (Algorithm 1 of arXiv 2305.08891).
    """

    train_steps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    spacing: str = "leading"
    offset: int = 0
    zero_snr: bool = False

    @staticmethod
    def from_dict(config: Settings, spacing: str = "leading") -> "NoiseConfig":
        """Read the shared settings; `spacing` is the sampler's own default."""
        trained = config.get("trained_betas")
        train_steps = int(config.get("num_train_timesteps", 1000))
        if trained is not None and len(trained) != train_steps:
            given = f"{len(trained)} trained_betas and num_train_timesteps {train_steps}."
            raise InputError(given, "one beta for every training step", "Correct num_train_timesteps in the config.")
        return NoiseConfig(
            train_steps=train_steps,
            beta_start=float(config.get("beta_start", 0.0001)),
            beta_end=float(config.get("beta_end", 0.02)),
            beta_schedule=one_of(config, "beta_schedule", "linear", BETA_SCHEDULES),
            trained_betas=None if trained is None else tuple(float(beta) for beta in trained),
            prediction_type=one_of(config, "prediction_type", "epsilon", PREDICTION_TYPES),
            spacing=one_of(config, "timestep_spacing", spacing, SPACINGS),
            offset=int(config.get("steps_offset", 0)),
            zero_snr=bool(config.get("rescale_betas_zero_snr", False)),
        )


def betas(config: NoiseConfig) -> Float[np.ndarray, "train_steps"]:
    """Return β_t in float64, shape [train_steps].

    "linear" runs straight from start to end (DDPM, arXiv 2006.11239), "scaled_linear" does so in sqrt β (latent
    diffusion), "squaredcos_cap_v2" follows ᾱ(t) = cos²((t + 0.008) / 1.008 · π / 2) with β ≤ 0.999 (arXiv 2102.09672,
    eq. 17).
    """
    count = config.train_steps
    if config.trained_betas is not None:
        return np.asarray(config.trained_betas, np.float64)
    if config.beta_schedule == "linear":
        return np.linspace(config.beta_start, config.beta_end, count, dtype=np.float64)
    if config.beta_schedule == "scaled_linear":
        return np.asarray(np.linspace(config.beta_start**0.5, config.beta_end**0.5, count, dtype=np.float64) ** 2)
    alpha_bar = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.asarray(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999))


def alphas_cumprod(config: Settings | NoiseConfig) -> Float[np.ndarray, "train_steps"]:
    """Return ᾱ_t in float64, shape [train_steps], from a `scheduler_config.json` dictionary or a `NoiseConfig`."""
    noise = config if isinstance(config, NoiseConfig) else NoiseConfig.from_dict(config)
    alpha_bar = np.cumprod(1.0 - betas(noise))
    if not noise.zero_snr:
        return alpha_bar
    root = np.sqrt(alpha_bar)
    return np.asarray(((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2)


def sigma_ratios(config: NoiseConfig) -> Float[np.ndarray, "train_steps"]:
    """Return σ_t / α_t in float64, the noise level of Karras et al. (arXiv 2206.00364), increasing, [train_steps]."""
    alpha_bar = alphas_cumprod(config)
    if config.zero_snr:
        alpha_bar = np.append(alpha_bar[:-1], TINY_ALPHA_BAR)
    return np.asarray(np.sqrt((1.0 - alpha_bar) / alpha_bar))


def karras(low: float, high: float, steps: int, rho: float = 7.0) -> Levels:
    """Return noise levels from `high` to `low`, evenly spaced in level^(1/ρ) (eq. 5 of arXiv 2206.00364)."""
    return np.asarray(np.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho)


def timestep_of(ratio: Levels, ratios: Float[np.ndarray, "train_steps"]) -> Levels:
    """Return the fractional timestep whose log noise level is that of `ratio`, clipped to the trained range."""
    timesteps: np.ndarray = np.interp(np.log(np.maximum(ratio, 1e-10)), np.log(ratios), np.arange(len(ratios)))
    return timesteps


def _signal_and_noise(t: Int[Array, "batch"], alpha_bars: AlphaBars, like: Array) -> tuple[Array, Array]:
    """Return α_t and σ_t for timesteps `t` [batch], shaped to multiply `like` [batch, ...], in its dtype."""
    if isinstance(alpha_bars, np.ndarray):  # float64 on the host keeps 1 - ᾱ exact near the clean end
        alpha, sigma = np.sqrt(alpha_bars), np.sqrt(1.0 - alpha_bars)
        alphas, sigmas = jnp.asarray(alpha, jnp.float32), jnp.asarray(sigma, jnp.float32)
    else:
        alphas, sigmas = jnp.sqrt(alpha_bars), jnp.sqrt(1.0 - alpha_bars)
    shape = (-1,) + (1,) * (like.ndim - 1)
    return alphas[t].reshape(shape).astype(like.dtype), sigmas[t].reshape(shape).astype(like.dtype)


def add_noise(latents: Batch, noise: Batch, t: Int[Array, "batch"], alphas_cumprod: AlphaBars) -> Batch:
    """Return x_t = α_t x_0 + σ_t ε (eq. 4 of arXiv 2006.11239), with ᾱ [train_steps] in `alphas_cumprod`."""
    alpha, sigma = _signal_and_noise(t, alphas_cumprod, latents)
    return alpha * latents + sigma * noise


def target(
    prediction_type: str, latents: Batch, noise: Batch, t: Int[Array, "batch"], alphas_cumprod: AlphaBars
) -> Batch:
    """Return what the network should predict at `t`: ε, or v = α_t ε - σ_t x_0 (arXiv 2202.00512, appendix D)."""
    one_of({"prediction_type": prediction_type}, "prediction_type", "", PREDICTION_TYPES)
    if prediction_type == "epsilon":
        return noise
    alpha, sigma = _signal_and_noise(t, alphas_cumprod, latents)
    return alpha * noise - sigma * latents
