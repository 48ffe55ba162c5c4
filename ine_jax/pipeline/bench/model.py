"""The pipeline of a benchmark: a model's files, or full-size random weights that its devices make."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ine_jax import assets
from ine_jax.config import BenchConfig
from ine_jax.config.methods import Scheduler
from ine_jax.errors import InputError
from ine_jax.models.clip import ClipText, ClipTextConfig
from ine_jax.models.parts import ModelParts
from ine_jax.models.unet import UNet, UNetConfig
from ine_jax.models.vae import Vae, VaeConfig
from ine_jax.pipeline import compile_cache, from_config, tpu
from ine_jax.pipeline.pipeline import Pipeline, assemble
from ine_jax.storage.weight_files import read_json
from ine_jax.types import Params

Shapes: TypeAlias = tuple[ClipTextConfig, UNetConfig, VaeConfig]
# Name -> shapes; the defaults are those of Stable Diffusion 1.x.
RANDOM: Mapping[str, Shapes] = {"random-sd1": (ClipTextConfig(), UNetConfig(), VaeConfig())}


def pipeline(config: BenchConfig, scheduler: Scheduler | None = None) -> Pipeline:
    """Load the model of a benchmark in its dtype on its devices.

    Raises:
        InputError: the device is missing, or a model of random weights with a revision or checkpoints.
    """
    devices = devices_of(config.device)
    dtype = config.dtype or ("float32" if devices[0].platform == "cpu" else "bfloat16")
    sampler = dataclasses.replace(config.sampler, scheduler=scheduler or config.sampler.scheduler)
    if config.model not in RANDOM:
        return from_config.pipeline(config.model, config.revision, sampler, config.unlearned, dtype, devices)
    if config.unlearned or config.revision:
        given = f"{config.model} with {'unlearned' if config.unlearned else 'a revision'}"
        raise InputError(given, "random weights as they are made", "leave it out, or give a model with files")
    compile_cache.enable()
    tpu.enlarge_stacks()
    parts = random_parts(config.model, jnp.dtype(dtype), devices[0])
    return assemble(parts, dtype, devices, scheduler=sampler.scheduler, batch_size=sampler.batch)


def devices_of(platform: str) -> list[jax.Device]:
    """Return this process's devices of a platform; of JAX's first one where it is empty."""
    if not platform:
        return list(jax.local_devices())
    try:
        return list(jax.local_devices(backend=platform))
    except RuntimeError as error:
        known = ", ".join(sorted({"cpu", jax.default_backend()}))
        raise InputError(f"device {platform}: not found", f"here: {known}", "change device") from error


def random_parts(name: str, dtype: DTypeLike, device: jax.Device) -> ModelParts:
    """Return a model of random weights, made on a device; tokenizer and scheduler are those of the bundled family.

    Kernels are normal with variance 1 / inputs, so that values keep their size from layer to layer and fit 16 bits.
    """
    text, unet, vae = RANDOM[name]
    side = unet.sample_size
    latents, context = jnp.zeros((1, side, side, unet.in_channels)), jnp.zeros((1, 1, text.hidden_size))
    ids, image = jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, vae.downscale, vae.downscale, 3))
    with jax.default_device(device):
        params = [
            random_params(ClipText(text), 0, dtype, ids),
            random_params(UNet(unet), 1, dtype, latents, jnp.zeros((1,)), context),
            random_params(Vae(vae), 2, dtype, image),
        ]
    return ModelParts(
        name=name,
        path=Path(name),
        text_config=text,
        text_params=params[0],
        unet_config=unet,
        unet_params=params[1],
        vae_config=vae,
        vae_params=params[2],
        scheduler_config=read_json(assets.folder() / "scheduler" / "scheduler_config.json"),
        tokenizer_dir=assets.folder() / "tokenizer",
        hashes={},
    )


def random_params(network: nn.Module, seed: int, dtype: DTypeLike, *inputs: jax.Array) -> Params:
    """Return random parameters of a network that takes such inputs."""
    with jax.numpy_dtype_promotion("standard"):
        shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))

    def value(name: str, leaf: jax.ShapeDtypeStruct, key: jax.Array) -> jax.Array:
        if name == "scale":
            return jnp.ones(leaf.shape, dtype)
        if name == "bias":
            return jnp.zeros(leaf.shape, dtype)
        inputs = np.prod(leaf.shape[:-1]) if name == "kernel" else 1.0
        return jax.random.normal(key, leaf.shape, dtype) * jnp.asarray(inputs**-0.5, dtype)

    made = [value(path[-1].key, leaf, key) for (path, leaf), key in zip(leaves, keys, strict=True)]
    params: Params = jax.tree.unflatten(structure, made)
    return params
