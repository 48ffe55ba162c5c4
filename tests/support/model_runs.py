"""The networks of `model_recipes` in this package, and how far two outputs are apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.models.checkpoints import names
from ine_jax.models.unet import UNet, UNetConfig
from ine_jax.models.vae import Vae, VaeConfig
from tests.support.model_recipes import (
    images,
    torch_state,
    unet_inputs,
    vae_latents,
)


@functools.cache
def run_unet(config: UNetConfig) -> np.ndarray:
    params, inputs = names.from_torch("unet", torch_state(config), config), unet_inputs(config)
    arrays = (jnp.asarray(inputs[k]) for k in ("latents", "timesteps", "context"))
    return np.asarray(jax.jit(UNet(config).apply)({"params": params}, *arrays))


@functools.cache
def run_vae(config: VaeConfig) -> dict[str, np.ndarray]:
    variables = {"params": names.from_torch("vae", torch_state(config), config)}
    mean, logvar = jax.jit(lambda v, x: Vae(config).apply(v, x, method="encode"))(variables, images(config))
    decoded = jax.jit(lambda v, z: Vae(config).apply(v, z, method="decode"))(variables, vae_latents(config))
    return {"mean": np.asarray(mean), "logvar": np.asarray(logvar), "decoded": np.asarray(decoded)}


def distance(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max())
