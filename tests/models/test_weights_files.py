"""Pipeline folders: single files, shards, variants, dtypes; hostile and damaged ones are refused in three lines."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import configs, names, pipeline_folder
from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.parts import ModelParts
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig
from ine_jax.storage.provenance import file_hash
from tests.support.cases import sample
from tests.support.published import CONFIGS
from tests.support.tiny_pipeline import SCHEDULER

STEM = "diffusion_pytorch_model"
PARTS = ("text_params", "unet_params", "vae_params")


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "model")


def equal(a: ModelParts, b: ModelParts) -> bool:
    pairs = [(names.to_torch(getattr(a, part)), names.to_torch(getattr(b, part))) for part in PARTS]
    return all(x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x) for x, y in pairs)


def shard(folder: Path, component: str, stem: str, tag: str = "", rename: Callable[[str], str] = str) -> None:
    """Split a component's file in two with an index; ``rename`` changes the file names that the index gives."""
    state = safetensors.numpy.load_file(folder / component / f"{stem}.safetensors")
    (folder / component / f"{stem}.safetensors").unlink()
    keys = sorted(state)
    table: dict[str, Any] = {}
    for number, chosen in enumerate((keys[::2], keys[1::2]), start=1):
        name = f"{stem}-0000{number}-of-00002{tag}.safetensors"
        safetensors.numpy.save_file({key: state[key] for key in chosen}, folder / component / name)
        table |= dict.fromkeys(chosen, rename(name))
    index = {"metadata": {"total_size": 1}, "weight_map": table}
    (folder / component / f"{stem}.safetensors.index{tag}.json").write_text(json.dumps(index))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_read(folder: Path) -> None:
    parts = pipeline_folder.read_pipeline(folder)
    assert parts.name == "model" and parts.tokenizer_dir == folder / "tokenizer"
    assert parts.scheduler_config == SCHEDULER
    assert parts.unet_config.cross_attention_dim == parts.text_config.hidden_size
    assert {str(v.dtype) for part in PARTS for v in names.to_torch(getattr(parts, part)).values()} == {"float32"}
    assert f"unet/{STEM}.safetensors" in parts.hashes and "tokenizer/vocab.json" in parts.hashes
    for name, digest in parts.hashes.items():
        assert file_hash(folder / name) == digest


def test_write_then_read_is_the_same(folder: Path, tmp_path: Path) -> None:
    parts = pipeline_folder.read_pipeline(folder)
    out = pipeline_folder.write_pipeline(parts, tmp_path / "again", dtype="float32")
    back = pipeline_folder.read_pipeline(out)
    assert equal(parts, back)
    for field in ("text_config", "unet_config", "vae_config", "scheduler_config"):
        assert getattr(back, field) == getattr(parts, field)
    assert {k: v for k, v in back.hashes.items() if k.startswith("tokenizer/")} == {
        k: v for k, v in parts.hashes.items() if k.startswith("tokenizer/")
    }
    assert pipeline_folder.write_pipeline(back, out, dtype="float32") == out  # over itself, tokenizer included
    assert equal(parts, pipeline_folder.read_pipeline(out))


@pytest.mark.parametrize("dtype", sample(["float16", "bfloat16"], ("bfloat16",)))
def test_half_precision_files(dtype: str, folder: Path, tmp_path: Path) -> None:
    parts = pipeline_folder.read_pipeline(folder)
    out = pipeline_folder.write_pipeline(parts, tmp_path / "half", dtype=dtype)
    stored = pipeline_folder.read_pipeline(out, dtype="stored")
    widened = pipeline_folder.read_pipeline(out)
    exact, kept, wide = (names.to_torch(each.unet_params) for each in (parts, stored, widened))
    for name, value in exact.items():
        assert str(kept[name].dtype) == dtype
        np.testing.assert_array_equal(wide[name], np.asarray(jnp.asarray(value, dtype)).astype(np.float32))
    assert (
        str(names.to_torch(pipeline_folder.read_pipeline(out, dtype=jnp.bfloat16).vae_params).popitem()[1].dtype)
        == "bfloat16"
    )


