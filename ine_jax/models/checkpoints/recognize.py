"""What a published checkpoint is, found out from its files and names, and its tensors under the names of each part.

A path is a file or a folder. Which part of the model a tensor belongs to follows from the beginning of its name
(`_OWNERS`); LoRA factors are recognized by their endings (`lora.py`); what cannot become weights is rejected
with the reason (`_REJECTED`). `overlay.py` puts a checkpoint on top of a base model.

| layout                                               | methods that publish it                            |
|------------------------------------------------------|----------------------------------------------------|
| folder with `text_encoder/ unet/ vae/`             | MACE; any diffusers pipeline                       |
| component folder with `config.json`                | AdvUnlearn (text encoder), UNet folders            |
| UNet `state_dict`, whole or part, bare or `unet` | ESD, UCE, RECE, SalUn, Concept Ablation            |
| CompVis file (`model.diffusion_model.*`)           | ESD, SalUn, original releases                      |
| LoRA of diffusers, peft or kohya; several are added  | DUO, SPM                                           |
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from ine_jax.errors import InputError, clean
from ine_jax.models.checkpoints import compvis, lora, tensors
from ine_jax.models.checkpoints.names import WeightMismatch
from ine_jax.models.checkpoints.tensors import NotWeights, Source, State, Tensor
from ine_jax.storage import weight_files as files

STEMS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
KNOWN = "UNet, text encoder or autoencoder weights, whole or in part, a CompVis file, a LoRA, a pipeline folder"
_LORA_FILES = tuple(f"{s}.{e}" for s in ("pytorch_lora_weights", "adapter_model") for e in ("safetensors", "bin"))
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".msgpack")
_NUMBERED = re.compile(r"checkpoint-(\d+)")
_WRAPPER = re.compile(r"(?:(?:state_dict|module|_orig_mod)\.)+")
_UNET = r"down_blocks|mid_block|up_blocks|conv_in|conv_out|conv_norm_out|time_embedding"
_UNET_ORIGINAL = r"input_blocks|middle_block|output_blocks|time_embed|out"
_TEXT = r"text_model|embeddings|encoder\.layers|final_layer_norm"
_WRAPPED_TEXT, _ALIAS = "text_encoder.text_model.", re.compile(r"(embedding|encoder|final_layer_norm)\.")
_TEXT_ORIGINAL = r"token_embedding|transformer\.resblocks|ln_final"
# (beginning of a name, which is taken off, the part that it belongs to, whether it is the original release's).
_OWNERS = tuple(
    (re.compile(pattern), part, original)
    for pattern, part, original in (
        (r"unet\.", "unet", False),
        (r"text_encoder\.(?:transformer\.)?", "text_encoder", False),
        (r"vae\.", "vae", False),
        (r"(?:model\.)?diffusion_model\.", "unet", True),
        (r"first_stage_model\.", "vae", True),
        (r"cond_stage_model\.(?:transformer|model)\.", "text_encoder", True),
        (r"transformer\.(?=text_model\.)", "text_encoder", False),
        (rf"(?=(?:{_UNET})\.)", "unet", False),
        (rf"(?=(?:{_UNET_ORIGINAL})\.)", "unet", True),
        (rf"(?=(?:{_TEXT})\.)", "text_encoder", False),
        (rf"(?=(?:{_TEXT_ORIGINAL})\.|positional_embedding$)", "text_encoder", True),
        (r"(?=(?:encoder|decoder|quant_conv|post_quant_conv)\.)", "vae", False),
    )
)
_TEXT_IN = ("attn2_to_k", "attn2_to_v")
_FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "SDXL", 2048: "SDXL"}
_REJECTED = (
    (
        re.compile(r".*\.(adapter|eraser)\.(down|up)\..*"),
        "an eraser adapter (Receler): a nonlinear layer added to the UNet, which weights of the UNet cannot express",
    ),
    (
        re.compile(r".*\b(hada_w|lokr_w|oft_|boft_|lora_mid|ia3_).*"),
        "a LyCORIS change that is no product of two factors",
    ),
    (re.compile(r".*(dora_scale|lora_magnitude_vector).*"), "a DoRA, which also rescales the base's own columns"),
    (re.compile(r"(control_model|controlnet_.*|ip_adapter|image_proj)\..*"), "an added network, not changed weights"),
    (re.compile(r"(string_to_param|string_to_token|emb_params|clip_[lg]|<.*>)(\..*)?"), "an embedding, not a model"),
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One checkpoint's contents; nothing is read but names and shapes.

    `kind` says what it is; `parts` maps `text_encoder`, `unet`, `vae` to tensors under whatever names they
    came; `factors` are those of a LoRA, `times` the multiplier that is in their scales already; `whole` says that
    each part must be complete; `configs` hold the `config.json` beside a part.
    """

    path: Path
    kind: str
    files: tuple[Path, ...]
    parts: Mapping[str, State] = dataclasses.field(default_factory=dict)
    factors: Mapping[tuple[str, str], lora.Factors] = dataclasses.field(default_factory=dict)
    whole: bool = False
    configs: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    times: float = 1.0

    def tensors(self) -> list[Tensor]:
        """Every tensor in it."""
        factors = [part for pair in self.factors.values() for part in (pair.down, pair.up)]
        return [tensor for part in self.parts.values() for tensor in part.values()] + factors


