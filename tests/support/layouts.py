"""Small checkpoints of every published layout: file names, keys and nesting as published, tensors of a tiny model.

Each maker writes its files below a folder and returns the path that a user would give, with what the same model is as
plain weights (component → PyTorch-named tensors that differ from the base's).
"""

import json
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
import safetensors.numpy

from ine_jax.embeddings.torch_writer import torch_bytes
from ine_jax.models.checkpoints import compvis, names
from ine_jax.models.checkpoints.names import ModelConfig
from ine_jax.models.checkpoints.recognize import STEMS

State = dict[str, np.ndarray]
Twin = dict[str, State]
KEY_VALUE = ("attn2.to_k.weight", "attn2.to_v.weight")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class Base:
    """A base model: its folder, configs and PyTorch-named weights by component."""

    folder: Path
    configs: Mapping[str, ModelConfig]
    states: Mapping[str, State]


def noise(key: str, *shape: int) -> np.ndarray:
    """Numbers that depend on the key alone."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return (0.1 * rng.standard_normal(shape)).astype(np.float32)


def edited(state: State, keys: Iterable[str]) -> State:
    """New values for some tensors."""
    return {key: state[key] + noise(key, *state[key].shape) for key in keys}


def ending(state: State, *ends: str) -> list[str]:
    """Names that end in one of these."""
    return [key for key in state if key.endswith(ends)]


def write_torch(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(torch_bytes(value))
    return path


def write_safe(path: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(state, path, {"format": "pt", **(metadata or {})})
    return path


def esd_full(base: Base, out: Path) -> tuple[Path, Twin]:
    new = edited(base.states["unet"], [key for key in base.states["unet"] if "attn2" not in key])
    return write_torch(out / "diffusers-nudity-ESDu1-UNET.pt", {**base.states["unet"], **new}), {"unet": new}


def esd_wrapped(base: Base, out: Path) -> tuple[Path, Twin]:
    new = edited(base.states["unet"], [key for key in base.states["unet"] if "attn2" in key])
    return write_torch(out / "esd.pt", {"unet": {**base.states["unet"], **new}}), {"unet": new}


def esd_partial(base: Base, out: Path) -> tuple[Path, Twin]:
    new = edited(base.states["unet"], [key for key in base.states["unet"] if ".attn2." in key])
    return write_safe(out / "esd-nudity-from-nudity-esdx.safetensors", new), {"unet": new}


def esd_compvis(base: Base, out: Path) -> tuple[Path, Twin]:
    config, state = base.configs["unet"], base.states["unet"]
    new = edited(state, ending(state, *KEY_VALUE))
    renamed = {f"model.diffusion_model.{compvis.original_name(k, config)}": v for k, v in {**state, **new}.items()}
    return write_torch(out / "compvis-nudity-ESDx1-UNET-SD.pt", renamed), {"unet": new}


def uce_partial(base: Base, out: Path) -> tuple[Path, Twin]:
    new = edited(base.states["unet"], ending(base.states["unet"], *KEY_VALUE))
    return write_safe(out / "uce_nudity.safetensors", new), {"unet": new}


def uce_full(base: Base, out: Path) -> tuple[Path, Twin]:
    new = edited(base.states["unet"], ending(base.states["unet"], *KEY_VALUE))
    name = "erased-nudity-towards_uncond-preserve_false-sd_1_4-method_replace.pt"
    return write_torch(out / name, {**base.states["unet"], **new}), {"unet": new}


def rece(base: Base, out: Path) -> tuple[Path, Twin]:
    state = {key: value.astype(np.float16) for key, value in base.states["unet"].items()}
    state |= {k: v.astype(np.float16) for k, v in edited(base.states["unet"], ending(state, *KEY_VALUE)).items()}
    twin = {key: value.astype(np.float32) for key, value in state.items()}
    return write_torch(out / "nudity_ep2.pt", state), {"unet": twin}


def concept_ablation(base: Base, out: Path) -> tuple[Path, Twin]:
    new = edited(base.states["unet"], ending(base.states["unet"], *KEY_VALUE))
    return write_torch(out / "delta.bin", {"unet": new}), {"unet": new}


def factors(state: State, key: str, rank: int, tag: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Down and up factor of one weight, dense or convolution."""
    wide = state[key].shape
    return noise(f"{tag}{key} down", rank, *wide[1:]), noise(f"{tag}{key} up", wide[0], rank, *[1] * (len(wide) - 2))


