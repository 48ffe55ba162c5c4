"""Folders of CLIPModel and ViTForImageClassification: every layout, published shapes, and what is refused."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy

from ine_jax.embeddings.torch_writer import torch_bytes
from ine_jax.errors import InputError
from ine_jax.models.checkpoints import configs, hub, names, networks
from ine_jax.models.checkpoints.names import WeightMismatch
from ine_jax.types import Params
from tests.support.cases import sample
from tests.support.detector_folders import vit_config, write_clip, write_vit
from tests.support.sparse_files import sparse


def tower(width: int, layers: int, heads: int, **options: Any) -> dict[str, Any]:
    size = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return {**size, "num_attention_heads": heads, **options}


# What older releases of transformers wrote beside the shape, as in OpenAI's published files.
DUMP = {
    "_name_or_path": "",
    "add_cross_attention": False,
    "architectures": None,
    "attention_dropout": 0.0,
    "chunk_size_feed_forward": 0,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "dropout": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "is_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "length_penalty": 1.0,
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "pruned_heads": {},
    "repetition_penalty": 1.0,
    "return_dict": True,
    "temperature": 1.0,
    "tie_encoder_decoder": False,
    "tie_word_embeddings": True,
    "tokenizer_class": None,
    "top_k": 50,
    "top_p": 1.0,
    "torch_dtype": None,
    "torchscript": False,
    "transformers_version": "4.16.0.dev0",
    "typical_p": 1.0,
    "use_bfloat16": False,
}
GELU = {"hidden_act": "gelu"}
# Shapes of openai/clip-vit-* and laion/CLIP-ViT-H-14-laion2B-s32B-b79K, and how many parameters each publishes.
CLIPS: dict[str, tuple[dict[str, Any], int]] = {
    "base-patch32": ({"projection_dim": 512}, 151_277_313),
    "base-patch16": ({"vision_config": {"patch_size": 16}}, 149_620_737),
    "large-patch14": (
        {
            "model_type": "clip",
            "projection_dim": 768,
            "logit_scale_init_value": 2.6592,
            "text_config": {**DUMP, **tower(768, 12, 12), "model_type": "clip_text_model", "eos_token_id": 2},
            "text_config_dict": tower(768, 12, 12, projection_dim=768),
            "vision_config": {**DUMP, **tower(1024, 24, 16, patch_size=14), "model_type": "clip_vision_model"},
            "vision_config_dict": tower(1024, 24, 16, patch_size=14, projection_dim=768),
        },
        427_616_513,
    ),
    "H-14": (
        {
            "projection_dim": 1024,
            "text_config": tower(1024, 24, 16, **GELU),
            "vision_config": tower(1280, 32, 16, patch_size=14, **GELU),
        },
        986_109_441,
    ),
}


def without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and shapes are checked as ever; the numbers, zeros of a file of holes, are not kept."""
    monkeypatch.setattr(names, "to_array", lambda what, array, dtype: np.broadcast_to(np.float32(0), array.shape))


@pytest.mark.parametrize("name", sample(CLIPS, ("base-patch32",)))
def test_published_clips_have_as_many_parameters(name: str) -> None:
    values, count = CLIPS[name]
    config = configs.parse_clip_config(values, name)
    assert sum(map(math.prod, names.parameter_shapes(config).values())) == count
    assert config.text.eos_token_id == 49407
    assert (config.text.hidden_act == "gelu") == (name == "H-14")


@pytest.mark.thorough
def test_the_key_set_of_vit_l_14_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, _ = CLIPS["large-patch14"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    shapes = names.torch_shapes(configs.parse_clip_config(values, ""))
    assert len(shapes) == 590
    stored = shapes | {f"{part}_model.embeddings.position_ids": (1, 77) for part in ("text", "vision")}
    sparse(tmp_path / "model.safetensors", stored)
    without_values(monkeypatch)
    monkeypatch.setattr("ine_jax.models.checkpoints.networks.file_hash", lambda path: path.name)
    network = networks.read_clip_network(tmp_path)
    assert {"/".join(path) for path in flax.traverse_util.flatten_dict(dict(network.params))} >= {
        "vision_model/embeddings/class_embedding",
        "vision_model/pre_layrnorm/scale",
        "vision_model/encoder/layers/23/self_attn/q_proj/kernel",
        "text_model/encoder/layers/11/mlp/fc2/bias",
        "visual_projection/kernel",
        "text_projection/kernel",
        "logit_scale",
    }
    assert network.params["vision_model"]["embeddings"]["patch_embedding"]["kernel"].shape == (14, 14, 3, 1024)


def test_the_nsfw_classifier_that_is_published_has_its_shape() -> None:
    values = {
        "model_type": "vit",
        "encoder_stride": 16,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "problem_type": "single_label_classification",
        "id2label": {"0": "normal", "1": "nsfw"},
        "label2id": {"normal": "0", "nsfw": "1"},
        "torch_dtype": "float32",
    }
    config = configs.parse_vit_config(values, "config.json")
    assert config.labels == ("normal", "nsfw")
    assert sum(map(math.prod, names.parameter_shapes(config).values())) == 85_800_194
    torch_names = names.torch_shapes(config)
    assert len(torch_names) == 200
    assert torch_names["vit.encoder.layer.11.attention.attention.query.weight"] == (768, 768)
    assert torch_names["vit.embeddings.position_embeddings"] == (1, 197, 768)


def equal(ours: Params, theirs: Params) -> bool:
    return bool(jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), dict(ours), dict(theirs))))


