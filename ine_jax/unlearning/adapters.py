"""Low-rank adapters of a UNet's layers (LoRA, arXiv 2106.09685): W + s · down · up, applied, merged and written.

`down` has the layer's kernel with `rank` outputs, `up` is [rank, out] (1 x 1 for a convolution). Applied, an adapter is
a branch beside its layer, so the frozen weights stay in their dtype and only the factors have gradients; merged, it is
part of the kernel. Written, it has diffusers' keys (DUO) or kohya's (SPM), which `models.checkpoints.lora` reads back.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import names
from ine_jax.models.trees import Path as Place
from ine_jax.models.trees import flatten_params
from ine_jax.pipeline.programs import Apply
from ine_jax.storage.safetensors_writer import write_safetensors
from ine_jax.types import Array, Params
from ine_jax.unlearning.layers import merged

Adapters: TypeAlias = dict[str, Array]  # "<dotted module>.down" and ".up", float32
Shapes: TypeAlias = dict[str, tuple[int, ...]]  # kernels by dotted module
Start = Literal["gaussian", "kaiming"]
Layout = Literal["diffusers", "kohya"]


def kernels(params: Params, chosen: Callable[[Place], bool]) -> Shapes:
    """Shapes of the kernels whose module path is chosen; InputError where there are none."""
    found = {path[:-1]: leaf.shape for path, leaf in flatten_params(params).items() if path[-1] == "kernel"}
    shapes = {".".join(path): shape for path, shape in sorted(found.items()) if chosen(path)}
    if not shapes:
        raise InputError("the UNet has no layer for the adapters", "a UNet with attention", "choose another method")
    return shapes


def fresh(shapes: Shapes, rank: int, seed: int, start: Start) -> Adapters:
    """Adapters that change nothing yet: `up` is zero, `down` random by layer and seed.

    "gaussian": standard deviation 1 / rank (peft and diffusers); "kaiming": uniform within 1 / sqrt(inputs) (kohya).
    """
    adapters: Adapters = {}
    for number, (name, shape) in enumerate(shapes.items()):
        key, inner = jax.random.fold_in(jax.random.key(seed), number), (*shape[:-1], rank)
        if start == "gaussian":
            down = jax.random.normal(key, inner) / rank
        else:
            bound = float(np.prod(shape[:-1])) ** -0.5
            down = jax.random.uniform(key, inner, minval=-bound, maxval=bound)
        adapters[f"{name}.down"] = down
        adapters[f"{name}.up"] = jnp.zeros((*(1 for _ in shape[:-2]), rank, shape[-1]))
    return adapters


def adapted(denoise: Apply, adapters: Mapping[str, Array], scale: float = 1.0) -> Apply:
    """`denoise` with s · up(down(x)) added to the output of every adapted layer."""

    def branch(layer: Any, down: Array, up: Array, x: Array) -> Any:
        rank, dtype = down.shape[-1], layer.dtype
        first: nn.Module
        second: nn.Module
        if isinstance(layer, nn.Dense):
            first, second = nn.Dense(rank, use_bias=False, dtype=dtype), nn.Dense(up.shape[-1], False, dtype=dtype)
        else:
            same = {"strides": layer.strides, "padding": layer.padding, "use_bias": False, "dtype": dtype}
            first = nn.Conv(rank, layer.kernel_size, **same)
            second = nn.Conv(up.shape[-1], (1, 1), use_bias=False, dtype=dtype)
        inner = first.apply({"params": {"kernel": down}}, x)
        return second.apply({"params": {"kernel": up}}, inner)

    def around(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out, name = call(*args, **kwargs), ".".join(context.module.path)
        if context.method_name != "__call__" or f"{name}.down" not in adapters:
            return out
        added = branch(context.module, adapters[f"{name}.down"], adapters[f"{name}.up"], args[0])
        return out + jnp.asarray(scale, out.dtype) * added

    def apply(params: Params, *inputs: Array) -> Array:
        with nn.intercept_methods(around):
            return denoise(params, *inputs)

    return apply


def watched(denoise: Apply, adapters: Mapping[str, Array]) -> Callable[..., list[Array]]:
    """The cross-attention probabilities of `denoise`, one array [row, head, pixel, token] for each layer.

    Every row has adapters of its own: `down` is [row, in, rank], `up` [row, rank, out], of keys and values.
    """
    inputs: dict[str, Array] = {}
    found: list[Array] = []

    def around(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out, path = call(*args, **kwargs), context.module.path
        if context.method_name != "__call__" or "attn2" not in path:
            return out
        name = ".".join(path)
        if f"{name}.down" in adapters:
            down, up = (adapters[f"{name}.{factor}"].astype(out.dtype) for factor in ("down", "up"))
            out = out + args[0] @ down @ up
        if path[-1] in ("to_q", "to_k"):
            inputs[path[-1]] = out
        if path[-1] == "attn2":
            query, key = (
                part.reshape(*part.shape[:2], context.module.heads, -1).astype(jnp.float32)
                for part in (inputs["to_q"], inputs["to_k"])
            )
            scores = jnp.einsum("rphd,rthd->rhpt", query, key) * query.shape[-1] ** -0.5
            found.append(jax.nn.softmax(scores, axis=-1))
        return out

    def apply(params: Params, *rows: Array) -> list[Array]:
        found.clear()
        with nn.intercept_methods(around):
            denoise(params, *rows)
        return list(found)

    return apply


def with_adapters(params: Params, adapters: Mapping[str, Array], scale: float = 1.0) -> Params:
    """`params` with W + s · down · up in the place of every adapted kernel; the sum is float32, as files hold it."""
    flat = {".".join(path): leaf for path, leaf in flatten_params(params).items()}
    sums: dict[str, Array] = {}
    for key in adapters:
        name, _, factor = key.rpartition(".")
        if factor == "down":
            kernel = f"{name}.kernel"
            sums[kernel] = jnp.asarray(_sum(flat[kernel], adapters[key], adapters[f"{name}.up"], scale))
    return merged(params, sums)


def _sum(kernel: Any, down: Any, up: Any, scale: float) -> np.ndarray:
    factors = [np.asarray(part, np.float32).reshape(-1, part.shape[-1]) for part in (down, up)]
    product = np.float32(scale) * (factors[0] @ factors[1])
    total: np.ndarray = np.asarray(kernel).astype(np.float32) + product.reshape(kernel.shape)
    return total


def write_adapters(
    path: Path, adapters: Mapping[str, Array], layout: Layout, alpha: float, metadata: Mapping[str, str]
) -> None:
    """Write the factors in PyTorch's layout, float32; kohya's keys have `alpha` beside them (s = alpha / rank)."""
    tensors: dict[str, np.ndarray] = {}
    for key, leaf in adapters.items():
        name, _, factor = key.rpartition(".")
        module = names.torch_name((*name.split("."), "kernel")).removesuffix(".weight")
        stored = np.ascontiguousarray(names.to_torch_layout(("kernel",), np.asarray(leaf, np.float32)))
        if layout == "diffusers":
            tensors[f"unet.{module}.lora.{factor}.weight"] = stored
        else:
            prefix = "lora_unet_" + module.replace(".", "_")
            tensors[f"{prefix}.lora_{factor}.weight"] = stored
            tensors[f"{prefix}.alpha"] = np.asarray(alpha, np.float32)
    write_safetensors(path, tensors, metadata)
