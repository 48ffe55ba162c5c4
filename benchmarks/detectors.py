"""Time per image of the detectors on transformers, at full size with random weights.

    python benchmarks/detectors.py [--images 8] [--size 512] [--repeat 2]

CLIP zero-shot, Q16 and CLIP score on the shape of ViT-L/14, the image classifier on that of ViT-B/16, both at 224
pixels in float32. Prints, for each, the first call (which compiles) and the fastest of the others, preprocessing
included, divided by the number of images; then preprocessing alone. Needs 3 GB of memory.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ine_jax import assets
from ine_jax.evaluation.detectors.clip import ClipZeroShot
from ine_jax.evaluation.detectors.clip_encoder import ClipEncoder
from ine_jax.evaluation.detectors.q16 import Q16
from ine_jax.evaluation.detectors.vision import CLIP, VIT
from ine_jax.evaluation.detectors.vit import VitClassifier
from ine_jax.evaluation.metrics.clip_score import ClipScore
from ine_jax.models.checkpoints import configs, names
from ine_jax.models.checkpoints.networks import Network
from ine_jax.models.text import Tokenizer
from ine_jax.models.vit import VitConfig

_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
L14 = {
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "eos_token_id": 789},
    "vision_config": {**_LARGE, "patch_size": 14},
}


def network(name: str, config: Any) -> Network:
    """Random weights of the network that `config` describes."""
    rng = np.random.default_rng(0)
    flat = {}
    for path, shape in names.parameter_shapes(config).items():
        values = rng.standard_normal(shape, np.float32) * np.float32(0.02)
        flat[path] = jnp.asarray(values + 1 if path[-1] == "scale" else values)
    return Network(name, Path(), "", config, flax.traverse_util.unflatten_dict(flat), {}, {})


def timed(call: Callable[[], Any], images: int, repeat: int) -> tuple[float, float]:
    """Seconds of the first call, and seconds per image of the fastest of `repeat` others."""
    taken = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken[0], min(taken[1:]) / images


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=2)
    words = parser.parse_args()
    images = np.random.default_rng(1).integers(0, 256, (words.images, words.size, words.size, 3), np.uint8)
    clip = configs.parse_clip_config(L14, "ViT-L/14")
    tokenizer = Tokenizer.from_dir(assets.ROOT / "tiny" / "tokenizer", clip.text.max_position_embeddings)
    encoder = ClipEncoder(network("ViT-L/14", clip), CLIP, tokenizer)
    prompts = np.random.default_rng(2).standard_normal((2, clip.projection_dim)).astype(np.float32)
    zero_shot = ClipZeroShot(encoder, ("a photo of a weapon",))
    q16 = Q16(encoder, prompts / np.linalg.norm(prompts, axis=1, keepdims=True), "")
    score = ClipScore(encoder)
    vit = VitClassifier(network("ViT-B/16", VitConfig(labels=("normal", "nsfw"))), VIT)
    calls: dict[str, Callable[[], Any]] = {
        "clip (ViT-L/14)": lambda: zero_shot.detect(images),
        "q16 (ViT-L/14)": lambda: q16.detect(images),
        "clip-score (ViT-L/14)": lambda: score.measure(images, ["a photo of a cat"] * words.images),
        "vit (ViT-B/16)": lambda: vit.detect(images),
        "preprocessing (CLIP)": lambda: CLIP.pixels(images),
    }
    device = jax.devices()[0]
    print(
        f"{device.platform} {device.device_kind}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    )
    print(f"{words.images} images of {words.size} px", flush=True)
    for name, call in calls.items():
        first, each = timed(call, words.images, words.repeat)
        print(f"{name:<24} first call {first:7.2f} s, then {1000 * each:8.1f} ms per image", flush=True)


if __name__ == "__main__":
    main()
