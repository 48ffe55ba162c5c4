"""What may be relied on: an item's noise in any batch and on any devices; a run's bytes in any order of parts."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from ine_jax import evaluation as evaluate
from ine_jax.config import GuidanceConfig, NegativeConfig
from ine_jax.evaluation import Cell, Plan
from ine_jax.pipeline.noise import item_noise
from ine_jax.pipeline.torch_noise import torch_noise
from ine_jax.prompts.items import Item
from ine_jax.storage import runs
from tests.support.devices import printed
from tests.support.tiny_pipeline import CELLS

SEEDS = [0, 7, 7, 2**32 - 1, 1000, 31337, 42, 3, 9]
BATCHES = (1, 3, 8)
DEVICES = (1, 2, 4, 8)
MODES = ("jax", "torch-cpu", "torch-cuda")

# The pipeline with a sampler that hands back what it starts from.
CHILD = """
import dataclasses, hashlib, json, sys
import jax, numpy as np
from ine_jax.pipeline.pipeline import load

folder, counts, seeds, batches, modes = sys.argv[1], *map(json.loads, sys.argv[2:])
found = {}
for count in counts:
    pipe = load(folder, devices=jax.devices()[:count])
    programs = dataclasses.replace(pipe.programs, sample=lambda params, scheduler, tables, guard, texts, noise: noise)
    pipe = dataclasses.replace(pipe, programs=programs)
    assert pipe.programs.mesh.size == count
    for mode in modes:
        for batch in batches:
            options = {"noise": mode, "batch_size": batch, "steps": 1, "output": "latents"}
            noise = pipe(["a cat"] * len(seeds), seeds=seeds, **options).latents
            found[f"{count} {mode} {batch}"] = hashlib.sha256(np.ascontiguousarray(noise).data).hexdigest()
print(json.dumps(found))
"""


def expected(mode: str) -> str:
    shape = (CELLS, CELLS, 4)
    if mode == "jax":
        noise = item_noise(SEEDS, shape)
    else:
        noise = torch_noise("cpu" if mode == "torch-cpu" else "cuda", np.array(SEEDS, np.uint32), shape)
    return hashlib.sha256(np.ascontiguousarray(noise).data).hexdigest()


@pytest.mark.thorough
def test_noise_of_an_item_is_the_same_in_any_batch_on_any_devices(tiny_folder: Path) -> None:
    words = [str(tiny_folder), *map(json.dumps, (DEVICES, SEEDS, BATCHES, MODES))]
    noises = {mode: expected(mode) for mode in MODES}
    wanted = {f"{d} {m} {b}": noises[m] for d in DEVICES for m in MODES for b in BATCHES}
    assert printed(CHILD, max(DEVICES), *words) == wanted


def plan(model: str) -> Plan:
    """Two cells over 7 and 4 items in blocks of 3, drawn by 4."""
    lists = {
        name: tuple(
            Item(f"{name}-{i}", prompt, 100 + i) for i, prompt in enumerate(["a cat", "knife", "", "a dog"] * 2)
        )
        for name in ("attack", "benign")
    }
    counts = (("attack", 7), ("benign", 4))
    words = NegativeConfig(words="knife")
    cells = (Cell(model, counts, GuidanceConfig(3.0)), Cell(model, counts, GuidanceConfig(3.0, 2.0), words))
    return Plan(cells, lists, steps=1, batch=4, block=3)


def tree(root: Path) -> dict[str, bytes]:
    """Every byte of a run but hidden files and clock times."""
    files = [p for p in root.rglob("*") if p.is_file() and p.name[0] != "." and p.name != "timing.jsonl"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.thorough
def test_parts_in_any_order_draw_the_images_of_one_run(tiny_folder: Path, tmp_path: Path) -> None:
    asked = plan(str(tiny_folder))
    evaluate.evaluate(asked, tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    assert len(runs.open_run(tmp_path / "whole").blocks()) == 10
    for i in (2, 0, 1):
        evaluate.evaluate(asked, tmp_path / "parts", shard=(i, 3))
    assert tree(tmp_path / "parts") == whole
    # another cut into blocks, at the same number of rows per call, has other files but the same pictures
    evaluate.evaluate(dataclasses.replace(asked, block=7), tmp_path / "cut")
    cut = tree(tmp_path / "cut")
    assert sorted(whole[name] for name in whole if name.endswith(".png")) == sorted(
        cut[name] for name in cut if name.endswith(".png")
    )
