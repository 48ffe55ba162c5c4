"""Model folders: diffusers' PyTorch layout, and the layout of its Flax era (until 0.39)."""

from pathlib import Path
from typing import Any, Literal

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import configs, flaxfile, names, tensors
from ine_jax.models.checkpoints import reading as checkpoints
from ine_jax.models.parts import COMPONENTS, TOKENIZER_FILES, ModelParts
from ine_jax.storage.atomic import atomic_file, write_atomic, write_json
from ine_jax.storage.dtypes import MODEL_DTYPES
from ine_jax.storage.safetensors_writer import write_safetensors
from ine_jax.types import Params

Layout = Literal["diffusers", "flax"]


def write_pipeline(parts: ModelParts, folder: str | Path, dtype: str = "float16", layout: Layout = "diffusers") -> Path:
    """Write ``parts`` as a pipeline folder that diffusers and :func:`read_pipeline` read.

    ``layout="diffusers"`` holds safetensors under PyTorch names; ``"flax"`` msgpack of the Flax trees, for diffusers
    before 0.40. Existing files of the same names are replaced one by one, each whole or not at all; others are left
    alone. ``dtype`` is that of the weights. Raises :class:`InputError` for another dtype or layout, or for a value
    beyond the dtype.
    """
    if dtype not in MODEL_DTYPES:
        raise InputError(f"dtype {dtype!r}", ", ".join(MODEL_DTYPES), "choose one of these")
    if layout not in ("diffusers", "flax"):
        raise InputError(f"layout {layout!r}", "diffusers or flax", "choose one of these")
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
        stem = checkpoints.STEMS[component]
        if layout == "diffusers":
            named = {names.torch_name(path): tensor for path, tensor in states[component].items()}
            write_safetensors(out / component / f"{stem}.safetensors", named)
        else:
            values |= {"_class_name": f"Flax{values['_class_name']}"} if "_class_name" in values else {}
            with atomic_file(out / component / tensors.flax_name(stem), shared=True) as file:
                flaxfile.write(file, {path: _in_flax(path, tensor) for path, tensor in states[component].items()})
        write_json(out / component / "config.json", values, indent=2, shared=True)
    write_json(out / "scheduler" / "scheduler_config.json", parts.scheduler_config, indent=2, shared=True)
    for name in TOKENIZER_FILES:
        source = parts.tokenizer_dir / name
        if source.is_file() and source.resolve() != (out / "tokenizer" / name).resolve():
            write_atomic(out / "tokenizer" / name, source.read_bytes(), shared=True)
    write_json(out / "model_index.json", _index(parts, layout), indent=2, shared=True)
    return out


def _index(parts: ModelParts, layout: Layout) -> dict[str, Any]:
    mark = "Flax" if layout == "flax" else ""
    kinds = {part: [home, kind if part == "tokenizer" else mark + kind] for part, (home, kind) in COMPONENTS.items()}
    index: dict[str, Any] = {"_class_name": f"{mark}StableDiffusionPipeline", "requires_safety_checker": False, **kinds}
    index["scheduler"] = ["diffusers", mark + parts.scheduler_config.get("_class_name", "DDIMScheduler")]
    return index | {"safety_checker": [None, None], "feature_extractor": [None, None]}


def _rounded(component: str, params: Params, dtype: str) -> dict[names.Path, tensors.Tensor]:
    """Tensors in PyTorch's layout and in ``dtype`` by their Flax path, each made when it is read."""

    def tensor(path: names.Path, leaf: Any) -> tensors.Tensor:
        def read() -> np.ndarray:
            array = names.to_torch_layout(path, np.asarray(leaf))
            return np.asarray(names.to_array(f"{component}: {names.torch_name(path)}", array, jnp.dtype(dtype)))

        return tensors.Tensor(names.torch_shape(path, leaf.shape), dtype, read)

    return {path: tensor(path, leaf) for path, leaf in flax.traverse_util.flatten_dict(params).items()}


def _in_flax(path: names.Path, tensor: tensors.Tensor) -> tensors.Tensor:
    shape = names.to_flax_layout(path, np.broadcast_to(np.zeros(()), tensor.shape)).shape
    return tensor.then(shape, lambda values: names.to_flax_layout(path, values))
