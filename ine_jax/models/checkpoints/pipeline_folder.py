"""Pipeline folders of diffusers: reading (bundled model, local folder or hub id) and writing.

A folder holds `model_index.json`, `tokenizer/`, `text_encoder/`, `unet/`, `vae/` and `scheduler/`. Weights are
safetensors under PyTorch names (`names.py`) or an older format (`tensors.py`). Nothing is executed; configs are read
by an allow-list (`configs.py`).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ine_jax.errors import InputError
from ine_jax.models import trees
from ine_jax.models.checkpoints import configs, flax_msgpack, names, overlay, tensors
from ine_jax.models.checkpoints.model_files import find_model_files
from ine_jax.models.checkpoints.recognize import STEMS
from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.parts import COMPONENTS, MAX_TOKENIZER, TOKENIZER_FILES, ModelParts
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig
from ine_jax.storage import untrusted
from ine_jax.storage import weight_files as files
from ine_jax.storage.atomic import atomic_file, write_atomic, write_json
from ine_jax.storage.dtypes import MODEL_DTYPES
from ine_jax.storage.safetensors_writer import write_safetensors
from ine_jax.types import AnyArray, Params

Layout = Literal["diffusers", "flax"]


def read_pipeline(
    name: str | Path,
    revision: str | None = None,
    dtype: DTypeLike | None = None,
    variant: str | None = None,
    unlearned: Sequence[str | Path] = (),
) -> ModelParts:
    """Read a Stable Diffusion 1.x/2.x pipeline.

    Args:
        name: a bundled model (`"tiny"`, `"tiny-unlearned-0"`), a local folder, or a hub id.
        revision: commit, branch or tag of the hub's repository.
        dtype: of the parameters; None is float32, `"stored"` what the files hold.
        variant: `"fp16"` takes `*.fp16.safetensors`.
        unlearned: checkpoints to apply in this order (`hub.open_checkpoints`) before anything is rounded to `dtype`.
    """
    out_dtype = _parameter_dtype(dtype)
    if variant is not None and not re.fullmatch(r"\w{1,32}", variant):
        raise InputError(f"variant {variant!r}", "letters and digits, such as fp16", "choose a variant of the folder")
    found = find_model_files(name, revision, variant, unlearned)
    folder = found.folder
    values = {part: files.read_json(folder / part / "config.json") for part in STEMS}
    source = {part: f"{folder.name}/{part}/config.json" for part in STEMS}
    text_config = configs.parse_config(ClipTextConfig, values["text_encoder"], source["text_encoder"])
    unet_config = configs.parse_config(UNetConfig, values["unet"], source["unet"])
    vae_config = configs.parse_config(VaeConfig, values["vae"], source["vae"])
    _check_agreement(folder.name, text_config, unet_config, vae_config)
    scheduler = files.read_json(folder / "scheduler" / "scheduler_config.json")
    if "_class_name" in scheduler:
        scheduler["_class_name"] = str(scheduler["_class_name"]).removeprefix("Flax")
    params: dict[str, Params] = {}
    changes: list[str] = []
    by_part: dict[str, names.ModelConfig] = {"text_encoder": text_config, "unet": unet_config, "vae": vae_config}
    for part, config in by_part.items():
        stored = found.sources[part].tensors
        state, lines = overlay.apply_checkpoints(part, stored, config, found.checkpoints, out_dtype is None)
        params[part] = names.from_torch(f"{part} of {folder.name}", state, config, out_dtype)
        changes += lines
    return ModelParts(
        name=found.name,
        path=folder,
        text_config=text_config,
        text_params=params["text_encoder"],
        unet_config=unet_config,
        unet_params=params["unet"],
        vae_config=vae_config,
        vae_params=params["vae"],
        scheduler_config=scheduler,
        tokenizer_dir=folder / "tokenizer",
        hashes=found.hashes(),
        changes=tuple(changes),
    )


def write_pipeline(parts: ModelParts, folder: str | Path, dtype: str = "float16", layout: Layout = "diffusers") -> Path:
    """Write `parts` as a pipeline folder that diffusers and `read_pipeline` read, with weights in `dtype`.

    `layout="diffusers"` holds safetensors under PyTorch names; `"flax"` msgpack of the Flax trees, for diffusers before
    0.40. Existing files of the same names are replaced one by one, each whole or not at all; others are left alone.
    """
    if dtype not in MODEL_DTYPES:
        raise InputError(f"dtype {dtype!r}", ", ".join(MODEL_DTYPES), "choose one of these")
    if layout not in get_args(Layout):
        raise InputError(f"layout {layout!r}", " or ".join(get_args(Layout)), "choose one of these")
    out = Path(folder)
    by_part: dict[str, tuple[names.ModelConfig, Params]] = {
        "text_encoder": (parts.text_config, parts.text_params),
        "unet": (parts.unet_config, parts.unet_params),
        "vae": (parts.vae_config, parts.vae_params),
    }
    states = {part: _torch_tensors(part, params, dtype) for part, (_, params) in by_part.items()}
    for state in states.values():
        for tensor in state.values():
            tensor.read()  # a value beyond the dtype raises before anything is written
    for part, (config, _) in by_part.items():
        values = configs.config_json(config)
        if part == "text_encoder":
            values["torch_dtype"] = dtype
        stem = STEMS[part]
        if layout == "diffusers":
            named = {names.torch_name(path): tensor for path, tensor in states[part].items()}
            write_safetensors(out / part / f"{stem}.safetensors", named)
        else:
            values |= {"_class_name": f"Flax{values['_class_name']}"} if "_class_name" in values else {}
            with atomic_file(out / part / tensors.flax_name(stem), shared=True) as file:
                in_flax = {path: _in_flax_layout(path, tensor) for path, tensor in states[part].items()}
                flax_msgpack.write_msgpack(file, in_flax)
        write_json(out / part / "config.json", values, indent=2, shared=True)
    write_json(out / "scheduler" / "scheduler_config.json", parts.scheduler_config, indent=2, shared=True)
    for name in TOKENIZER_FILES:
        source = parts.tokenizer_dir / name
        if source.is_file() and source.resolve() != (out / "tokenizer" / name).resolve():
            write_atomic(out / "tokenizer" / name, untrusted.read(source, MAX_TOKENIZER), shared=True)
    write_json(out / "model_index.json", _index(parts, layout), indent=2, shared=True)
    return out


def same_weights(ours: ModelParts, theirs: ModelParts) -> bool:
    """Whether two models have equal parameters."""

    def trees(parts: ModelParts) -> tuple[Params, Params, Params]:
        return parts.text_params, parts.unet_params, parts.vae_params

    equal = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), trees(ours), trees(theirs))
    return all(jax.tree.leaves(equal))


def _parameter_dtype(dtype: DTypeLike | None) -> np.dtype | None:
    """The dtype that the user names; None for what the files hold."""
    name = "float32" if dtype is None else dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    if name not in ("stored", *MODEL_DTYPES):
        raise InputError(f"dtype {name!r}", f"{', '.join(MODEL_DTYPES)} or stored", "choose one of these")
    return None if name == "stored" else jnp.dtype(name)


def _check_agreement(name: str, text: ClipTextConfig, unet: UNetConfig, vae: VaeConfig) -> None:
    if unet.cross_attention_dim != text.hidden_size:
        raise InputError(
            f"{name}: unet cross_attention_dim {unet.cross_attention_dim}, text_encoder hidden_size {text.hidden_size}",
            "equal widths",
            "take both from one pipeline",
        )
    if unet.in_channels != vae.latent_channels or unet.out_channels != vae.latent_channels:
        given = f"{name}: unet channels {unet.in_channels} -> {unet.out_channels}, vae latents {vae.latent_channels}"
        raise InputError(given, "equal channels (no inpainting or upscaling UNet)", "use a text-to-image pipeline")


def _index(parts: ModelParts, layout: Layout) -> dict[str, object]:
    mark = "Flax" if layout == "flax" else ""
    kinds = {part: [home, kind if part == "tokenizer" else mark + kind] for part, (home, kind) in COMPONENTS.items()}
    scheduler = str(parts.scheduler_config.get("_class_name", "DDIMScheduler"))
    return {
        "_class_name": f"{mark}StableDiffusionPipeline",
        "requires_safety_checker": False,
        **kinds,
        "scheduler": ["diffusers", mark + scheduler],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }


def _torch_tensors(component: str, params: Params, dtype: str) -> dict[trees.Path, tensors.Tensor]:
    """Tensors in PyTorch's layout and in `dtype` by their Flax path, each made when it is read."""

    def tensor(path: trees.Path, leaf: AnyArray) -> tensors.Tensor:
        def read() -> np.ndarray:
            array = names.to_torch_layout(path, np.asarray(leaf))
            return np.asarray(names.to_array(f"{component}: {names.torch_name(path)}", array, jnp.dtype(dtype)))

        return tensors.Tensor(names.torch_shape(path, leaf.shape), dtype, read)

    return {path: tensor(path, leaf) for path, leaf in trees.flatten_params(params).items()}


def _in_flax_layout(path: trees.Path, tensor: tensors.Tensor) -> tensors.Tensor:
    shape = names.to_flax_layout(path, np.broadcast_to(np.zeros(()), tensor.shape)).shape
    return tensor.then(shape, lambda values: names.to_flax_layout(path, values))