def recognize_checkpoints(path: str | Path) -> tuple[Checkpoint, ...]:
    """The checkpoint at a path; several where a folder holds several LoRAs, which are meant to be added."""
    path = Path(path)
    if not path.is_dir():
        return (_file(path),)
    if (path / "eraser_config.json").is_file():
        raise _rejection(path, _REJECTED[0][1])
    held = [part for part, stem in STEMS.items() if tensors.has_weights(path / part, stem)]
    if held:
        return (_parts_of_folder(path, held),)
    for stem in dict.fromkeys(STEMS.values()):
        if tensors.has_weights(path, stem):
            return (_component(path, stem),)
    return _loose(path)


def base_family(checkpoint: Checkpoint) -> str:
    """Stable Diffusion 1.x, 2.x or XL, by the width of the text that the tensors take in or are made for."""
    widths = {factors.down.shape[1] for (_, name), factors in checkpoint.factors.items() if name.endswith(_TEXT_IN)}
    for state in checkpoint.parts.values():
        for key, tensor in state.items():
            if key.removesuffix(".weight").replace(".", "_").endswith((*_TEXT_IN, "token_embedding")) and tensor.shape:
                widths.add(tensor.shape[-1])
    found = sorted({_FAMILIES[width] for width in widths if width in _FAMILIES})
    return " and ".join(found) or ("unknown width" if widths else "unknown from its tensors")


def summarize_layers(keys: Iterable[str]) -> str:
    """What the tensors are, counted by the last two words of their module: `attn2.to_k x 16, attn2.to_v x 16`."""
    counted: Counter[str] = Counter()
    for key in keys:
        words = [word for word in key.removesuffix(".weight").removesuffix(".bias").split(".") if not word.isdigit()]
        counted[".".join(words[-2:])] += 1
    return ", ".join(f"{name} x {count}" for name, count in sorted(counted.items()))


def _parts_of_folder(folder: Path, held: list[str]) -> Checkpoint:
    sources = {part: tensors.read_component_weights(folder, part, STEMS[part]) for part in held}
    described = [part for part in held if (folder / part / "config.json").is_file()]
    return Checkpoint(
        path=folder,
        kind="pipeline folder" if (folder / "model_index.json").is_file() else f"folder of {', '.join(held)}",
        files=tuple(file for source in sources.values() for file in source.files),
        parts={part: source.tensors for part, source in sources.items()},
        whole=True,
        configs={part: files.read_json(files.inside(folder, f"{part}/config.json")) for part in described},
    )


