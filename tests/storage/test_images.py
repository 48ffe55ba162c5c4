"""A run directory, and the folder of `ine generate`, open with datasets' ImageFolder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.config import GenerateConfig, SamplerConfig
from ine_jax.evaluation import evaluate
from ine_jax.evaluation.metadata import metadata
from ine_jax.pipeline.generation import generate
from ine_jax.storage import runs
from tests.support import fakes


def rows(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "metadata.jsonl").read_text("utf-8").splitlines()]


def test_metadata_lists_every_image_once_all_are_there(tmp_path: Path) -> None:
    for i in range(3):
        assert not (tmp_path / "metadata.jsonl").exists()
        evaluate(fakes.plan(), tmp_path, generate=fakes.generate, hashes=fakes.hashes, shard=(i, 3))
    found = rows(tmp_path)
    assert sorted(row["file_name"] for row in found) == sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.glob("blocks/*/*.png")
    )
    assert {(row["model"], row["guard"], row["negative"], row["role"]) for row in found} == {
        ("fake", "negative", "none", "main"),
        ("fake", "negative", "explicit", "main"),
        ("fake-unlearned", "negative", "none", "control"),
    }
    assert (tmp_path / "metadata.jsonl").read_text() == metadata(runs.open_run(tmp_path))


@pytest.mark.oracle
def test_a_run_opens_as_an_image_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    root = tmp_path / "run"
    fakes.full(root)
    found = datasets.load_dataset("imagefolder", data_dir=str(root), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == 72
    assert {"image", "prompt", "seed", "id", "list", "objects", "model", "guard", "identity"} <= set(found.column_names)
    by_identity = {row["identity"]: row for row in rows(root)}
    assert len(by_identity) == 72
    for item in found:
        row = by_identity[item["identity"]]
        name = row["file_name"].split("/")
        image = runs.open_run(root).image(int(name[1]), name[2])
        np.testing.assert_array_equal(np.asarray(item["image"].convert("RGB")), image)
        assert (item["prompt"], item["seed"], item["objects"]) == (row["prompt"], row["seed"], row["objects"])


@pytest.mark.oracle
def test_generated_images_open_as_an_image_folder(tiny_folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out, prompts = tmp_path / "images", ("a cat", "", 'knife, "quoted"\n')
    generate(GenerateConfig(str(tiny_folder), prompts=prompts, sampler=SamplerConfig(steps=1, batch=3), out=str(out)))
    found = datasets.load_dataset("imagefolder", data_dir=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert [(item["prompt"], item["seed"]) for item in found] == [(row["prompt"], row["seed"]) for row in rows(out)]
    assert found[0]["image"].size == (32, 32)
