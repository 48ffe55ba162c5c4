"""Partial UNet weights in the layout that ESD publishes (arXiv 2303.07345, its released checkpoints).

One safetensors file; keys are the UNet's own PyTorch names without a prefix, such as
`down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight`; values are the whole new weights, not
differences.
"""

from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import names
from ine_jax.models.trees import flatten_params
from ine_jax.storage.safetensors_writer import write_safetensors
from ine_jax.types import Params


def write_unet_delta(
    params: Params,
    base_params: Params,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    dtype: str | None = None,
) -> tuple[str, ...]:
    """Write the weights of `params` that differ from `base_params` (before rounding); return their PyTorch names.

    `metadata` goes into the header; `dtype` is the file's, None keeps that of each weight. Raises InputError where the
    trees differ, a value is not finite, or nothing has changed.
    """
    new, base = flatten_params(params), flatten_params(base_params)
    if new.keys() != base.keys() or any(new[k].shape != base[k].shape for k in new):
        given = "the two UNets have different parameters"
        raise InputError(given, "the same architecture", "compare with the right base")
    changed = {k: np.asarray(v) for k, v in new.items() if not np.array_equal(np.asarray(v), np.asarray(base[k]))}
    if not changed:
        raise InputError("no weight differs from the base", "an edited UNet", "train before writing")
    tensors = {}
    for key, value in changed.items():
        name = names.torch_name(key)
        array = np.asarray(names.to_array(name, names.to_torch_layout(key, value), dtype and jnp.dtype(dtype)))
        tensors[name] = np.ascontiguousarray(array)
    write_safetensors(Path(path), tensors, metadata)
    return tuple(sorted(tensors))