def test_shards_and_variants(folder: Path) -> None:
    plain = pipeline_folder.read_pipeline(folder)
    shard(folder, "unet", STEM)
    shard(folder, "text_encoder", "model", ".fp16")
    (folder / "vae" / f"{STEM}.safetensors").rename(folder / "vae" / f"{STEM}.fp16.safetensors")
    mixed = pipeline_folder.read_pipeline(folder)
    assert equal(plain, mixed)
    assert f"unet/{STEM}-00002-of-00002.safetensors" in mixed.hashes
    with pytest.raises(InputError, match=r"no diffusion_pytorch_model\.fp16\.safetensors"):
        pipeline_folder.read_pipeline(folder, variant="fp16")  # the UNet has none


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/hostname.safetensors", "a/b.safetensors", "x.bin", "..", "a\0"]
)
def test_index_may_not_leave_the_folder(name: str, folder: Path) -> None:
    shutil.copy(folder / "unet" / f"{STEM}.safetensors", folder / "secret.safetensors")
    shard(folder, "unet", STEM, rename=lambda _: name)
    with pytest.raises(InputError, match="safetensors files beside the index"):
        pipeline_folder.read_pipeline(folder)


@pytest.mark.parametrize("target", ["unet", f"unet/{STEM}.safetensors", "vae/config.json", "tokenizer/vocab.json"])
def test_links_may_not_leave_the_folder(target: str, folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / target, tmp_path / "outside")
    os.symlink(tmp_path / "outside", folder / target)
    with pytest.raises(InputError, match="leads out of the folder"):
        pipeline_folder.read_pipeline(folder)


def test_links_of_the_hub_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, repository / "blobs" / str(number))
        link.symlink_to(os.path.relpath(repository / "blobs" / str(number), link.parent))
    assert equal(pipeline_folder.read_pipeline(snapshot), pipeline_folder.read_pipeline(folder))


def test_index_and_shards_must_agree(folder: Path) -> None:
    shard(folder, "unet", STEM)
    index = folder / "unet" / f"{STEM}.safetensors.index.json"
    table = json.loads(index.read_text())["weight_map"]
    first, second = sorted(set(table.values()))
    edit_json(index, weight_map={**table, "conv_in.weight": second if table["conv_in.weight"] == first else first})
    with pytest.raises(InputError, match=r"the index puts conv_in\.weight"):
        pipeline_folder.read_pipeline(folder)
    edit_json(index, weight_map=table)
    (folder / "unet" / second).unlink()
    with pytest.raises(InputError, match="no such file"):
        pipeline_folder.read_pipeline(folder)
    broken: Any
    for broken in ({}, [], "x", {"a": 1}):
        edit_json(index, weight_map=broken)
        with pytest.raises(InputError, match="no weight_map"):
            pipeline_folder.read_pipeline(folder)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE: list[tuple[str, Callable[[Path], object]]] = [
    (f"unet/{STEM}.safetensors", _truncate),
    (f"unet/{STEM}.safetensors", Path.unlink),
    (f"vae/{STEM}.safetensors", lambda p: p.write_bytes(b"\xff" * 200)),
    ("text_encoder/model.safetensors", lambda p: p.write_bytes(b"")),
    ("model_index.json", Path.unlink),
    ("model_index.json", lambda p: p.write_text("[" * 100_000)),
    ("model_index.json", lambda p: edit_json(p, unet=["evil", "module"])),
    ("model_index.json", lambda p: edit_json(p, text_encoder=None)),
    ("unet/config.json", lambda p: p.write_text("{")),
    ("unet/config.json", lambda p: p.write_bytes(b"\xff\xfe\x00")),
    ("unet/config.json", lambda p: p.write_text("[]")),
    ("unet/config.json", lambda p: p.write_text('{"a": "' + "x" * (9 << 20) + '"}')),
    ("unet/config.json", lambda p: edit_json(p, auto_map={"AutoModel": "code.py"})),
    ("unet/config.json", lambda p: edit_json(p, layers_per_block=10**9)),
    ("unet/config.json", lambda p: edit_json(p, layers_per_block=True)),
    ("unet/config.json", lambda p: edit_json(p, block_out_channels="64")),
    ("unet/config.json", lambda p: edit_json(p, block_out_channels=[30, 30])),
    ("unet/config.json", lambda p: edit_json(p, block_out_channels=[-8, 8])),
    ("unet/config.json", lambda p: edit_json(p, attention_head_dim=[2, 2])),
    ("unet/config.json", lambda p: edit_json(p, norm_eps="1e-5")),
    ("unet/config.json", lambda p: edit_json(p, use_linear_projection="yes")),
    ("unet/config.json", lambda p: edit_json(p, down_block_types=["AttnDownBlock2D", "DownBlock2D"])),
    ("unet/config.json", lambda p: edit_json(p, addition_embed_type="text_time")),
    ("unet/config.json", lambda p: edit_json(p, in_channels=9)),
    ("unet/config.json", lambda p: edit_json(p, cross_attention_dim=99)),
    ("unet/config.json", lambda p: edit_json(p, resnet_out_scale_factor=2.0)),
    ("text_encoder/config.json", lambda p: edit_json(p, hidden_act="relu")),
    ("text_encoder/config.json", lambda p: edit_json(p, num_attention_heads=5)),
    ("text_encoder/config.json", lambda p: edit_json(p, model_type="bert")),
    ("vae/config.json", lambda p: edit_json(p, down_block_types=["AttnDownEncoderBlock2D"])),
    ("vae/config.json", lambda p: edit_json(p, use_quant_conv=False)),
    ("vae/config.json", lambda p: edit_json(p, scaling_factor=float("nan"))),
    ("scheduler/scheduler_config.json", Path.unlink),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE, ids=range(len(DAMAGE)))
