"""Published checkpoints on a base: each layout equals its plain diffusers twin; what does not fit is named."""

import json
import re
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import flax_msgpack, hub, names, overlay, pipeline_folder, recognize, tensors
from ine_jax.models.checkpoints.recognize import STEMS
from tests.support import layouts
from tests.support.base_model import PARTS, base, states  # noqa: F401  fixtures
from tests.support.cases import sample
from tests.support.layouts import LAYOUTS, Base, ending, write_safe, write_torch

FEW = (
    "esd_full",
    "esd_compvis",
    "uce_partial",
    "spm",
    "kohya",
    "duo_released",
    "mace",
    "advunlearn_saved",
    "compvis_ckpt",
    "flax_text",
)


@pytest.mark.parametrize("layout", sample(LAYOUTS, FEW))
def test_every_layout_equals_its_plain_twin(layout: str, base: Base, tmp_path: Path) -> None:
    path, new = LAYOUTS[layout](base, tmp_path / "given" if layout != "flax_text" else tmp_path)
    twin = shutil.copytree(base.folder, tmp_path / "twin")
    for part, changed in new.items():
        write_safe(twin / part / f"{STEMS[part]}.safetensors", {**base.states[part], **changed})
    loaded = pipeline_folder.read_pipeline(base.folder, unlearned=[path])
    ours, plain = states(loaded), states(pipeline_folder.read_pipeline(twin))
    low_rank = bool(recognize.recognize_checkpoints(path)[0].factors)
    for part in PARTS:
        assert ours[part].keys() == plain[part].keys()
        for key, value in plain[part].items():
            if low_rank:  # the twin is a sum in float64
                np.testing.assert_allclose(ours[part][key], value, rtol=0, atol=2e-6, err_msg=key)
            else:
                np.testing.assert_array_equal(ours[part][key], value, err_msg=key)
        differs = {key for key in ours[part] if not np.array_equal(ours[part][key], base.states[part][key])}
        assert differs == {k for k, v in new.get(part, {}).items() if not np.array_equal(v, base.states[part][k])}
    assert loaded.changes and all(any(part in line for line in loaded.changes) for part in new)
    assert any(key.startswith("unlearned-0/") for key in loaded.hashes)
    assert loaded.name == f"pipeline+{path.name}"


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (
            "uce_partial",
            r"uce_nudity.safetensors: 8 of \d+ tensors of unet replaced \(attn2.to_k x 4, attn2.to_v x 4\)",
        ),
        ("uce_full", r"all \d+ tensors of unet replaced$"),
        ("spm", r"nudity_last.safetensors: LoRA added to 48 tensors of unet \(attentions.proj_in x 4.*attn1.to_k x 4"),
    ],
)
def test_what_changed_is_said(layout: str, said: str, base: Base, tmp_path: Path) -> None:
    path, _ = LAYOUTS[layout](base, tmp_path)
    (line,) = pipeline_folder.read_pipeline(base.folder, unlearned=[path]).changes
    assert re.search(said, line), line


def test_several_checkpoints_apply_in_order(base: Base, tmp_path: Path) -> None:
    first, one = layouts.uce_partial(base, tmp_path)
    second, two = layouts.advunlearn(base, tmp_path)
    third, _ = layouts.duo_single(base, tmp_path)
    got = states(pipeline_folder.read_pipeline(base.folder, unlearned=[first, second, third]))
    for part, new in (("unet", one["unet"]), ("text_encoder", two["text_encoder"])):
        for key, value in new.items():
            np.testing.assert_array_equal(got[part][key], value)
    again = states(pipeline_folder.read_pipeline(base.folder, unlearned=[third, first, second]))
    assert all(np.array_equal(got["unet"][key], again["unet"][key]) for key in one["unet"])


@pytest.mark.parametrize("dtype", sample(["float16", "bfloat16", "float32"], ("bfloat16",)))
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_stored_precision(dtype: str, suffix: str, base: Base, tmp_path: Path) -> None:
    keys = ending(base.states["unet"], *layouts.KEY_VALUE)
    new = {key: np.asarray(jnp.asarray(base.states["unet"][key] * 3, dtype)) for key in keys}
    path = tmp_path / f"half.{suffix}"
    write_safe(path, new) if suffix == "safetensors" else write_torch(path, new)
    assert {tensor.dtype for tensor in recognize.recognize_checkpoints(path)[0].tensors()} == {dtype}
    got = states(pipeline_folder.read_pipeline(base.folder, unlearned=[path]))["unet"]
    for key, value in new.items():
        np.testing.assert_array_equal(got[key], value.astype(np.float32))
    half = states(pipeline_folder.read_pipeline(base.folder, dtype="bfloat16", unlearned=[path]))["unet"]
    assert {str(value.dtype) for value in half.values()} == {"bfloat16"}


