"""Full key sets of Stable Diffusion 1.x and 2.x, as files of holes: names and shapes of checkpoints, no payload."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ine_jax.models.checkpoints import compvis, configs, names, overlay, recognize, tensors
from ine_jax.models.checkpoints.names import ModelConfig, WeightMismatch
from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig
from tests.support.cases import sample
from tests.support.paths import ROOT
from tests.support.published import CONFIGS
from tests.support.sparse_files import sparse

FAMILIES = ("sd1", "sd2")
CLASSES: dict[str, type] = {"text_encoder": ClipTextConfig, "unet": UNetConfig, "vae": VaeConfig}
PREFIX = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
Shapes = dict[str, tuple[int, ...]]


def configs_of(family: str) -> dict[str, ModelConfig]:
    return {part: configs.parse_config(cls, CONFIGS[family][part], part) for part, cls in CLASSES.items()}


def open_clip(shapes: Shapes, config: ClipTextConfig) -> Shapes:
    """The names of OpenCLIP: one matrix for three projections, one layer more, a projection that nobody reads."""
    found: Shapes = {}
    for name, shape in shapes.items():
        old = compvis.original_name(name, config)
        if "in_proj_" not in old:
            found[old] = shape
        elif "in_proj_q" in old:
            found[old.replace("in_proj_q.", "in_proj_")] = (3 * shape[0], *shape[1:])
    last = config.num_hidden_layers
    extra = {k.replace(".0.", f".{last}."): s for k, s in found.items() if k.startswith("transformer.resblocks.0.")}
    return found | extra | {"text_projection": (config.hidden_size,) * 2, "logit_scale": ()}


def original_shapes(family: str) -> Shapes:
    """Key set of the published one-file checkpoint."""
    found: Shapes = {"betas": (1000,), "alphas_cumprod": (1000,), "model_ema.decay": (), "model_ema.num_updates": ()}
    for part, config in configs_of(family).items():
        shapes = names.torch_shapes(config)
        if part == "text_encoder" and family == "sd2":
            text = open_clip(shapes, config)  # type: ignore[arg-type]
            found |= {f"cond_stage_model.model.{name}": shape for name, shape in text.items()}
            continue
        for name, shape in shapes.items():
            attention = part == "vae" and "attentions" in name and len(shape) == 2
            old = name if part == "text_encoder" else compvis.original_name(name, config)
            found[PREFIX[part] + old] = (*shape, 1, 1) if attention else shape
    return found


def applied(family: str, path: Path) -> dict[str, tuple[tensors.State, tuple[str, ...]]]:
    """Every part of a base of holes with the checkpoint on top; nothing is read."""

    def unread() -> np.ndarray:
        raise AssertionError("a tensor was read")

    found = recognize.recognize_checkpoints(path)
    out = {}
    for part, config in configs_of(family).items():
        base = {k: tensors.Tensor(s, "float16", unread) for k, s in names.torch_shapes(config).items()}
        out[part] = overlay.apply_checkpoints(part, base, config, found)
    return out


@pytest.mark.parametrize("family", sample(FAMILIES, ("sd1",)))
def test_one_file_checkpoint(family: str, tmp_path: Path) -> None:
    shapes = original_shapes(family)
    path = sparse(tmp_path / "model.safetensors", shapes)
    (found,) = recognize.recognize_checkpoints(path)
    assert found.kind == "text encoder + UNet + autoencoder, CompVis names"
    assert recognize.base_family(found) == {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x"}[family]
    for part, (state, lines) in applied(family, path).items():
        wanted = names.torch_shapes(configs_of(family)[part])
        assert lines == (f"model.safetensors: all {len(wanted)} tensors of {part} replaced",)
        assert all(names.same_shape(state[name].shape, shape) for name, shape in wanted.items())
    for lost in ("model.diffusion_model.middle_block.1.proj_in.bias", "first_stage_model.decoder.norm_out.weight"):
        del shapes[lost]
    with pytest.raises(WeightMismatch) as caught:
        applied(family, sparse(tmp_path / "cut.safetensors", shapes))
    assert caught.value.missing == ("mid_block.attentions.0.proj_in.bias",)


@pytest.mark.parametrize("family", sample(FAMILIES, ("sd1",)))
@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_state_dicts_whole_and_in_part(family: str, part: str, tmp_path: Path) -> None:
    shapes = names.torch_shapes(configs_of(family)[part])
    _, (line,) = applied(family, sparse(tmp_path / "whole.safetensors", shapes))[part]
    assert line == f"whole.safetensors: all {len(shapes)} tensors of {part} replaced"
    some = dict(list(shapes.items())[::7])
    _, (line,) = applied(family, sparse(tmp_path / "some.safetensors", some))[part]
    assert line.startswith(f"some.safetensors: {len(some)} of {len(shapes)} tensors of {part} replaced (")


def test_published_counts() -> None:
    """UCE changes 32 matrices, DUO 64, SPM every layer of 16 transformers: 12 each."""
    shapes = names.torch_shapes(configs_of("sd1")["unet"])
    attention = [name for name in shapes if ".attn1.to_" in name and name.endswith("weight")]
    assert sum(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in shapes) == 32
    assert len(attention) == 64
    layers = [name for name in shapes if ".attentions." in name and len(shapes[name]) > 1]
    assert len(layers) == 16 * 12


@pytest.mark.parametrize("family", sample(FAMILIES, ("sd1",)))
@pytest.mark.parametrize("style", ["kohya", "diffusers"])
def test_full_size_low_rank_files(style: str, family: str, tmp_path: Path) -> None:
    shapes = names.torch_shapes(configs_of(family)["unet"])
    chosen = {k: s for k, s in shapes.items() if ".attentions." in k and len(s) > 1}
    file: Shapes = {}
    for name, shape in chosen.items():
        module, ones = name.removesuffix(".weight"), (1,) * (len(shape) - 2)
        kohya = f"lora_unet_{module.replace('.', '_')}"
        down, up = ("lora_down", "lora_up") if style == "kohya" else ("lora.down", "lora.up")
        key = kohya if style == "kohya" else f"unet.{module}"
        file |= {f"{key}.{down}.weight": (1, *shape[1:]), f"{key}.{up}.weight": (shape[0], 1, *ones)}
    path = sparse(tmp_path / "lora.safetensors", file)
    (found,) = recognize.recognize_checkpoints(path)
    assert recognize.base_family(found) == {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x"}[family]
    _, (line,) = applied(family, path)["unet"]
    assert line.startswith("lora.safetensors: LoRA added to 192 tensors of unet (attentions.proj_in x 16, ")


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    path = sparse(tmp_path / "sd2.safetensors", names.torch_shapes(configs_of("sd2")["unet"]))
    with pytest.raises(WeightMismatch) as caught:
        applied("sd1", path)
    assert len(caught.value.misshapen) == 32  # keys and values of 16 cross-attentions
    assert caught.value.misshapen[0].endswith("attn2.to_k.weight (320, 1024) not (320, 768)")


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_original_names_as_diffusers_converts_them(part: str, family: str) -> None:
    """Every tensor holds its own number; diffusers' converter and ours must put each number under the same name."""
    torch = pytest.importorskip("torch")
    single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
    config = configs_of(family)[part]
    mine = {k: s for k, s in original_shapes(family).items() if k.startswith(PREFIX[part].split(".")[0])}
    mine = mine if part != "unet" else {k: s for k, s in mine.items() if k.startswith(PREFIX["unet"])}
    numbers = {}
    for number, (key, shape) in enumerate(mine.items()):
        size = (3, 1)[: len(shape)] if "in_proj" in key else (1,) * len(shape)
        numbers[key] = torch.arange(math.prod(size)).reshape(size) / 4 + number
    if part == "unet":
        theirs = single_file.convert_ldm_unet_checkpoint(dict(numbers), CONFIGS[family]["unet"])
    elif part == "vae":
        theirs = single_file.convert_ldm_vae_checkpoint(dict(numbers), CONFIGS[family]["vae"])
    elif family == "sd1":
        theirs = single_file.convert_ldm_clip_checkpoint(dict(numbers))
    else:
        theirs = single_file.convert_open_clip_checkpoint(None, dict(numbers))
    prefixes = {"text_encoder": "cond_stage_model.model." if family == "sd2" else PREFIX["text_encoder"]}
    state = {
        key.removeprefix(prefixes.get(part, PREFIX[part])): tensors.from_array(value.numpy())
        for key, value in numbers.items()
    }
    ours = {names.canonical_name(config, k): np.asarray(v).ravel() for k, v in compvis.translate(state, config).items()}
    expected = names.torch_shapes(config)
    assert ours.keys() == expected.keys() <= {names.canonical_name(config, key) for key in theirs}
    for key, value in theirs.items():
        if key in expected:
            np.testing.assert_array_equal(ours[key], value.numpy().ravel(), err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_reading_takes_little_more_memory_than_the_files(family: str, tmp_path: Path) -> None:
    """Every format at full size in half precision: the benchmark's exit code says whether a peak reached its limit."""
    script = ROOT / "benchmarks" / "load_memory.py"
    words = ["--family", family, "--dtype", "float16", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(script), *words],
        capture_output=True,
        text=True,
        cwd=script.parents[1],
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
