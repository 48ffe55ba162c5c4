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
from ine_jax.models.checkpoints import configs, names, overlay
from ine_jax.models.checkpoints import reading as checkpoints
from ine_jax.models.checkpoints.delta import apply_unet_delta, read_unet_delta, write_unet_delta
from ine_jax.models.checkpoints.model_files import find_model_files
from ine_jax.models.checkpoints.names import WeightMismatch
from ine_jax.models.checkpoints.writing import write_pipeline
from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.parts import ModelParts
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
    name: str | Path,
    revision: str | None = None,
    dtype: Any = None,
    variant: str | None = None,
    unlearned: Sequence[str | Path] = (),
) -> ModelParts:
    """Read a Stable Diffusion 1.x/2.x pipeline: a bundled model ("tiny"), a local folder, or a hub id.

    ``dtype`` is that of the parameters: ``"float32"`` (also None), ``"float16"``, ``"bfloat16"`` (names or NumPy
    types), or ``"stored"`` for what the files hold. ``variant="fp16"`` takes ``*.fp16.safetensors``. ``unlearned``:
    checkpoints to apply in this order (:func:`hub.open_checkpoints`), before anything is rounded to ``dtype``.
    Raises :class:`InputError` for missing or damaged files, names that leave the folder, unknown config keys, and
    :class:`WeightMismatch` for keys that do not fit.
    """
    out_dtype = _parameter_dtype(dtype)
    if variant is not None and not re.fullmatch(r"\w{1,32}", variant):
        raise InputError(f"variant {variant!r}", "letters and digits, such as fp16", "choose a variant of the folder")
    found = find_model_files(name, revision, variant, unlearned)
    folder, changes = found.folder, list[str]()

    def params(component: str, cfg: names.ModelConfig) -> Params:
        state, lines = overlay.apply(
            component, found.sources[component].tensors, cfg, found.checkpoints, out_dtype is None
        )
        changes.extend(lines)
        return names.from_torch(f"{component} of {folder.name}", state, cfg, out_dtype)

    source = functools.partial("{0}/{1}/config.json".format, folder.name)
    values = {part: files.read_json(folder / part / "config.json") for part in checkpoints.STEMS}
    text_config = configs.read_config(ClipTextConfig, values["text_encoder"], source("text_encoder"))
    unet_config = configs.read_config(UNetConfig, values["unet"], source("unet"))
    vae_config = configs.read_config(VaeConfig, values["vae"], source("vae"))
    _check_agreement(folder.name, text_config, unet_config, vae_config)
    scheduler = files.read_json(folder / "scheduler" / "scheduler_config.json")
    if "_class_name" in scheduler:
        scheduler["_class_name"] = str(scheduler["_class_name"]).removeprefix("Flax")
    return ModelParts(
        name=found.name,
        path=folder,
        text_config=text_config,
        text_params=params("text_encoder", text_config),
        unet_config=unet_config,
        unet_params=params("unet", unet_config),
        vae_config=vae_config,
        vae_params=params("vae", vae_config),
        scheduler_config=scheduler,
        tokenizer_dir=folder / "tokenizer",
        hashes=found.hashes(),
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