def test_low_rank_sum_is_rounded_once(base: Base, tmp_path: Path) -> None:
    """Rounding W first and the sum again would lose what LoRA adds: W + ΔW is rounded once, to the parameters' type."""
    path, new = layouts.duo_single(base, tmp_path)
    full = states(pipeline_folder.read_pipeline(base.folder, unlearned=[path]))["unet"]
    half = states(pipeline_folder.read_pipeline(base.folder, dtype="bfloat16", unlearned=[path]))["unet"]
    for key in new["unet"]:
        np.testing.assert_array_equal(half[key], full[key].astype(half[key].dtype))


def test_wrong_keys_are_named(base: Base, tmp_path: Path) -> None:
    key, other = ending(base.states["unet"], *layouts.KEY_VALUE)[:2]
    file = {key: np.ones((2, 2), np.float32), "mid_block.extra.weight": np.ones(3, np.float32)}
    path = write_safe(tmp_path / "wrong.safetensors", file)
    with pytest.raises(names.WeightMismatch) as caught:
        pipeline_folder.read_pipeline(base.folder, unlearned=[path])
    assert caught.value.unexpected == ("mid_block.extra.weight",)
    assert caught.value.misshapen[0].startswith(f"{key} (2, 2) not (")
    whole, _ = layouts.esd_compvis(base, tmp_path)
    state = {k: np.asarray(t) for k, t in tensors.read_weight_file(whole).tensors.items()}
    lost = "model.diffusion_model.out.2.bias"
    del state[lost]
    with pytest.raises(names.WeightMismatch) as caught:
        pipeline_folder.read_pipeline(base.folder, unlearned=[write_safe(tmp_path / "cut.safetensors", state)])
    assert caught.value.missing == ("conv_out.bias",)
    lora = {f"unet.{layouts.module(other)}.lora_A.weight": np.ones((2, 3), np.float32)}
    lora |= {f"unet.{layouts.module(other)}.lora_B.weight": np.ones((4, 2), np.float32)}
    with pytest.raises(names.WeightMismatch) as caught:
        pipeline_folder.read_pipeline(base.folder, unlearned=[write_safe(tmp_path / "lora.safetensors", lora)])
    assert len(caught.value.misshapen) == 1
    elsewhere = {key.replace("attn2", "attn7"): value for key, value in lora.items()}
    with pytest.raises(names.WeightMismatch, match="attn7"):
        pipeline_folder.read_pipeline(base.folder, unlearned=[write_safe(tmp_path / "else.safetensors", elsewhere)])


