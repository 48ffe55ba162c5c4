"""Small random networks for the model tests: configs of every block kind and deterministic weights.

Weights and inputs come from numpy generators seeded by a name, so that goldens store outputs only: PyTorch (the script
that makes the goldens) and Flax (the tests) rebuild the same weights from the same names.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ine_jax.models.checkpoints.names import torch_shapes
from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig

_SMALL = {"sample_size": 8, "norm_num_groups": 8, "cross_attention_dim": 24}

# Every block type of SD 1.x and 2.x, each family's head layout and projection, and a level order that SD does not have.
UNETS: dict[str, UNetConfig] = {
    "sd1": UNetConfig(block_out_channels=(16, 32, 64, 64), attention_head_dim=8, **_SMALL),  # type: ignore[arg-type]
    "sd2": UNetConfig(
        block_out_channels=(16, 32, 64, 64),
        attention_head_dim=(2, 4, 8, 8),
        use_linear_projection=True,
        **_SMALL,  # type: ignore[arg-type]
    ),
    "shallow": UNetConfig(
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        flip_sin_to_cos=False,
        freq_shift=1,
        **_SMALL,  # type: ignore[arg-type]
    ),
}
# diffusers' Flax classes fix 32 normalisation groups and its PyTorch default is the same.
_FLAX = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "sample_size": 8,
    "cross_attention_dim": 24,
}
FLAX_UNETS: dict[str, UNetConfig] = {
    "sd1": UNetConfig(attention_head_dim=4, **_FLAX),  # type: ignore[arg-type]
    "sd2": UNetConfig(
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        layers_per_block=1,
        **_FLAX,  # type: ignore[arg-type]
    ),
}
VAES: dict[str, VaeConfig] = {
    "sd": VaeConfig(block_out_channels=(16, 32, 32, 32), norm_num_groups=8, sample_size=32),
    "shallow": VaeConfig(block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, latent_channels=3),
}
_TEXT = {"vocab_size": 60, "intermediate_size": 64, "num_hidden_layers": 3, "max_position_embeddings": 12}
TEXTS: dict[str, ClipTextConfig] = {
    "sd1": ClipTextConfig(hidden_size=24, num_attention_heads=3, eos_token_id=59, **_TEXT),  # type: ignore[arg-type]
    "sd2": ClipTextConfig(
        hidden_size=32,
        num_attention_heads=4,
        hidden_act="gelu",
        eos_token_id=59,
        **_TEXT,  # type: ignore[arg-type]
    ),
}


def normal(name: str, *shape: int) -> np.ndarray:
    """Standard normal float32 numbers that depend on ``name`` and ``shape`` only."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return generator.standard_normal(shape).astype(np.float32)


def torch_state(config: Any) -> dict[str, np.ndarray]:
    """PyTorch-named weights of ``config``'s network: scaled matrices, norm weights near 1, small biases."""
    return {name: _weight(name, shape) for name, shape in torch_shapes(config).items()}


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = normal(name, *shape)
    if name.endswith("bias"):
        return 0.1 * values
    if len(shape) == 1:
        return 1 + 0.1 * values
    return values / np.sqrt(np.float32(np.prod(shape[1:])))


def unet_inputs(config: UNetConfig, batch: int = 2, tokens: int = 5) -> dict[str, np.ndarray]:
    """Latents NHWC, timesteps and context."""
    side = config.sample_size
    return {
        "latents": normal("latents", batch, side, side, config.in_channels),
        "timesteps": np.array([981, 7, 500, 0][:batch], np.float32),
        "context": normal("context", batch, tokens, config.cross_attention_dim),
    }


def text_ids(config: ClipTextConfig) -> np.ndarray:
    """Three rows of ids: begin, words, end, then padding with the end token (SD 1.x) or with id 0 (SD 2.x)."""
    length, end = config.max_position_embeddings, config.eos_token_id
    rows = np.full((3, length), end if config.hidden_act == "quick_gelu" else 0, np.int32)
    for row, words in enumerate(([], [5, 17, 3], list(range(20, 18 + length)))):
        rows[row, : len(words) + 2] = [end - 1, *words, end]
    return rows


def images(config: VaeConfig, batch: int = 2) -> np.ndarray:
    """Images NHWC in about [−1, 1]."""
    side = 4 * config.downscale
    return np.tanh(normal("images", batch, side, side, config.in_channels))


def vae_latents(config: VaeConfig, batch: int = 2) -> np.ndarray:
    """Unscaled latents NHWC."""
    return normal("vae latents", batch, 4, 4, config.latent_channels)


def json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Config values as PyTorch's classes take them: without notes, lists as tuples."""
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
        if not key.startswith("_") and key not in ("architectures", "model_type")
    }
