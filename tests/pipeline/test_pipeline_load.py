"""Loading: names, folders, devices, precisions, the private compilation cache, the UNet of diffusers."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax import assets
from ine_jax.errors import InputError
from ine_jax.guidance import Cfg
from ine_jax.models.checkpoints.delta import write_unet_delta
from ine_jax.models.checkpoints.pipeline_folder import read_pipeline
from ine_jax.pipeline import compile_cache as cache
from ine_jax.pipeline.pipeline import Pipeline, assemble, load
from scripts.train_world.manifest import write_manifest
from tests.support.devices import environment
from tests.support.tiny_pipeline import CELLS, UNET
from tests.support.typechecking import unchecked

PROMPTS = ["a photo of a cat", "a dog", "the red knife", "apple and dog"]
STEPS = 3


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4)


def test_wrong_loads_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    for options in ({"unet_impl": "onnx"}, {"scheduler": "heun"}, {"batch_size": 0}):
        with unchecked(), pytest.raises(InputError):
            load(tiny_folder, **options)  # type: ignore[arg-type]
    for name in (tmp_path / "none", "tiny-unlearned-999"):
        with pytest.raises(InputError):
            load(name)


@pytest.mark.thorough
def test_bfloat16_runs_and_stays_near_float32(tiny_folder: Path, pipe: Pipeline) -> None:
    half = load(tiny_folder, dtype=jnp.bfloat16, batch_size=4)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(half.parts.unet_params))
    ours, full = (p(PROMPTS[:4], steps=2, guidance=Cfg(2.0), output="latents").latents for p in (half, pipe))
    assert ours.dtype == np.float32
    assert np.abs(ours - full).mean() < 0.1 * np.abs(full).mean()


def test_attention_is_chosen_for_the_devices_of_the_pipeline(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine with GPUs the pipeline may be given the CPU, which cannot run the GPU's kernel."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    half = load(tiny_folder, dtype=jnp.bfloat16, devices=jax.devices("cpu")[:1], batch_size=5)
    assert half("cat", steps=1, output="latents").latents.shape == (1, CELLS, CELLS, 4)


def test_bundled_names_resolve(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    parts = read_pipeline(tiny_folder)
    changed = dict(parts.unet_params)
    bumped = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 0.5 if "attn2" in str(path) and "to_v" in str(path) else leaf, changed
    )
    (tmp_path / "tiny" / "unlearned").mkdir()
    write_unet_delta(bumped, parts.unet_params, tmp_path / "tiny" / "unlearned" / "3.safetensors", {})
    (tmp_path / "tiny" / "unlearned" / "uce.safetensors").write_bytes(b"")
    write_manifest(tmp_path)
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    assert assets.names() == ["tiny", "tiny-unlearned-3", "tiny-uce"]
    assert assets.resolve("other") is assets.resolve("tiny-esd") is None
    base, unlearned = load("tiny", batch_size=4), load("tiny-unlearned-3", batch_size=4)
    assert (base.name, unlearned.name) == ("tiny", "tiny-unlearned-3")
    assert base.programs is unlearned.programs
    assert "unlearned-0/3.safetensors" in unlearned.parts.hashes
    assert unlearned.model_id != base.model_id
    assert (base("cat", steps=STEPS).arrays != unlearned("cat", steps=STEPS).arrays).any()
    by_hand = base.with_unet(bumped, "changed")
    assert by_hand.model_id not in (base.model_id, unlearned.model_id)
    np.testing.assert_array_equal(by_hand("cat", steps=STEPS).arrays, unlearned("cat", steps=STEPS).arrays)
    with pytest.raises(InputError, match="tiny-unlearned-7"):
        assets.resolve("tiny-unlearned-7")


DEVICES = """
import sys, jax, numpy as np
from ine_jax.pipeline.pipeline import load
pipe = load(sys.argv[1], batch_size=3)
assert pipe.rows() == 4 and jax.device_count() == 4
made = pipe(["a cat", "a dog", "red knife", "apple", "cat"], seeds=[1, 2, 3, 4, 5], steps=3, output="latents").latents
np.save(sys.argv[2], made)
from ine_jax.guidance import Negative, Texts
rows = jax.ShapeDtypeStruct((4, 24, 16), "float32", sharding=pipe.programs.batch_sharding())
texts = Texts(prompt=rows, uncond=rows, negative=rows)
guard = Negative(np.asarray(2.0, np.float32), np.asarray(1.0, np.float32))
tables = pipe.scheduler.tables(3)
for side in (8, 32):  # 1,024 tokens have an attention of their own, which the compiler cannot split
    noise = jax.ShapeDtypeStruct((4, side, side, 4), "float32", sharding=pipe.programs.batch_sharding())
    lowered = pipe.programs.sample.lower(pipe.parts.unet_params, pipe.scheduler, tables, guard, texts, noise)
    text = lowered.compile().as_text()
    for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert word not in text, word
print("free of collectives")
"""


@pytest.mark.thorough
def test_four_devices_make_the_same_latents_without_talking(pipe: Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DEVICES, str(tiny_folder), str(tmp_path / "made.npy")]
    done = subprocess.run(command, capture_output=True, env=environment(4), text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "free of collectives" in done.stdout
    prompts = ["a cat", "a dog", "red knife", "apple", "cat"]
    ours = pipe(prompts, seeds=[1, 2, 3, 4, 5], steps=3, output="latents").latents
    np.testing.assert_allclose(np.load(tmp_path / "made.npy"), ours, atol=1e-3, rtol=1e-3)


def test_the_cache_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.private_folder(tmp_path / "new" / "cache")
    assert (tmp_path / "new" / "cache").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    with pytest.raises(InputError, match="written by others"):
        cache.private_folder(tmp_path / "open")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        cache.private_folder(tmp_path / "file" / "cache")
    for word in ("off", "0", "OFF", ""):
        monkeypatch.setenv(cache.VARIABLE, word)
        assert cache.enable() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.default_folder() == tmp_path / "xdg" / "ine_jax" / "xla"
    before = jax.config.values["jax_compilation_cache_dir"]
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "chosen"))
    try:
        assert cache.enable() == tmp_path / "chosen"
        assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "chosen")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.oracle
def test_diffusers_flax_runs_on_the_same_parameters(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("diffusers.models.unets.unet_2d_condition_flax")
    foreign = load(tiny_folder, batch_size=2, unet_impl="diffusers")
    native = load(tiny_folder, batch_size=2)
    as_flax = dataclasses.replace(native.parts.unet_config, reference="flax")
    flax = assemble(dataclasses.replace(native.parts, unet_config=as_flax), jnp.float32, jax.local_devices())
    options: Any = {"steps": STEPS, "output": "latents", "guidance": Cfg(3.0), "batch_size": 2}
    ours, theirs = (p(PROMPTS[:2], **options).latents for p in (flax, foreign))
    np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=1e-3)
    shutil.copytree(tiny_folder, tmp_path / "other")
    config = tmp_path / "other" / "unet" / "config.json"
    config.write_text(json.dumps(UNET | {"norm_num_groups": 16}))
    with pytest.raises(InputError, match="norm_num_groups 16"):
        load(tmp_path / "other", unet_impl="diffusers")


def test_without_diffusers_the_message_says_what_to_install(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.models.unets.unet_2d_condition_flax", None)
    with pytest.raises(InputError, match=r"ine_jax\[diffusers\]"):
        load(tiny_folder, batch_size=5, dtype=jnp.float16, unet_impl="diffusers")