_EMPTY = np.zeros((4, 4), np.float32)
_PAIR = {"lora_unet_x.lora_down.weight": _EMPTY, "lora_unet_x.lora_up.weight": _EMPTY}


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"down_blocks.0.attentions.0.transformer_blocks.0.attn2.adapter": {"down.weight": _EMPTY}}, "Receler"),
        ({"lora_unet_a.hada_w1_a": _EMPTY}, "LyCORIS"),
        ({**_PAIR, "lora_unet_x.dora_scale": _EMPTY}, "DoRA"),
        ({"control_model.input_blocks.0.0.weight": _EMPTY}, "added network"),
        ({"string_to_param": {"*": _EMPTY}, "name": "x"}, "an embedding"),
        ({"<knife>": _EMPTY}, "an embedding"),
        ({"lora_unet_x.lora_down.weight": _EMPTY}, "lacks its factor 'up'"),
        ({**_PAIR, "lora_unet_x.alpha": np.array(np.inf, np.float32)}, "no finite alpha"),
        ({**_PAIR, "lora_unet_x.extra": _EMPTY}, "unexpected key"),
        ({"layer4.conv1.weight": _EMPTY}, "layer4.conv1.weight"),
        ({"conv_in.weight": _EMPTY, "layer4.conv1.weight": _EMPTY}, "1 unexpected: layer4"),
        ({"epoch": 3}, "holds no tensor"),
    ],
)
def test_what_is_no_weights_is_refused_with_the_reason(file: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        recognize.recognize_checkpoints(write_torch(tmp_path / "eraser_weights.pt", file))
    assert said in str(caught.value).splitlines()[0] and len(str(caught.value).splitlines()) <= 3


def test_folders_that_are_not_one_checkpoint(base: Base, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no checkpoint"):
        recognize.recognize_checkpoints(tmp_path)
    (tmp_path / "receler").mkdir()
    (tmp_path / "receler" / "eraser_config.json").write_text("{}")
    with pytest.raises(InputError, match="Receler"):
        recognize.recognize_checkpoints(tmp_path / "receler")
    layouts.uce_partial(base, tmp_path / "two")
    layouts.esd_partial(base, tmp_path / "two")
    with pytest.raises(InputError, match="holds 2 checkpoints: esd-nudity"):
        recognize.recognize_checkpoints(tmp_path / "two")
    with pytest.raises(InputError, match="no such file"):
        pipeline_folder.read_pipeline(base.folder, unlearned=[tmp_path / "absent.pt"])
    path, _ = layouts.uce_partial(base, tmp_path)
    with pytest.raises(InputError, match="unlearned="):
        pipeline_folder.read_pipeline(path)


def test_a_folder_of_another_network_is_refused(base: Base, tmp_path: Path) -> None:
    path, _ = layouts.flax_unet(base, tmp_path)
    config = path / "config.json"
    config.write_text(config.read_text().replace('"attention_head_dim": 2', '"attention_head_dim": 4'))
    with pytest.raises(InputError, match="attention_head_dim 4, the base 2"):
        pipeline_folder.read_pipeline(base.folder, unlearned=[path])


def test_hub_names(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``owner/name/file@revision``: only that file is asked for; a folder within a repository likewise."""
    import huggingface_hub

    layouts.uce_full(base, tmp_path)
    layouts.advunlearn(base, tmp_path)
    asked: list[tuple] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    file = "erased-nudity-towards_uncond-preserve_false-sd_1_4-method_replace.pt"
    assert hub.checkpoint_path(f"owner/name/{file}@abc123") == tmp_path / file
    assert asked[-1] == ("owner/name", "abc123", [file])
    assert (
        recognize.recognize_checkpoints(hub.checkpoint_path("owner/name/nudity_unlearned"))[0].kind
        == "text encoder folder"
    )
    assert "nudity_unlearned/*.json" in asked[-1][2] and asked[-1][1] is None
    for wrong in ("owner/name/../x.pt", "owner", "a/b/c.pt@", "/owner/name"):
        with pytest.raises(InputError):
            hub.checkpoint_path(wrong)


def test_flax_files_as_flax_writes_them(tmp_path: Path) -> None:
    """Bytes equal flax.serialization's for every length of every head; damaged files are refused."""
    import flax.serialization
    import flax.traverse_util

    rng = np.random.default_rng(0)
    tree = {f"k{i}": {"x": np.ones((2,) * (i % 4), np.float16), "b": np.zeros(i)} for i in range(20)}
    tree |= {"a": {"kernel": rng.standard_normal((300, 70)).astype(np.float32)}, "z" * 40: {"s": np.array(3, np.int32)}}
    flat, path = flax.traverse_util.flatten_dict(tree), tmp_path / "flax_model.msgpack"
    with path.open("wb") as file:
        flax_msgpack.write_msgpack(file, flat)
    data = flax.serialization.to_bytes(tree)
    assert path.read_bytes() == data
    read = dict(flax_msgpack.read_msgpack_leaves(path))
    assert read.keys() == flat.keys()
    for key, value in flat.items():
        np.testing.assert_array_equal(read[key], value)
        assert read[key].dtype == value.dtype
    for cut in (*range(1, 300, 7), len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(InputError):
            list(flax_msgpack.read_msgpack_leaves(path))
    for _ in range(300):
        bad = bytearray(data)
        bad[rng.integers(200)] = rng.integers(256)
        path.write_bytes(bad)
        try:
            list(flax_msgpack.read_msgpack_leaves(path))
        except InputError as error:
            assert len(str(error).splitlines()) <= 3


@pytest.mark.parametrize(
    "options",
    [
        {"lora_alpha": "4"},
        {"lora_alpha": 1e999},
        {"lora_alpha": [4]},
        {"lora_alpha": 4, "alpha_pattern": {"attn1.to_q": {}}},
        {"use_dora": True},
        {"use_rslora": True, "lora_alpha": 4},
    ],
)
def test_options_of_peft_that_cannot_be_meant(options: dict, base: Base, tmp_path: Path) -> None:
    path, _ = layouts.peft_adapter(base, tmp_path)
    (path / "adapter_config.json").write_text(json.dumps(options))
    with pytest.raises(InputError):
        recognize.recognize_checkpoints(path)


def test_damaged_files_are_input_errors(base: Base, tmp_path: Path) -> None:
    """Bytes changed in the headers of every kind of file: read, or refused in three lines; nothing else is raised."""
    small = {key: base.states["unet"][key] for key in ending(base.states["unet"], "conv_in.bias", "conv_out.bias")}
    rank = layouts.factors(base.states["unet"], "conv_in.weight", 2)
    lora = dict(zip(("lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.lora_up.weight"), rank, strict=True))
    lora["lora_unet_conv_in.alpha"] = np.array(1.0, np.float32)
    made = [write_safe(tmp_path / "a.safetensors", small), write_safe(tmp_path / "b.safetensors", lora)]
    made += [write_torch(tmp_path / "a.pt", {"unet": small}), write_torch(tmp_path / "b.pt", lora)]
    rng, refused = np.random.default_rng(0), 0
    for path in made:
        data = path.read_bytes()
        for _ in range(100):
            bad = bytearray(data)
            for _ in range(rng.integers(1, 4)):
                bad[rng.integers(min(len(bad), 700))] = rng.integers(256)
            path.write_bytes(bad[: rng.integers(len(bad))] if rng.random() < 0.2 else bad)
            try:
                for one in recognize.recognize_checkpoints(path):
                    recognize.base_family(one)
                    for part in PARTS:
                        state = {key: tensors.from_array(value) for key, value in base.states[part].items()}
                        for tensor in overlay.apply_checkpoints(part, state, base.configs[part], [one])[0].values():
                            np.asarray(tensor)
            except InputError as error:
                refused += 1
                assert len(str(error).splitlines()) <= 3
    assert refused > 200
