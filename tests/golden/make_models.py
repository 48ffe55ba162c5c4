"""Makes ``models.npz`` and ``published_shapes.json.gz`` from PyTorch and diffusers' Flax.

Run ``python tests/golden/make_models.py``; needs torch, transformers and diffusers 0.39. ``models.npz`` holds outputs
only; weights and inputs are rebuilt from names (``model_recipes``). ``published_shapes.json.gz`` holds name → shape of
every parameter of SD 1.x and 2.x, read from the PyTorch classes on the meta device.
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402

from tests.support import model_oracles  # noqa: E402
from tests.support.model_recipes import FLAX_UNETS, TEXTS, UNETS, VAES, json_values  # noqa: E402
from tests.support.published import CONFIGS  # noqa: E402


def outputs() -> dict[str, np.ndarray]:
    """Every oracle's outputs, keyed ``library/part/recipe/output``."""
    jobs: list[tuple[str, Any, Any]] = [
        ("torch/unet", UNETS, model_oracles.torch_unet),
        ("torch/vae", VAES, model_oracles.torch_vae),
    ]
    jobs += [("torch/text", TEXTS, model_oracles.torch_text), ("flax/unet", FLAX_UNETS, model_oracles.flax_unet)]
    jobs += [("flax/vae", VAES, model_oracles.flax_vae)]
    found: dict[str, np.ndarray] = {}
    for kind, recipes, oracle in jobs:
        for recipe, config in recipes.items():
            found |= {f"{kind}/{recipe}/{key}": value for key, value in oracle(config).items()}
    return found


def published_shapes(family: str) -> dict[str, dict[str, list[int]]]:
    """Part → name → shape in PyTorch, from the library's classes and the published configs."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    def build(part: str) -> Any:
        values = json_values(CONFIGS[family][part])
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig(**values))
        return (UNet2DConditionModel if part == "unet" else AutoencoderKL)(**values)

    shapes = {}
    for part in CONFIGS[family]:
        with torch.device("meta"):
            state = build(part).state_dict()
        # The published files carry the prefix; transformers 5 drops it in memory.
        prefix = "text_model." if part == "text_encoder" and "embeddings.token_embedding.weight" in state else ""
        shapes[part] = {prefix + name: list(value.shape) for name, value in state.items()}
    return shapes


if __name__ == "__main__":
    np.savez_compressed(HERE / "models.npz", **outputs())  # type: ignore[arg-type]
    text = json.dumps({family: published_shapes(family) for family in CONFIGS}, sort_keys=True)
    (HERE / "published_shapes.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
