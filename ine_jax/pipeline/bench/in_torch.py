"""A pipeline's networks in PyTorch: diffusers' and transformers' classes with the same weights, device and dtype.

PyTorch has no types that this package is checked with, so its values are `Any` here.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import names
from ine_jax.models.checkpoints.configs import config_json
from ine_jax.pipeline.mesh import platform_of
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.types import AnyArray, HostArray, Params

Sample: TypeAlias = Callable[[Any, Any, Any], Any]  # (noise, prompt, empty prompt) -> latents, all in NCHW


def place(pipe: Pipeline) -> str:
    """Return PyTorch's name of the pipeline's device.

    Raises:
        ImportError: PyTorch is not installed.
        InputError: this PyTorch cannot use the device.
    """
    import torch

    platform = platform_of(pipe.programs.mesh)
    if platform == "cpu":
        return "cpu"
    if platform == "gpu" and torch.cuda.is_available():
        return "cuda"
    raise InputError(f"torch {torch.__version__} without {platform}", "cpu, or gpu with PyTorch for CUDA", "install it")


def tensor(pipe: Pipeline, values: AnyArray, dtype: str = "") -> Any:
    """Return an array as a tensor on the pipeline's device, by default in its dtype."""
    import torch

    name = dtype or pipe.dtype.name
    host = np.array(values, np.int64 if name == "int64" else np.float32)
    return torch.from_numpy(host).to(place(pipe), getattr(torch, name))


def array(values: Any) -> HostArray:
    """Return a tensor as a float32 array, once it is computed."""
    found: HostArray = values.detach().float().cpu().numpy()
    return found


def unet(pipe: Pipeline, compiled: bool = False) -> Any:
    """Return diffusers' UNet with the pipeline's weights."""
    from diffusers import UNet2DConditionModel

    values = config_json(pipe.parts.unet_config)
    return _filled(pipe, lambda: UNet2DConditionModel.from_config(values), pipe.parts.unet_params, compiled)


def autoencoder(pipe: Pipeline, compiled: bool = False) -> Any:
    """Return diffusers' autoencoder with the pipeline's weights."""
    from diffusers import AutoencoderKL

    values = config_json(pipe.parts.vae_config)
    return _filled(pipe, lambda: AutoencoderKL.from_config(values), pipe.parts.vae_params, compiled)


def text_encoder(pipe: Pipeline, dtype: str = "") -> Any:
    """Return transformers' text encoder with the pipeline's weights, by default in its dtype."""
    from transformers import CLIPTextConfig, CLIPTextModel

    network = CLIPTextModel(CLIPTextConfig(**config_json(pipe.parts.text_config)))
    prefix = "" if any(key.startswith("text_model.") for key in network.state_dict()) else "text_model."
    state = names.to_torch(pipe.parts.text_params).items()
    network.load_state_dict({key.removeprefix(prefix): tensor(pipe, value, dtype) for key, value in state}, assign=True)
    return network.to(place(pipe)).eval()


def _filled(pipe: Pipeline, make: Callable[[], Any], params: Params, compiled: bool) -> Any:
    """Make a network without weights of its own, and give it these."""
    import torch

    with torch.device("meta"):
        network = make()
    network.load_state_dict({key: tensor(pipe, value) for key, value in names.to_torch(params).items()}, assign=True)
    network = network.eval().requires_grad_(False)
    return torch.compile(network) if compiled else network


def sampler(pipe: Pipeline, network: Any, steps: int, scale: float) -> Sample:
    """Return classifier-free guidance in diffusers' loop over its DDIM scheduler."""
    import torch
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(pipe.parts.scheduler_config)

    def sample(noise: Any, prompt: Any, empty: Any) -> Any:
        scheduler.set_timesteps(steps)
        context, latents = torch.cat([empty, prompt]), noise.contiguous()
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                uncond, cond = network(torch.cat([latents, latents]), timestep, context).sample.chunk(2)
                latents = scheduler.step(uncond + scale * (cond - uncond), timestep, latents).prev_sample
        return latents

    return sample