def merged(state: State, keys: Iterable[str], rank: int, scale: float, tags: Iterable[str] = ("",)) -> State:
    """W + s·Σ up·down in float64, rounded once."""
    new = {}
    for key in keys:
        total = state[key].astype(np.float64)
        for tag in tags:
            down, up = (part.astype(np.float64) for part in factors(state, key, rank, tag))
            total = total + scale * np.einsum("or,r...->o...", up.reshape(len(up), rank), down)
        new[key] = total.astype(np.float32)
    return new


def module(key: str) -> str:
    return key.removesuffix(".weight")


def spm(base: Base, out: Path) -> tuple[Path, Twin]:
    """Rank 1 on every dense and convolution layer of the transformer blocks; alpha 1.0 and kohya names."""
    state = base.states["unet"]
    keys = [key for key in ending(state, ".weight") if ".attentions." in key and state[key].ndim > 1]
    file: State = {}
    for key in keys:
        name = "lora_unet_" + module(key).replace(".", "_")
        file[f"{name}.lora_down.weight"], file[f"{name}.lora_up.weight"] = factors(state, key, 1)
        file[f"{name}.alpha"] = np.array(1.0, np.float32)
    path = write_safe(out / "nudity_last.safetensors", file, {"rank": "1", "alpha": "1.0", "prompts": "nudity"})
    return path, {"unet": merged(state, keys, 1, 1.0)}


def kohya(base: Base, out: Path) -> tuple[Path, Twin]:
    """Rank 4 with alpha 1: UNet and text encoder, half precision."""
    new: Twin = {}
    file: State = {}
    for part, prefix, ends in (
        ("unet", "lora_unet_", ("to_q.weight", "conv1.weight")),
        ("text_encoder", "lora_te_", ("fc1.weight",)),
    ):
        state = base.states[part]
        keys = ending(state, *ends)
        for key in keys:
            name = prefix + module(key).replace(".", "_")
            file[f"{name}.lora_down.weight"], file[f"{name}.lora_up.weight"] = factors(state, key, 4)
            file[f"{name}.alpha"] = np.array(1.0, np.float32)
        new[part] = merged(state, keys, 4, 0.25)
    return write_safe(out / "kohya.safetensors", file), new


def _self_attention(state: State) -> list[str]:
    return [key for key in ending(state, ".weight") if any(key.endswith(f".attn1.{name}.weight") for name in ATTENTION)]


def _duo_file(state: State, ends: tuple[str, str], tag: str = "", prefix: str = "unet.") -> State:
    file: State = {}
    for key in _self_attention(state):
        down, up = factors(state, key, 4, tag)
        file |= {f"{prefix}{module(key)}.{ends[0]}": down, f"{prefix}{module(key)}.{ends[1]}": up}
    return file


_DIFFUSERS = ("lora.down.weight", "lora.up.weight")
_PEFT = ("lora_A.weight", "lora_B.weight")


def _one(base: Base) -> Twin:
    state = base.states["unet"]
    return {"unet": merged(state, _self_attention(state), 4, 1.0)}


def duo_single(base: Base, out: Path) -> tuple[Path, Twin]:
    folder, state = out / "500" / "Nudity", base.states["unet"]
    write_safe(folder / "pytorch_lora_weights.safetensors", _duo_file(state, _DIFFUSERS))
    write_safe(folder / "checkpoint-500" / "pytorch_lora_weights.safetensors", _duo_file(state, _DIFFUSERS, "earlier"))
    return folder, _one(base)


def duo_peft(base: Base, out: Path) -> tuple[Path, Twin]:
    return write_safe(out / "pytorch_lora_weights.safetensors", _duo_file(base.states["unet"], _PEFT)), _one(base)


def duo_metadata(base: Base, out: Path) -> tuple[Path, Twin]:
    """Later diffusers keep peft's alpha in the header."""
    state = base.states["unet"]
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 2})}
    path = write_safe(out / "pytorch_lora_weights.safetensors", _duo_file(state, _PEFT), header)
    return path, {"unet": merged(state, _self_attention(state), 4, 0.5)}


