"""A text-to-image model in memory, and the names of its folder."""

import dataclasses
from pathlib import Path
from typing import Any

from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig
from ine_jax.types import Params

TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
COMPONENTS = {
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@dataclasses.dataclass(frozen=True)
class ModelParts:
    """All parts of a text-to-image model: configs, parameters (Flax trees) and where they came from.

    ``hashes`` maps each file that was read (relative to ``path``) to its SHA-256; those of checkpoints on top stand
    under ``unlearned-<number>/``. ``changes`` says in one line each what those checkpoints changed.
    """

    name: str
    path: Path
    text_config: ClipTextConfig
    text_params: Params
    unet_config: UNetConfig
    unet_params: Params
    vae_config: VaeConfig
    vae_params: Params
    scheduler_config: dict[str, Any]
    tokenizer_dir: Path
    hashes: dict[str, str]
    changes: tuple[str, ...] = ()
