"""Folders of transformers with random weights: a CLIPModel and a ViTForImageClassification, as small as one likes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.clip_vision import ClipConfig, ClipVisionConfig
from ine_jax.models.vit import VitConfig
from tests.support.model_recipes import normal, torch_state
from tests.support.tiny_pipeline import write_tokenizer

SIDE = 32


def shape(width: int, layers: int, heads: int = 2) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def clip_config(vocabulary: int, act: str = "quick_gelu", depth: tuple[int, int] = (2, 2)) -> ClipConfig:
    """Towers of unequal widths over 32 pixels; `depth` is that of text and vision."""
    text = ClipTextConfig(
        **shape(16, depth[0]),
        hidden_act=act,
        vocab_size=vocabulary,
        max_position_embeddings=24,
        eos_token_id=vocabulary - 1,
    )
    return ClipConfig(text, ClipVisionConfig(**shape(24, depth[1]), hidden_act=act, image_size=SIDE, patch_size=8), 12)


def vit_config(depth: int = 2, **options: Any) -> VitConfig:
    return VitConfig(**shape(24, depth), image_size=SIDE, patch_size=8, **{"labels": ("normal", "nsfw"), **options})


def write_clip(folder: Path, act: str = "quick_gelu", depth: tuple[int, int] = (2, 2)) -> ClipConfig:
    """Write config.json, model.safetensors, preprocessor_config.json and a tokenizer."""
    config = clip_config(write_tokenizer(folder), act, depth)
    state = torch_state(config) | {"logit_scale": np.float32(np.log(20))}
    values = {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": config.projection_dim,
        "text_config": {**dataclasses.asdict(config.text), "model_type": "clip_text_model"},
        "vision_config": {**dataclasses.asdict(config.vision), "model_type": "clip_vision_model"},
    }
    crop = {"crop_size": {"height": SIDE, "width": SIDE}, "size": {"shortest_edge": SIDE}, "resample": 3}
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    _write(folder, values, state, {"do_center_crop": True, **crop, "image_mean": mean, "image_std": std})
    return config


def write_vit(folder: Path, config: VitConfig | None = None, **extra: Any) -> VitConfig:
    """Write config.json, model.safetensors and preprocessor_config.json; `extra` goes into the config."""
    config = config or vit_config()
    values = dataclasses.asdict(config)
    labels, _ = values.pop("labels"), values.pop("independent")
    values |= {"model_type": "vit", "architectures": ["ViTForImageClassification"], **extra}
    values |= {"id2label": {str(i): label for i, label in enumerate(labels)}}
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "size": {"height": SIDE, "width": SIDE}}
    _write(folder, values, torch_state(config), half)
    return config


def _write(folder: Path, config: dict[str, Any], state: dict[str, Any], preprocessor: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    arrays = {name: np.array(value, order="C") for name, value in state.items()}
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", {"format": "pt"})


def random_images(count: int, height: int = 40, width: int = 56) -> np.ndarray:
    """Random images uint8 with some large shapes in them."""
    rough = normal("pictures", count, 4, 4, 3)
    smooth = np.kron(rough, np.ones((1, -(-height // 4), -(-width // 4), 1)))[:, :height, :width]
    noisy = 128 + 50 * smooth + 20 * normal("grain", count, height, width, 3)
    return np.clip(noisy, 0, 255).astype(np.uint8)