def duo_processors(base: Base, out: Path) -> tuple[Path, Twin]:
    """Names of diffusers before 0.17, in a pickle."""
    state, file = base.states["unet"], {}
    for key in _self_attention(state):
        attention, _, which = module(key).partition(".attn1.")
        name = f"unet.{attention}.attn1.processor.{which.removesuffix('.0')}_lora"
        file[f"{name}.down.weight"], file[f"{name}.up.weight"] = factors(state, key, 4)
    return write_torch(out / "pytorch_lora_weights.bin", file), _one(base)


_SUBCONCEPTS = ("Blood", "Gun", "Horror", "Suffer")


def duo_fourfold(base: Base, out: Path) -> tuple[Path, Twin]:
    state = base.states["unet"]
    for name in _SUBCONCEPTS:
        folder = out / "1000" / name / "checkpoint-500"
        write_safe(folder / "pytorch_lora_weights.safetensors", _duo_file(state, _DIFFUSERS, name))
    return out / "1000", {"unet": merged(state, _self_attention(state), 4, 1.0, _SUBCONCEPTS)}


def duo_released(base: Base, out: Path) -> tuple[Path, Twin]:
    state, tags = base.states["unet"], [name.lower() for name in _SUBCONCEPTS]
    for name in tags:
        write_safe(out / "violence" / f"{name}.safetensors", _duo_file(state, _DIFFUSERS, name))
    return out / "violence", {"unet": merged(state, _self_attention(state), 4, 1.0, tags)}


def peft_adapter(base: Base, out: Path) -> tuple[Path, Twin]:
    """peft's own folder: alpha 8 at rank 4, another alpha for one module."""
    state = base.states["unet"]
    write_safe(out / "adapter" / "adapter_model.safetensors", _duo_file(state, _PEFT, prefix="base_model.model."))
    options = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 2}, "use_rslora": False}
    (out / "adapter" / "adapter_config.json").write_text(json.dumps(options))
    keys = _self_attention(state)
    queries = [key for key in keys if "attn1.to_q" in key]
    rest = [key for key in keys if key not in queries]
    return out / "adapter", {"unet": {**merged(state, rest, 4, 2.0), **merged(state, queries, 4, 0.5)}}