def test_damaged_folders_are_input_errors(name: str, damage: Callable[[Path], object], folder: Path) -> None:
    damage(folder / name)
    with pytest.raises(InputError) as caught:
        pipeline_folder.read_pipeline(folder)
    assert 1 <= len(str(caught.value).splitlines()) <= 3


def test_off_options_and_notes_are_passed_over(folder: Path) -> None:
    edit_json(folder / "unet" / "config.json", some_new_option=None, another=False, _note="x", dropout=0.1)
    assert pipeline_folder.read_pipeline(folder).unet_config == UNetConfig.from_dict(
        json.loads((folder / "unet" / "config.json").read_text())
    )


def test_published_configs_travel_both_ways() -> None:
    for family in CONFIGS.values():
        parts: Any = ((UNetConfig, "unet"), (VaeConfig, "vae"), (ClipTextConfig, "text_encoder"))
        for cls, part in parts:
            config = configs.parse_config(cls, family[part], part)
            assert configs.parse_config(cls, configs.config_json(config), part) == config
    assert configs.parse_config(ClipTextConfig, CONFIGS["sd1"]["text_encoder"], "x").eos_token_id == 49407
    assert configs.parse_config(UNetConfig, CONFIGS["sd2"]["unet"], "x").heads(3) == 20


def test_wrong_arguments(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = pipeline_folder.read_pipeline(folder)
    calls: list[Callable[[], object]] = [
        lambda: pipeline_folder.read_pipeline(folder, dtype="int8"),
        lambda: pipeline_folder.read_pipeline(folder, variant="../x"),
        lambda: pipeline_folder.read_pipeline(tmp_path / "absent"),
        lambda: pipeline_folder.read_pipeline("no such folder"),
        lambda: pipeline_folder.read_pipeline("../../etc"),
        lambda: pipeline_folder.read_pipeline("owner/name"),  # the tests have no network
        lambda: pipeline_folder.read_pipeline("owner/name", revision="; rm"),
        lambda: pipeline_folder.write_pipeline(parts, tmp_path / "out", dtype="int8"),
    ]
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for call in calls:
        with pytest.raises(InputError) as caught:
            call()
        assert len(str(caught.value).splitlines()) <= 3
    assert not (tmp_path / "out").exists()


def test_values_beyond_half_precision_are_refused_before_writing(folder: Path, tmp_path: Path) -> None:
    parts = pipeline_folder.read_pipeline(folder)
    params = {**parts.unet_params, "conv_out": {**parts.unet_params["conv_out"], "bias": jnp.full((4,), 1e6)}}
    with pytest.raises(InputError, match=r"conv_out\.bias"):
        pipeline_folder.write_pipeline(
            dataclasses.replace(parts, unet_params=params), tmp_path / "out", dtype="float16"
        )
    assert not (tmp_path / "out").exists()


def test_hub_snapshot_asks_for_safe_files_of_one_variant(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    parts = pipeline_folder.read_pipeline("owner/name", revision="a" * 40)
    assert (parts.name, asked["name"], asked["revision"]) == ("owner/name", "owner/name", "a" * 40)
    assert all(p.endswith((".json", ".txt", ".safetensors")) for p in asked["patterns"])
    assert not any("fp16" in p for p in asked["patterns"])
