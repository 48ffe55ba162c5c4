"""Pipeline folders of diffusers: reading (local folder or hub id) and writing.

A folder holds ``model_index.json``, ``tokenizer/``, ``text_encoder/``, ``unet/``, ``vae/`` and ``scheduler/``; weights
are safetensors under PyTorch names (``names.py``), or older formats (``tensors.py``). Nothing is executed, and configs
are read by an allow-list (``configs.py``).
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import configs, hub, names, overlay, tensors
from ine_jax.models.checkpoints import reading as checkpoints
from ine_jax.models.checkpoints.delta import apply_unet_delta, read_unet_delta, write_unet_delta
from ine_jax.models.checkpoints.names import WeightMismatch
from ine_jax.models.checkpoints.writing import write_pipeline
from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.parts import COMPONENTS, TOKENIZER_FILES, ModelParts
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig
from ine_jax.storage import weight_files as files
from ine_jax.storage.dtypes import MODEL_DTYPES
from ine_jax.types import Params

__all__ = [
    "ModelParts",
    "WeightMismatch",
    "apply_unet_delta",
    "read_pipeline",
    "read_unet_delta",
    "same_weights",
    "text_from_torch",
    "text_to_torch",
    "unet_from_torch",
    "unet_to_torch",
    "vae_from_torch",
    "vae_to_torch",
    "write_pipeline",
    "write_unet_delta",
]


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
    checkpoints to apply in this order (:func:`hub.open_checkpoints`), before anything is rounded to ``dtype``.
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
    if "_class_name" in scheduler:
        scheduler["_class_name"] = str(scheduler["_class_name"]).removeprefix("Flax")
    for file in TOKENIZER_FILES:
        if (folder / "tokenizer" / file).is_file():
            hashes[f"tokenizer/{file}"] = files.sha256(files.inside(folder, f"tokenizer/{file}"))
    changed, given = hub.open_checkpoints(unlearned)
    hashes.update({name: files.sha256(file) for name, file in given.items()})
    name = folder.resolve().name if Path(path_or_hub_id).is_dir() else str(path_or_hub_id)
    return ModelParts(
        name="+".join([name, *dict.fromkeys(Path(one).name for one in unlearned)]),
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
    if name not in ("stored", *MODEL_DTYPES):
        raise InputError(f"dtype {name!r}", f"{', '.join(MODEL_DTYPES)} or stored", "choose one of these")
    return None if name == "stored" else jnp.dtype(name)


def same_weights(ours: ModelParts, theirs: ModelParts) -> bool:
    """Whether two models have equal parameters."""

    def trees(parts: ModelParts) -> tuple[Params, ...]:
        return parts.text_params, parts.unet_params, parts.vae_params

    equal = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), trees(ours), trees(theirs))
    return all(jax.tree.leaves(equal))


def _check_index(folder: Path) -> None:
    index = files.read_json(files.inside(folder, "model_index.json"))
    for component, (_, wanted) in COMPONENTS.items():
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
