"""One content id names a model wherever it is recorded."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ine_jax
from ine_jax import assets
from ine_jax.cli.describe import describe
from ine_jax.config import ModelConfig, NegativeConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.evaluation import evaluate
from ine_jax.evaluation.generating import model_record
from ine_jax.inversion import InversionConfig, invert
from ine_jax.models.checkpoints.model_files import model_id
from ine_jax.pipeline.pipeline import assemble
from tests.support import fakes, tiny_pipeline

DELTA = assets.ROOT / "tiny" / "unlearned" / "0.safetensors"


@pytest.mark.thorough
def test_the_same_in_every_dtype_and_process_and_without_loading() -> None:
    full, half = (ine_jax.load("tiny", dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert full.model_id == half.model_id == model_id("tiny")
    code = "from ine_jax.models.checkpoints.model_files import model_id; print(model_id('tiny'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == full.model_id


def test_contents_count_and_names_do_not(tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(DELTA.read_bytes())
    one, two = DELTA, assets.ROOT / "tiny" / "unlearned" / "1.safetensors"
    assert model_id("tiny-unlearned-0") == model_id("tiny", unlearned=[renamed]) != model_id("tiny")
    assert model_id("tiny", unlearned=[one, two]) != model_id("tiny", unlearned=[two, one])


@pytest.mark.thorough
def test_every_record_holds_the_id_of_the_pipeline(tmp_path: Path) -> None:
    pipe = ine_jax.load("tiny-unlearned-0", batch_size=1)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    config = InversionConfig(concept="weapon", steps=1)
    result = invert(pipe, images, config, tmp_path / "inversion", preview=False)
    assert Embedding.load(result.path).provenance["model_id"] == pipe.model_id
    assert json.loads((tmp_path / "inversion" / "config.json").read_text())["model_id"] == pipe.model_id
    facts: Any = describe(result.path)
    assert facts["provenance"]["model_id"] == pipe.model_id

    def record(label: str) -> dict[str, str]:
        return model_record(ModelConfig(label))

    cell = dataclasses.replace(fakes.plan().cells[0], model="tiny-unlearned-0", negative=NegativeConfig())
    plan = dataclasses.replace(fakes.plan(), cells=(cell,))
    run = evaluate(plan, tmp_path / "run", generate=fakes.generate, hashes=record)
    stored = json.loads((run.root / "run.json").read_text())
    assert stored["hashes"]["models"] == {"tiny-unlearned-0": {"model_id": pipe.model_id}}
    assert describe(run.root)["models"] == {"tiny-unlearned-0": pipe.model_id}
    assert describe(assets.ROOT / "tiny")["model_id"] == model_id("tiny")


@pytest.mark.thorough
def test_a_model_in_memory_has_an_id_of_its_tensors(tmp_path: Path) -> None:
    vocabulary = tiny_pipeline.write_tokenizer(tmp_path / "tokenizer")
    parts = tiny_pipeline.make_parts(tmp_path / "tokenizer", vocabulary)
    pipe = assemble(parts, jnp.float32, jax.local_devices())
    assert pipe.model_id == parts.model_id
    wide = dataclasses.replace(parts, vae_params=jax.tree.map(lambda x: x.astype(np.float64), parts.vae_params))
    assert wide.model_id == parts.model_id
    other = pipe.with_unet(jax.tree.map(lambda x: x * 2, parts.unet_params))
    assert other.model_id != pipe.model_id