@pytest.mark.parametrize("layout", ["shards", "bin", "msgpack"])
@pytest.mark.parametrize("kind", ["clip", "vit"])
def test_every_layout_gives_the_same_network(kind: str, layout: str, tmp_path: Path) -> None:
    read: Any = {"clip": networks.read_clip_network, "vit": networks.read_vit_network}[kind]
    {"clip": write_clip, "vit": write_vit}[kind](tmp_path / "one")  # type: ignore[operator]
    want = read(tmp_path / "one")
    shutil.copytree(tmp_path / "one", other := tmp_path / "other")
    state = safetensors.numpy.load_file(other / "model.safetensors")
    (other / "model.safetensors").unlink()
    if layout == "shards":
        halves = [sorted(state)[::2], sorted(state)[1::2]]
        for i, half in enumerate(halves):
            safetensors.numpy.save_file({k: state[k] for k in half}, other / f"model-{i}.safetensors")
        table = {k: f"model-{i}.safetensors" for i, half in enumerate(halves) for k in half}
        (other / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    elif layout == "bin":
        (other / "pytorch_model.bin").write_bytes(torch_bytes(state))
    else:
        plain = jax.tree.map(np.asarray, dict(want.params))
        (other / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(plain))
    found = read(other)
    assert equal(found.params, want.params)
    assert found.config == want.config
    assert found.hashes.keys() ^ want.hashes.keys() >= {"model.safetensors"}
    assert found.name == "other"


def test_a_pinned_commit_is_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--owner--name" / "snapshots" / commit
    write_vit(snapshot)
    asked: list[Any] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, tuple(allow_patterns)))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    cached = {"config.json": str(snapshot / "config.json")}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file, revision: cached.get(file))
    network = networks.read_vit_network("owner/name", commit)
    assert (network.name, network.revision, asked) == ("owner/name", commit, [])
    networks.read_vit_network("owner/name", "main")
    cached.clear()
    networks.read_vit_network("owner/name", commit)
    assert [one[:2] for one in asked] == [("owner/name", "main"), ("owner/name", commit)]
    assert not any(pattern.endswith((".bin", ".h5", ".msgpack", "*")) for pattern in asked[0][2])
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no model"):
        networks.read_vit_network("owner/name", "main")
    assert "pytorch_model*.bin*" in asked[-1][2]
    for wrong in ("no/such/folder", "../up", tmp_path / "none"):
        with pytest.raises(InputError, match="no folder"):
            hub.model_folder(wrong, None)


def rewritten(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "deit"}, "model_type"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"num_channels": 1}, "num_channels"),
        ({"problem_type": "regression"}, "problem_type"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label"),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label"),
        ({"id2label": {"0": "a", "1": 7}}, "id2label"),
        ({"image_size": [32, 32]}, "image_size"),
        ({"use_mask_token": True}, "use_mask_token"),
        ({"num_attention_heads": 5}, "VitConfig"),
    ],
)
def test_other_classifiers_are_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    write_vit(tmp_path)
    rewritten(tmp_path, **changes)
    with pytest.raises(InputError, match=reason):
        networks.read_vit_network(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_vit(tmp_path, vit_config(labels=("a", "b", "c")))
    rewritten(tmp_path, id2label={"0": "a", "1": "b"})
    with pytest.raises(WeightMismatch, match=r"classifier\.(weight|bias)"):
        networks.read_vit_network(tmp_path)
    write_clip(folder := tmp_path / "clip")
    with pytest.raises(InputError, match="model_type"):
        networks.read_vit_network(folder)
    with pytest.raises(InputError, match="model_type"):
        networks.read_clip_network(tmp_path)
    rewritten(folder, text_config=7)
    with pytest.raises(InputError, match="text_config is not an object"):
        networks.read_clip_network(folder)
    rewritten(folder, text_config={}, projection_dim="wide")
    with pytest.raises(InputError, match="projection_dim"):
        networks.read_clip_network(folder)
