"""Published `config.json` files -> our configs, by an allow-list of keys; and back.

Three kinds of keys are known: the fields of our config; keys whose value must be the one that Stable Diffusion
uses, since another would change the network; keys that change nothing at inference. Any other key is rejected unless
it is off (null or false), so no published option is silently dropped.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Never, TypeVar

from ine_jax.errors import InputError
from ine_jax.models import clip, unet, vae, vit
from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.clip_vision import ClipConfig, ClipVisionConfig
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig
from ine_jax.models.vit import VitConfig

C = TypeVar("C", ClipTextConfig, ClipVisionConfig, UNetConfig, VaeConfig, VitConfig)
_LIMIT = 1 << 20  # no width, vocabulary or depth of a text-to-image model comes near
_DEPTH_LIMIT = 128
_DEPTHS = ("layers_per_block", "num_hidden_layers")
_ZERO_OK = ("freq_shift", "eos_token_id")
_INT_OR_LIST = ("attention_head_dim", "num_attention_heads")

# Keys that the configs' own `from_dict` checks for their value.
_CHECKED: dict[type, Collection[str]] = {
    UNetConfig: unet.OPTIONS.keys(),
    VaeConfig: {*vae.OPTIONS, "down_block_types", "up_block_types"},
    ClipTextConfig: clip.OPTIONS.keys(),
    ClipVisionConfig: clip.OPTIONS.keys(),
    VitConfig: vit.OPTIONS.keys(),
}
# Options with the one value that leaves the network as it is.
_FIXED: dict[type, dict[str, object]] = {
    UNetConfig: {"resnet_out_scale_factor": 1.0, "attention_type": "default"},
    VaeConfig: {},
    ClipTextConfig: {"model_type": ("clip_text_model", "clip")},
    ClipVisionConfig: {"model_type": ("clip_vision_model", "clip"), "num_channels": 3},
    VitConfig: {"model_type": "vit", "num_channels": 3},
}
# Keys without effect on the values computed here: notes, training settings, options of parts that are off.
_TRANSFORMERS = {  # of any model of transformers; its older releases also wrote down the defaults of text generation
    *("architectures", "dtype", "initializer_factor", "initializer_range", "torch_dtype", "transformers_version"),
    *("chunk_size_feed_forward", "diversity_penalty", "encoder_no_repeat_ngram_size", "id2label", "label2id"),
    *("length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams"),
    *("num_return_sequences", "pruned_heads", "repetition_penalty", "return_dict", "temperature", "top_k", "top_p"),
    *("tie_word_embeddings", "typical_p"),
}
_HARMLESS: dict[type, Collection[str]] = {
    UNetConfig: {"dropout", "upcast_attention", "addition_embed_type_num_heads"},
    VaeConfig: {"force_upcast"},
    ClipTextConfig: {
        *_TRANSFORMERS,
        *("attention_dropout", "bos_token_id", "dropout", "pad_token_id", "projection_dim"),
    },
    ClipVisionConfig: {*_TRANSFORMERS, "attention_dropout", "dropout", "projection_dim"},
    VitConfig: {
        *_TRANSFORMERS,
        *("attention_probs_dropout_prob", "hidden_dropout_prob", "encoder_stride", "pooler_act", "pooler_output_size"),
    },
}
_SD = "Stable Diffusion 1.x and 2.x"
_FAMILY: dict[type, str] = {ClipVisionConfig: "CLIP", VitConfig: "ViTForImageClassification"}
# What transformers means where a CLIPModel's config.json leaves a key out: the base model's text tower.
_BASE_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
_MAX_LABELS = 1 << 15


def parse_config(cls: type[C], values: Mapping[str, object], source: str) -> C:
    """The config dataclass for a published `config.json`; `source` names the file in messages."""
    fields = {f.name: f.default for f in dataclasses.fields(cls) if f.name != "reference"}
    family = _FAMILY.get(cls, _SD)
    for key, value in values.items():
        if key.startswith("_") or key in _HARMLESS[cls]:
            continue
        if key in fields:
            if value is not None:
                _check(source, key, fields[key], value)
        elif key in _CHECKED[cls]:
            continue
        elif key in _FIXED[cls]:
            allowed = _FIXED[cls][key]
            if value not in (allowed if isinstance(allowed, tuple) else (allowed,)):
                raise InputError(f"{source}: {key} is {value!r}", f"{allowed!r}", f"use a checkpoint of {family}")
        elif value is not None and value is not False:
            given = f"{source}: unknown key {key!r} = {value!r}"
            raise InputError(given, f"the keys of {family}", "remove the key")
    return cls.from_dict({k: v for k, v in values.items() if k in fields or k in _CHECKED[cls]})


def parse_clip_config(values: Mapping[str, object], source: str) -> ClipConfig:
    """Both towers of a CLIPModel's `config.json`; missing keys have transformers' defaults."""
    if values.get("model_type", "clip") != "clip":
        raise InputError(f"{source}: model_type is {values['model_type']!r}", "clip", "use a folder of a CLIPModel")

    def tower(name: str) -> dict[str, object]:
        found: dict[str, object] = {}
        for key in (name, f"{name}_dict"):  # older files have both; the latter wins
            part = values.get(key) or {}
            if not isinstance(part, Mapping):
                raise InputError(f"{source}: {name} is not an object", "an object", "take an undamaged copy")
            found |= {inner: value for inner, value in part.items() if value is not None}
        return found

    vision = parse_config(ClipVisionConfig, tower("vision_config"), source)
    text = parse_config(ClipTextConfig, _BASE_TEXT | tower("text_config"), source)
    width = values.get("projection_dim") or ClipConfig.projection_dim
    _check(source, "projection_dim", ClipConfig.projection_dim, width)
    assert isinstance(width, int)  # noqa: S101  checked
    return ClipConfig(text, vision, width)


def parse_vit_config(values: Mapping[str, object], source: str) -> VitConfig:
    """Shape and labels of a ViTForImageClassification's `config.json`."""
    problem = str(values.get("problem_type") or "single_label_classification")
    if problem not in ("single_label_classification", "multi_label_classification"):
        raise InputError(f"{source}: problem_type {problem!r}", "single or multi_label_classification", "take another")
    rest = {key: value for key, value in values.items() if key not in ("problem_type", "labels", "independent")}
    config = parse_config(VitConfig, rest, source)
    named = values.get("id2label") or {str(i): label for i, label in enumerate(config.labels)}
    labels = [named.get(str(i)) for i in range(len(named))] if isinstance(named, dict) else []
    good = all(isinstance(label, str) and 0 < len(label) <= 200 for label in labels)
    if not good or not 0 < len(set(labels)) == len(labels) <= _MAX_LABELS:
        given = f"{source}: id2label does not list labels"
        raise InputError(given, '{"0": "first", ...}, each once', "change id2label")
    return dataclasses.replace(config, labels=tuple(map(str, labels)), independent=problem.startswith("multi"))


