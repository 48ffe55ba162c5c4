"""Pipeline folders of diffusers: reading (local folder or hub id) and writing.

A folder holds ``model_index.json``, ``tokenizer/``, ``text_encoder/``, ``unet/``, ``vae/`` and ``scheduler/``; weights
are safetensors under PyTorch names (``names.py``), or older formats (``tensors.py``). Nothing is executed, and configs
are read by an allow-list (``configs.py``).
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from ine_jax.errors import InputError
from ine_jax.models import checkpoints, configs, files, hub, names, overlay, tensors
from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.delta import apply_unet_delta, read_unet_delta, write_unet_delta
from ine_jax.models.names import WeightMismatch
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig
from ine_jax.types import Params

__all__ = [
    "ModelParts",
    "WeightMismatch",
    "apply_unet_delta",
    "read_pipeline",
    "read_unet_delta",
    "text_from_torch",
    "text_to_torch",
    "unet_from_torch",
    "unet_to_torch",
    "vae_from_torch",
    "vae_to_torch",
    "write_pipeline",
    "write_unet_delta",
]

_TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_COMPONENTS = {
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_DTYPES = ("float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class ModelParts:
    """All parts of a text-to-image model: configs, parameters (Flax trees) and where they came from.

    ``hashes`` maps each file that was read (relative to ``path``) to its SHA-256; those of checkpoints on top stand
    under ``unlearned-<number>/``. ``changes`` says in one line each what those checkpoints changed.
    """

    name: str
    path: Path
    text_config: ClipTextConfig
    text_params: Params
    unet_config: UNetConfig
    unet_params: Params
    vae_config: VaeConfig
    vae_params: Params
    scheduler_config: dict[str, Any]
    tokenizer_dir: Path
    hashes: dict[str, str]
    changes: tuple[str, ...] = ()


def unet_from_torch(state: Mapping[str, Any], config: UNetConfig, dtype: Any = jnp.float32) -> Params:
    """Flax parameters of a UNet from diffusers' ``state_dict`` of arrays; errors as in :func:`names.from_torch`."""
    return names.from_torch("unet", state, config, dtype)


def vae_from_torch(state: Mapping[str, Any], config: VaeConfig, dtype: Any = jnp.float32) -> Params:
    """Flax parameters of an AutoencoderKL, from new (``to_q``) or old (``query``) attention names."""
    return names.from_torch("vae", state, config, dtype)


def text_from_torch(state: Mapping[str, Any], config: ClipTextConfig, dtype: Any = jnp.float32) -> Params:
    """Flax parameters of a CLIP text encoder, from names with or without the ``text_model.`` prefix."""
    return names.from_torch("text_encoder", state, config, dtype)


unet_to_torch = vae_to_torch = text_to_torch = names.to_torch


def read_pipeline(
    path_or_hub_id: str | Path,
    revision: str | None = None,
    dtype: Any = None,
    variant: str | None = None,
    unlearned: Sequence[str | Path] = (),
) -> ModelParts:
    """Read a Stable Diffusion 1.x/2.x pipeline: a local folder if there is one of that name, else a hub id.

    ``dtype`` is that of the parameters: ``"float32"`` (also None), ``"float16"``, ``"bfloat16"`` (names or NumPy
    types), or ``"stored"`` for what the files hold. ``variant="fp16"`` takes ``*.fp16.safetensors``. ``unlearned``:
    checkpoints to apply in this order (:mod:`ine_jax.models.checkpoints`), before anything is rounded to ``dtype``.
    Raises :class:`InputError` for missing or damaged files, names that leave the folder, unknown config keys, and
    :class:`WeightMismatch` for keys that do not fit.
    """
    out_dtype = _parameter_dtype(dtype)
    if variant is not None and not re.fullmatch(r"\w{1,32}", variant):
        raise InputError(f"variant {variant!r}", "letters and digits, such as fp16", "choose a variant of the folder")
    folder = hub.pipeline_folder(path_or_hub_id, revision, variant)
    _check_index(folder)
    hashes: dict[str, str] = {}
    changes: list[str] = []

    def config(component: str) -> dict[str, Any]:
        name = f"{component}/{'scheduler_' if component == 'scheduler' else ''}config.json"
        path = files.inside(folder, name)
        values = files.read_json(path)
        hashes[name] = files.sha256(path)
        return values

    def params(component: str, cfg: names.ModelConfig) -> Params:
        source = tensors.read_component(folder, component, checkpoints.STEMS[component], variant)
        state, lines = overlay.apply(component, source.tensors, cfg, changed, out_dtype is None)
        tree = names.from_torch(f"{component} of {folder.name}", state, cfg, out_dtype)
        hashes.update({f"{component}/{file.name}": files.sha256(file) for file in source.files})
        changes.extend(lines)
        return tree

    source = functools.partial("{0}/{1}/config.json".format, folder.name)
    text_config = configs.read_config(ClipTextConfig, config("text_encoder"), source("text_encoder"))
    unet_config = configs.read_config(UNetConfig, config("unet"), source("unet"))
    vae_config = configs.read_config(VaeConfig, config("vae"), source("vae"))
    _check_agreement(folder.name, text_config, unet_config, vae_config)
    scheduler = config("scheduler")
    for file in _TOKENIZER_FILES:
        if (folder / "tokenizer" / file).is_file():
            hashes[f"tokenizer/{file}"] = files.sha256(files.inside(folder, f"tokenizer/{file}"))
    changed = _checkpoints(unlearned, hashes)
    name = folder.resolve().name if Path(path_or_hub_id).is_dir() else str(path_or_hub_id)
    return ModelParts(
        name="+".join([name, *dict.fromkeys(Path(given).name for given in unlearned)]),
        path=folder,
        text_config=text_config,
        text_params=params("text_encoder", text_config),
        unet_config=unet_config,
        unet_params=params("unet", unet_config),
        vae_config=vae_config,
        vae_params=params("vae", vae_config),
        scheduler_config=scheduler,
        tokenizer_dir=folder / "tokenizer",
        hashes=hashes,
        changes=tuple(changes),
    )


