"""The networks of ``model_recipes`` in PyTorch (diffusers, transformers) and in diffusers' Flax."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.models.checkpoints import configs, names
from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig
from tests.support.model_recipes import images, json_values, text_ids, torch_state, unet_inputs, vae_latents

os.environ.setdefault("DIFFUSERS_VERBOSITY", "critical")  # else one deprecation line per Flax module


def nchw(array: np.ndarray) -> Any:
    """A torch tensor in channels-first order."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def nhwc(tensor: Any) -> np.ndarray:
    """A NumPy array in channels-last order."""
    return np.asarray(tensor).transpose(0, 2, 3, 1)


def torch_module(config: names.ModelConfig) -> Any:
    """diffusers' or transformers' PyTorch module of ``config``, with the library's own default weights."""
    values = json_values(configs.config_json(config))
    match config:
        case UNetConfig():
            from diffusers import UNet2DConditionModel

            return UNet2DConditionModel(**values)
        case VaeConfig():
            from diffusers import AutoencoderKL

            return AutoencoderKL(**values)
        case ClipTextConfig():
            from transformers import CLIPTextConfig, CLIPTextModel

            return CLIPTextModel(CLIPTextConfig(**values))


def load_torch(config: names.ModelConfig, state: Mapping[str, np.ndarray]) -> Any:
    """The PyTorch module with ``state``, without gradients; strict, so that a wrong name fails here."""
    import torch

    module = torch_module(config).eval().requires_grad_(False)
    prefixed = any(name.startswith("text_model.") for name in module.state_dict())
    tensors = {
        name if prefixed else name.removeprefix("text_model."): torch.from_numpy(np.array(value))
        for name, value in state.items()
    }
    module.load_state_dict(tensors, strict=True)
    return module


def torch_unet(config: UNetConfig) -> dict[str, np.ndarray]:
    """``out`` NHWC."""
    import torch

    inputs = unet_inputs(config)
    module = load_torch(config, torch_state(config))
    times, context = (torch.from_numpy(inputs[k]) for k in ("timesteps", "context"))
    return {"out": nhwc(module(nchw(inputs["latents"]), times, context).sample)}


def torch_vae(config: VaeConfig) -> dict[str, np.ndarray]:
    """``mean``, ``logvar`` and ``decoded`` NHWC."""
    module = load_torch(config, torch_state(config))
    posterior = module.encode(nchw(images(config))).latent_dist
    decoded = module.decode(nchw(vae_latents(config))).sample
    return {"mean": nhwc(posterior.mean), "logvar": nhwc(posterior.logvar), "decoded": nhwc(decoded)}


def torch_text(config: ClipTextConfig) -> dict[str, np.ndarray]:
    """``hidden`` and ``pooled``."""
    import torch

    out = load_torch(config, torch_state(config))(torch.from_numpy(text_ids(config)).long())
    return {"hidden": np.asarray(out.last_hidden_state), "pooled": np.asarray(out.pooler_output)}


def flax_unet_module(config: UNetConfig) -> Any:
    """diffusers' ``FlaxUNet2DConditionModel`` of ``config``."""
    from diffusers import FlaxUNet2DConditionModel

    return FlaxUNet2DConditionModel(
        sample_size=config.sample_size,
        down_block_types=config.down_block_types,
        up_block_types=config.up_block_types,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        attention_head_dim=config.attention_head_dim,
        cross_attention_dim=config.cross_attention_dim,
        use_linear_projection=config.use_linear_projection,
    )


def flax_unet(config: UNetConfig) -> dict[str, np.ndarray]:
    """``out`` of diffusers' ``FlaxUNet2DConditionModel``, jitted as ours is, on the parameters that ours uses."""
    module = flax_unet_module(config)
    params = names.from_torch("unet", torch_state(config), config)
    inputs = unet_inputs(config)
    latents = inputs["latents"].transpose(0, 3, 1, 2)
    run = jax.jit(lambda *arguments: module.apply(*arguments).sample)
    return {"out": nhwc(run({"params": params}, latents, jnp.asarray(inputs["timesteps"]), inputs["context"]))}


def flax_vae(config: VaeConfig) -> dict[str, np.ndarray]:
    """``mean``, ``logvar`` and ``decoded`` of diffusers' ``FlaxAutoencoderKL`` on the parameters that ours uses."""
    from diffusers import FlaxAutoencoderKL

    levels = len(config.block_out_channels)
    module = FlaxAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_num_groups,
        sample_size=config.sample_size,
    )
    variables = {"params": names.from_torch("vae", torch_state(config), config)}
    channels_first = images(config).transpose(0, 3, 1, 2)

    def encode(variables: Any, x: Any) -> tuple[Any, Any]:
        posterior = module.apply(variables, x, method=module.encode).latent_dist
        return posterior.mean, posterior.logvar

    mean, logvar = jax.jit(encode)(variables, channels_first)
    # ``decode`` takes either order and guesses by the last axis: channels last is never ambiguous.
    decoded = jax.jit(lambda v, z: module.apply(v, z, method=module.decode).sample)(variables, vae_latents(config))
    return {"mean": np.asarray(mean), "logvar": np.asarray(logvar), "decoded": nhwc(decoded)}