def _component(folder: Path, stem: str) -> Checkpoint:
    """A folder with one part's weights; with its `config.json` it is that part as a whole."""
    found = _identify(folder, tensors.read_component_weights(folder, ".", stem))
    if not (folder / "config.json").is_file() or len(found.parts) != 1:
        return found
    (part,) = found.parts
    values = files.read_json(files.inside(folder, "config.json"))
    return dataclasses.replace(found, kind=f"{_TITLES[part]} folder", whole=True, configs={part: values})


def _loose(folder: Path) -> tuple[Checkpoint, ...]:
    """A folder of LoRAs, or of one file."""
    for name in _LORA_FILES:
        if (folder / name).is_file():
            return (_file(files.inside(folder, name)),)
    single = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if single:
        found = tuple(_file(files.inside(folder, file.name)) for file in single)
        if len(found) > 1 and not all(one.factors for one in found):
            names = ", ".join(file.name for file in single)
            given = f"{folder} holds {len(single)} checkpoints: {names}"
            raise InputError(given, "one, or LoRAs alone", "name the file")
        return found
    inner = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink())
    steps = {int(match[1]): entry for entry in inner if (match := _NUMBERED.fullmatch(entry.name))}
    chosen = [steps[max(steps)]] if steps else [entry for entry in inner if _has_lora(entry)]
    if not chosen:
        raise InputError(f"{folder} holds no checkpoint", KNOWN, "check the path")
    return tuple(one for entry in chosen for one in _loose(entry))


def _has_lora(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for name in _LORA_FILES for pattern in (name, f"checkpoint-*/{name}"))


def _file(path: Path) -> Checkpoint:
    return _identify(path, tensors.read_weight_file(path))


def _identify(path: Path, source: Source) -> Checkpoint:
    """What the names of the tensors say that they are."""
    state = {_WRAPPER.sub("", key, count=1) if _WRAPPER.match(key) else key: t for key, t in source.tensors.items()}
    for key in state:
        for pattern, reason in _REJECTED:
            if pattern.fullmatch(key):
                raise _rejection(path, f"{reason} ({clean(key, 40)})")
    common = Checkpoint(path, "LoRA", source.files, metadata=source.metadata)
    if any(map(lora.is_lora, state)):
        beside = path.parent / "adapter_config.json"
        peft = beside.is_file() and path.name.startswith("adapter_model")
        options = files.read_json(beside) if peft else {}
        factors = lora.lora_factors(str(path), state, source.metadata, options)
        return dataclasses.replace(common, factors=factors, files=(*source.files, *([beside] if peft else [])))
    if any(key.startswith(_WRAPPED_TEXT) for key in state):
        # AdvUnlearn saves its text encoder twice: wrapped, and as the modules that the wrapper also holds. Its own
        # loader reads the first.
        state = {key: tensor for key, tensor in state.items() if not _ALIAS.match(key)}
    parts: dict[str, dict[str, Tensor]] = {}
    unknown, original = [], False
    for key, tensor in state.items():
        if compvis.ignored(key):
            continue
        owner = next(((m, part, old) for pattern, part, old in _OWNERS if (m := pattern.match(key))), None)
        if owner is None:
            unknown.append(key)
            continue
        match, part, old = owner
        original = original or old
        parts.setdefault(part, {})[key[match.end() :]] = tensor
    if not parts:
        raise NotWeights(f"{path} holds {', '.join(unknown[:2])}", KNOWN, "check that this is the right file")
    if unknown:
        raise WeightMismatch(str(path), [], unknown, [])
    kind = " + ".join(_TITLES[part] for part in STEMS if part in parts) + (", CompVis names" if original else "")
    return dataclasses.replace(common, kind=kind, parts=parts, whole=original)


_TITLES = {"text_encoder": "text encoder", "unet": "UNet", "vae": "autoencoder"}


def _rejection(path: Path, reason: str) -> NotWeights:
    given = f"{clean(str(path), 80)} is {reason}"
    return NotWeights(given, KNOWN, "merge it with its own tool, or take another checkpoint")