def _check(source: str, key: str, default: object, value: object) -> None:
    def fail(allowed: str) -> Never:
        raise InputError(f"{source}: {key} is {value!r}", allowed, "change config.json")

    if key in _INT_OR_LIST and not isinstance(value, list):
        default = 1
    elif key in _INT_OR_LIST:
        default = (1,)
    if isinstance(default, tuple):
        if not isinstance(value, list) or not 1 <= len(value) <= 16:
            fail("a list of 1 to 16 entries")
        for entry in value:
            _check_scalar(key, default[0], entry, fail)
    else:
        _check_scalar(key, default, value, fail)


def _check_scalar(key: str, default: object, value: object, fail: Callable[[str], Never]) -> None:
    if isinstance(default, bool) or isinstance(value, bool):
        if type(default) is not type(value):
            fail(f"a {type(default).__name__}")
    elif isinstance(default, str):
        if not isinstance(value, str):
            fail("a string")
    elif isinstance(default, float) or key == "freq_shift":
        if not isinstance(value, int | float) or not 0 <= value <= _LIMIT:
            fail("a number, zero or more")
    else:
        low, high = (0 if key in _ZERO_OK else 1), (_DEPTH_LIMIT if key in _DEPTHS else _LIMIT)
        if not isinstance(value, int) or not low <= value <= high:
            fail(f"a whole number from {low} to {high}")


def config_json(config: ClipTextConfig | UNetConfig | VaeConfig) -> dict[str, object]:
    """The `config.json` object that diffusers or transformers (PyTorch) reads as the same network."""
    values: dict[str, object] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(config).items()
        if key != "reference" and value is not None
    }
    match config:
        case UNetConfig():
            return {"_class_name": "UNet2DConditionModel", "act_fn": "silu", **values}
        case VaeConfig():
            levels = len(config.block_out_channels)
            down, up = ["DownEncoderBlock2D"] * levels, ["UpDecoderBlock2D"] * levels
            blocks = {"down_block_types": down, "up_block_types": up}
            return {"_class_name": "AutoencoderKL", "act_fn": "silu", **blocks, **values}
        case ClipTextConfig():
            ends = {"bos_token_id": config.vocab_size - 2, "pad_token_id": config.eos_token_id}
            names = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
            return {**names, **ends, "projection_dim": config.hidden_size, **values}
