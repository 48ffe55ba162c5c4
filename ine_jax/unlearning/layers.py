"""Which weights an unlearning method trains, and the split of a parameter tree into those and the rest."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from ine_jax.errors import InputError
from ine_jax.models.trees import flatten_params, unflatten_params
from ine_jax.types import Array, Params

Path = tuple[str, ...]
Trained = dict[str, Array]  # parameters by dotted path

# Of the layers with a kernel (linear and convolution, as in the published code; norms stay).
METHODS: dict[str, Callable[[Path], bool]] = {
    "esd-x-strict": lambda path: "attn2" in path and ("to_k" in path or "to_v" in path),
    "esd-x": lambda path: "attn2" in path,
    "esd-u": lambda path: "attn2" not in path,
    "esd-all": lambda path: True,
}


def trained(params: Params, method: str) -> Trained:
    """The parameters that a method trains, as float32 copies by dotted path; InputError where there are none."""
    if method not in METHODS:
        raise InputError(f"method {method!r}", ", ".join(METHODS), "change method")
    flat = flatten_params(params)
    layers = {path[:-1] for path in flat if path[-1] == "kernel"}
    chosen = {path for path in flat if path[:-1] in layers and METHODS[method](path)}
    if not chosen:
        raise InputError(f"the UNet has no layer for {method}", "a UNet with cross-attention", "choose another method")
    return {".".join(path): jnp.array(flat[path], jnp.float32) for path in sorted(chosen)}


def merged(params: Params, weights: Mapping[str, Array]) -> Params:
    """`params` with the trained weights in the place of their own, in the weights' dtype."""
    flat = flatten_params(params)
    return unflatten_params({path: weights.get(".".join(path), leaf) for path, leaf in flat.items()})