def _parameter_dtype(dtype: Any) -> Any:
    """NumPy's type of what the user names; None for what the files hold."""
    name = "float32" if dtype is None else dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    if name not in ("stored", *_DTYPES):
        raise InputError(f"dtype {name!r}", f"{', '.join(_DTYPES)} or stored", "choose one of these")
    return None if name == "stored" else jnp.dtype(name)


def _checkpoints(given: Sequence[str | Path], hashes: dict[str, str]) -> list[checkpoints.Checkpoint]:
    """Open the checkpoints in order; the hashes of their files go into ``hashes``."""
    found: list[checkpoints.Checkpoint] = []
    for number, place in enumerate(given):
        path = hub.checkpoint_path(place)
        top = path if path.is_dir() else path.parent
        opened = checkpoints.read(path)
        for file in (file for one in opened for file in one.files):
            hashes[f"unlearned-{number}/{file.relative_to(top)}"] = files.sha256(file)
        found += opened
    return found


def _check_index(folder: Path) -> None:
    index = files.read_json(files.inside(folder, "model_index.json"))
    for component, (_, wanted) in _COMPONENTS.items():
        entry = index.get(component)
        known = isinstance(entry, list) and len(entry) == 2 and str(entry[1]).removeprefix("Flax") == wanted
        if component != "tokenizer" and not known:
            raise InputError(
                f"{folder / 'model_index.json'}: {component} is {entry!r}",
                f"{wanted} (Stable Diffusion 1.x and 2.x)",
                "use a folder of one of these families",
            )


def _check_agreement(name: str, text: ClipTextConfig, unet: UNetConfig, vae: VaeConfig) -> None:
    if unet.cross_attention_dim != text.hidden_size:
        raise InputError(
            f"{name}: unet cross_attention_dim {unet.cross_attention_dim}, text_encoder hidden_size {text.hidden_size}",
            "equal widths",
            "take both from one pipeline",
        )
    if unet.in_channels != vae.latent_channels or unet.out_channels != vae.latent_channels:
        raise InputError(
            f"{name}: unet channels {unet.in_channels} -> {unet.out_channels}, vae latents {vae.latent_channels}",
            "equal channels (no inpainting or upscaling UNet)",
            "use a text-to-image pipeline",
        )


def write_pipeline(parts: ModelParts, folder: str | Path, dtype: str = "float16") -> Path:
    """Write ``parts`` as a diffusers pipeline folder that diffusers (PyTorch) and :func:`read_pipeline` read.

    Existing files of the same names are replaced one by one, each whole or not at all; others are left alone.
    ``dtype`` is that of the weights. Raises :class:`InputError` for another dtype, or a value beyond it.
    """
    if dtype not in _DTYPES:
        raise InputError(f"dtype {dtype!r}", ", ".join(_DTYPES), "choose one of these")
    out = Path(folder)
    parts_of: dict[str, tuple[names.ModelConfig, Params]] = {
        "text_encoder": (parts.text_config, parts.text_params),
        "unet": (parts.unet_config, parts.unet_params),
        "vae": (parts.vae_config, parts.vae_params),
    }
    states = {component: _rounded(component, params, dtype) for component, (_, params) in parts_of.items()}
    for state in states.values():
        for tensor in state.values():
            tensor.read()  # a value beyond the dtype is told before anything is written
    for component, (config, _) in parts_of.items():
        values = configs.config_dict(config)
        if component == "text_encoder":
            values["torch_dtype"] = dtype
        files.write_safetensors(out / component / f"{checkpoints.STEMS[component]}.safetensors", states[component])
        files.write_json(out / component / "config.json", values)
    files.write_json(out / "scheduler" / "scheduler_config.json", parts.scheduler_config)
    for name in _TOKENIZER_FILES:
        source = parts.tokenizer_dir / name
        if source.is_file() and source.resolve() != (out / "tokenizer" / name).resolve():
            files.write_bytes(out / "tokenizer" / name, source.read_bytes())
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False, **_COMPONENTS}
    index["scheduler"] = ["diffusers", parts.scheduler_config.get("_class_name", "DDIMScheduler")]
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    files.write_json(out / "model_index.json", index)
    return out


def _rounded(component: str, params: Params, dtype: str) -> dict[str, tensors.Tensor]:
    """PyTorch-named tensors in ``dtype``, each made when it is read."""

    def tensor(name: str, path: names.Path, leaf: Any) -> tensors.Tensor:
        def read() -> np.ndarray:
            array = names.to_torch_layout(path, np.asarray(leaf))
            return np.asarray(names.to_array(f"{component}: {name}", array, jnp.dtype(dtype)))

        return tensors.Tensor(names.torch_shape(path, leaf.shape), dtype, read)

    flat = flax.traverse_util.flatten_dict(params)
    return {name: tensor(name, path, leaf) for path, leaf in flat.items() if (name := names.torch_name(path))}