def _copy_config(base: Base, part: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(base.folder / part / "config.json", folder / "config.json")


def mace(base: Base, out: Path) -> tuple[Path, Twin]:
    folder = shutil.copytree(base.folder, out / "LoRA_fusion_model")
    new = edited(base.states["unet"], ending(base.states["unet"], *KEY_VALUE))
    write_safe(folder / "unet" / f"{STEMS['unet']}.safetensors", {**base.states["unet"], **new})
    return folder, {"unet": new}


def advunlearn(base: Base, out: Path) -> tuple[Path, Twin]:
    new = edited(base.states["text_encoder"], ending(base.states["text_encoder"], "fc1.weight", "q_proj.bias"))
    folder = out / "nudity_unlearned"
    _copy_config(base, "text_encoder", folder)
    write_safe(folder / "model.safetensors", {**base.states["text_encoder"], **new})
    return folder, {"text_encoder": new}


def advunlearn_saved(base: Base, out: Path) -> tuple[Path, Twin]:
    """As its training script saves the encoder: wrapped, and again under the wrapper's own modules."""
    new = edited(base.states["text_encoder"], ending(base.states["text_encoder"], "fc1.weight"))
    whole = {**base.states["text_encoder"], **new}
    state = {f"text_encoder.{key}": value for key, value in whole.items()}
    for key, value in whole.items():
        own = key.removeprefix("text_model.")
        state[own.replace("embeddings.", "embedding.", 1) if own.startswith("embeddings.") else own] = value
    return write_torch(out / "TextEncoder-epoch_last.pt", state), {"text_encoder": new}


def advunlearn_bin(base: Base, out: Path) -> tuple[Path, Twin]:
    new = edited(base.states["text_encoder"], ending(base.states["text_encoder"], "fc2.weight"))
    folder = out / "nudity_unlearned"
    _copy_config(base, "text_encoder", folder)
    state = {**base.states["text_encoder"], **new, "text_model.embeddings.position_ids": np.arange(24)[None]}
    write_torch(folder / "pytorch_model.bin", state)
    return folder, {"text_encoder": new}


def compvis_state(base: Base, new: Twin) -> State:
    """All parts under the names of the original release, with the constants and averages that its files hold."""
    prefixes = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
    file: State = {"betas": np.ones(10, np.float32), "sqrt_one_minus_alphas_cumprod": np.ones(10, np.float32)}
    file |= {"model_ema.decay": np.array(0.5, np.float32), "model_ema.num_updates": np.array(7)}
    for part, prefix in prefixes.items():
        for key, value in {**base.states[part], **new.get(part, {})}.items():
            name = compvis.original_name(key, base.configs[part])
            attention = part == "vae" and ".attn_1." in name and value.ndim == 2
            file[prefix + name] = value[:, :, None, None] if attention else value
    for key, value in {**base.states["text_encoder"], **new.get("text_encoder", {})}.items():
        file[f"cond_stage_model.transformer.{key}"] = value
    file["cond_stage_model.transformer.text_model.embeddings.position_ids"] = np.arange(24)[None]
    file["model_ema.diffusion_modelinput_blocks00weight"] = file["model.diffusion_model.input_blocks.0.0.weight"]
    return file


def _changed_everywhere(base: Base) -> Twin:
    return {part: edited(state, ending(state, ".bias", ".weight")) for part, state in base.states.items()}


def compvis_ckpt(base: Base, out: Path) -> tuple[Path, Twin]:
    new = _changed_everywhere(base)
    value = {"state_dict": compvis_state(base, new), "global_step": 7, "optimizer_states": [{"lr": 1e-5}]}
    return write_torch(out / "salun-nudity.ckpt", value), new


def compvis_safetensors(base: Base, out: Path) -> tuple[Path, Twin]:
    new = _changed_everywhere(base)
    return write_safe(out / "v1-unlearned.safetensors", compvis_state(base, new)), new


def unet_shards(base: Base, out: Path) -> tuple[Path, Twin]:
    new = edited(base.states["unet"], ending(base.states["unet"], ".weight"))
    return _sharded(base, out / "unet", {**base.states["unet"], **new}, ".safetensors", write_safe), {"unet": new}


def unet_bin_shards(base: Base, out: Path) -> tuple[Path, Twin]:
    new = edited(base.states["unet"], ending(base.states["unet"], ".weight"))
    return _sharded(base, out / "unet", {**base.states["unet"], **new}, ".bin", write_torch), {"unet": new}


def _sharded(base: Base, folder: Path, state: State, suffix: str, write: Callable[[Path, State], Path]) -> Path:
    _copy_config(base, "unet", folder)
    keys = sorted(state)
    table: dict[str, Any] = {}
    for number, chosen in enumerate((keys[::2], keys[1::2]), start=1):
        name = f"{STEMS['unet']}-0000{number}-of-00002{suffix}"
        write(folder / name, {key: state[key] for key in chosen})
        table |= dict.fromkeys(chosen, name)
    (folder / f"{STEMS['unet']}{suffix}.index.json").write_text(json.dumps({"weight_map": table}))
    return folder


def flax_unet(base: Base, out: Path) -> tuple[Path, Twin]:
    """A UNet folder of diffusers' Flax era."""
    new = edited(base.states["unet"], ending(base.states["unet"], ".weight"))
    params = names.from_torch("unet", {**base.states["unet"], **new}, base.configs["unet"])
    folder = out / "unet"
    _copy_config(base, "unet", folder)
    (folder / "diffusion_flax_model.msgpack").write_bytes(flax.serialization.to_bytes(params))
    return folder, {"unet": new}


def flax_text(base: Base, out: Path) -> tuple[Path, Twin]:
    """A text encoder file of transformers' Flax era, on its own."""
    new = edited(base.states["text_encoder"], ending(base.states["text_encoder"], "fc1.weight"))
    state = {**base.states["text_encoder"], **new}
    params = names.from_torch("text", state, base.configs["text_encoder"])
    path = out / "flax_model.msgpack"
    path.write_bytes(flax.serialization.to_bytes(params))
    return path, {"text_encoder": new}


LAYOUTS: dict[str, Callable[[Base, Path], tuple[Path, Twin]]] = {
    maker.__name__: maker
    for maker in (
        *(esd_full, esd_wrapped, esd_partial, esd_compvis, uce_partial, uce_full, rece, concept_ablation),
        *(spm, kohya, duo_single, duo_peft, duo_metadata, duo_processors, duo_fourfold, duo_released, peft_adapter),
        *(
            mace,
            advunlearn,
            advunlearn_saved,
            advunlearn_bin,
            compvis_ckpt,
            compvis_safetensors,
            unet_shards,
            unet_bin_shards,
        ),
        *(flax_unet, flax_text),
    )
}
