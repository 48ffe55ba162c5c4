"""The prediction of a model under the plain negative guard, combined in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.guidance import Negative
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import native_unet
from ine_jax.schedulers import alphas_cumprod

GUARD, WORDS = Negative(3.0, 4.0), "a weapon"


def noised(pipe: Pipeline, clean: jax.Array, noise: np.ndarray, t: int) -> np.ndarray:
    """x_t of one image's latents."""
    level = float(alphas_cumprod(pipe.scheduler.noise)[t])
    return np.asarray(np.sqrt(level) * np.asarray(clean) + np.sqrt(1 - level) * noise)


def predictions(pipe: Pipeline, noisy: np.ndarray, t: int, contexts: jax.Array) -> np.ndarray:
    """What the UNet predicts for one x_t under several contexts."""
    rows = jnp.asarray(np.broadcast_to(noisy, (len(contexts), *noisy.shape)), jnp.float32)
    times = jnp.full((len(contexts),), t, jnp.float32)
    unet = native_unet(pipe.parts.unet_config, "float32")
    return np.asarray(unet(pipe.parts.unet_params, rows, times, contexts), np.float64)


def guided(pipe: Pipeline, noisy: np.ndarray, t: int, ids: np.ndarray) -> np.ndarray:
    """The prediction for a prompt of these ids under GUARD against WORDS."""
    prompt = pipe.programs.encode(pipe.parts.text_params, ids[None].astype(np.int32), np.zeros((8, 16), np.float32))
    contexts = jnp.concatenate([pipe.encode([""]), prompt, pipe.encode([WORDS])])
    uncond, own, away = predictions(pipe, noisy, t, contexts)
    return np.asarray(uncond + 3.0 * (own - uncond) - 4.0 * (away - uncond))
