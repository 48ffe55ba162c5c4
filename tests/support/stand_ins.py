"""Small random files under the names, columns and layouts of what the README section on Stable Diffusion asks for."""

import csv
import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from ine_jax.embeddings.torch_writer import torch_bytes
from ine_jax.evaluation.metrics import lpips
from ine_jax.models.checkpoints import names, pipeline_folder
from tests.support import layouts, tiny_pipeline
from tests.support.detector_folders import write_clip

LENGTH = 77  # tokens, as in Stable Diffusion
SIDE = tiny_pipeline.SIDE
I2P = (
    *("prompt", "categories", "hard", "inappropriate_percentage", "nudity_percentage", "q16_percentage"),
    *("sd_safety_percentage", "prompt_toxicity", "lexica_url", "sd_seed", "sd_guidance_scale"),
    *("sd_image_width", "sd_image_height", "sd_model"),
)
RING_A_BELL = ("prompt", "case_number", "evaluation_seed")
COCO = ("case_number", "source", "prompt", "evaluation_seed", "coco_id")


def write_original(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """A random pipeline that reads 77 tokens and knows the first words of the inversions."""
    patch.setattr(tiny_pipeline, "WORDS", (*tiny_pipeline.WORDS, "nudity", "violence", "person"))
    patch.setattr(tiny_pipeline, "LENGTH", LENGTH)
    made = tiny_pipeline.write_tiny(root / "made")
    folder = root / "models" / "stable-diffusion-v1-4"
    folder.parent.mkdir()
    return made.rename(folder)


def write_duo(root: Path, original: Path) -> None:
    """DUO's LoRAs as its authors released them: one file for nudity, four for violence."""
    parts = pipeline_folder.read_pipeline(original)
    states = {"unet": names.to_torch(parts.unet_params)}
    base = layouts.Base(original, {"unet": parts.unet_config}, states)
    duo = root / "models" / "duo"
    path, _ = layouts.duo_peft(base, duo / "nudity-500")
    stronger = {key: 2 * value for key, value in safetensors.numpy.load_file(path).items()}
    layouts.write_safe(duo / "nudity-250" / "nudity.safetensors", stronger)
    layouts.duo_released(base, duo)
    (duo / "violence").rename(duo / "violence-500")


def write_detectors(root: Path) -> None:
    """A CLIP, the pickle of Q16's two prompts for it, and LPIPS in the two files in which it is published."""
    (root / "data").mkdir(exist_ok=True)
    config = write_clip(root / "models" / "clip-vit-large-patch14")
    draw = np.random.default_rng(0)
    prompts = draw.standard_normal((2, config.projection_dim)).astype(np.float16)
    (root / "data" / "prompts.p").write_bytes(pickle.dumps(prompts, 4))
    folder = root / "models" / "lpips"
    folder.mkdir()
    alexnet, heads = {}, {}
    for name, shape in lpips.shapes().items():
        if name.startswith("features"):
            scale = (2 / max(1, int(np.prod(shape[1:])))) ** 0.5
            alexnet[name] = (scale * draw.standard_normal(shape)).astype(np.float32)
        else:
            heads[name.replace(".weight", ".model.1.weight")] = draw.random(shape).astype(np.float32)
    (folder / "alexnet-owt-7be5be79.pth").write_bytes(torch_bytes(alexnet))
    (folder / "alex.pth").write_bytes(torch_bytes(heads))


def write_prompts(root: Path) -> None:
    """I2P, Ring-A-Bell, COCO and others: a few rows, some that are left out, sizes of the small model."""
    folder = root / "data"
    folder.mkdir(exist_ok=True)
    usual = {
        "sd_image_width": SIDE,
        "sd_image_height": SIDE,
        "sd_model": "1.4",
        "lexica_url": "https://example.invalid",
    }
    i2p: list[dict[str, Any]] = [
        {"prompt": "a red cat", "nudity_percentage": 93.5, "categories": "sexual", "sd_seed": 2868547321},
        {"prompt": "a dog", "nudity_percentage": 50.0, "categories": "violence", "sd_seed": 5},
        {"prompt": "an apple,\nand a cat", "nudity_percentage": 60.0, "categories": "sexual, hate", "sd_seed": 7},
    ]
    scales = (7.0, 7.0, 10.0)
    rest = {"hard": 1, "inappropriate_percentage": 80.0, "q16_percentage": 70.0, "sd_safety_percentage": 0.0}
    rows = [
        {**usual, **rest, "prompt_toxicity": 0.1, "sd_guidance_scale": scale, **row}
        for row, scale in zip(i2p, scales, strict=True)
    ]
    write_csv(folder / "i2p_benchmark.csv", I2P, rows)
    attack = [("knife violence a dog \u00c3\u00a9", 3), ("weapon weapon of cat", 2**32 - 1)]
    ring = [{"prompt": p, "case_number": i, "evaluation_seed": s} for i, (p, s) in enumerate(attack)]
    write_csv(folder / "Violence_eta_5_K_77.csv", RING_A_BELL, ring)
    anchors = {"nudity": ["nudity and a red cat"], "a dog": ["a photo of a dog"]}
    (folder / "anchor_prompts.json").write_text(json.dumps(anchors), "utf-8")
    retained = [{"case_num": 1, "source": "coco_object", "prompt": "a photo of a cat"}]
    write_csv(folder / "coco_object_retain.csv", retained[0], retained)
    captions = ("A photo of a dog.",)
    coco = [
        {"case_number": i, "source": "coco_30k", "prompt": text, "evaluation_seed": 100 + i, "coco_id": 9000 + i}
        for i, text in enumerate(captions)
    ]
    write_csv(folder / "coco_30k.csv", COCO, coco)


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, tuple(columns))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(run: Path) -> list[dict[str, Any]]:
    """Every row of a run directory, block by block."""
    files = sorted((run / "blocks").glob("*/rows.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
