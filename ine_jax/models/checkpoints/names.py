"""Weight names and layouts: PyTorch `state_dict` (diffusers, transformers) <-> Flax parameter tree.

One table of rules turns a Flax path into a PyTorch name, one rule turns an array's layout. Both directions follow from
the shapes that the module declares, so no list of names is kept by hand.

| PyTorch                          | Flax                             | array                       |
|----------------------------------|----------------------------------|-----------------------------|
| `down_blocks.0.resnets.1`      | `down_blocks_0/resnets_1`      |                             |
| `Linear.weight [out, in]`      | `Dense kernel [in, out]`       | transposed                  |
| `Conv2d.weight [out, in, h, w]`| `Conv kernel [h, w, in, out]`  | OIHW → HWIO                 |
| `GroupNorm/LayerNorm.weight`   | `scale`                        | as it is                    |
| `Embedding.weight`             | `embedding`                    | as it is                    |
| VAE `to_q to_k to_v to_out.0`  | `query key value proj_attn`    | (older files use these too) |
"""

import functools
import re
from collections.abc import Mapping
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from numpy.typing import ArrayLike

from ine_jax.errors import InputError
from ine_jax.models.clip import ClipText, ClipTextConfig
from ine_jax.models.clip_vision import Clip, ClipConfig
from ine_jax.models.trees import Path, flatten_params, unflatten_params
from ine_jax.models.unet import UNet, UNetConfig
from ine_jax.models.vae import Vae, VaeConfig
from ine_jax.models.vit import Vit, VitConfig
from ine_jax.types import AnyArray, Params

ModelConfig: TypeAlias = ClipTextConfig | UNetConfig | VaeConfig
Config: TypeAlias = ModelConfig | ClipConfig | VitConfig  # the last two score images
Shape: TypeAlias = tuple[int, ...]
Arrays: TypeAlias = Mapping[str, ArrayLike]  # by PyTorch name; the values may be read lazily

_NUMBERED = re.compile(
    r"(down_blocks|up_blocks|resnets|attentions|downsamplers|upsamplers|transformer_blocks|net|to_out)_(\d+)"
)
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION = re.compile(r"(?<=\.)(query|key|value|proj_attn)(?=\.(?:weight|bias)$)")
_TEXT_PREFIX = "text_model."
# Constant ranges that old files store.
_TEXT_IGNORED = re.compile(r"(text_model\.)?embeddings\.position_ids")
_CLIP_IGNORED = re.compile(r"(text|vision)_model\.embeddings\.position_ids")
_SHOWN = 2  # keys of each kind that the message shows; the exception carries all of them


class WeightMismatch(InputError):  # noqa: N818  the name describes the files
    """A checkpoint does not fit its config; the attributes hold every key, the message the first few and the counts."""

    def __init__(self, what: str, missing: list[str], unexpected: list[str], misshapen: list[str]) -> None:
        """`misshapen` entries read `name (found) not (expected)`."""
        self.missing, self.unexpected, self.misshapen = tuple(missing), tuple(unexpected), tuple(misshapen)
        kinds = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        lines = [f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in kinds if keys]
        lines[0] = f"{what}: {lines[0]}"
        super().__init__(
            *(lines if len(lines) == 3 else [*lines, "check that weights and config.json belong together"])
        )


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")


def torch_name(path: Path) -> str:
    """PyTorch name of the Flax parameter at `path`."""

    def module(before: str, name: str) -> str:
        if before.startswith("attentions_"):  # the VAE's: a vision transformer has a "query" of that name
            name = _VAE_ATTENTION.get(name, name)
        return _NUMBERED.sub(r"\1.\2", name) if _NUMBERED.fullmatch(name) else name

    modules = map(module, ("", *path), path[:-1])
    return ".".join((*modules, LEAVES.get(path[-1], path[-1])))


def torch_shape(path: Path, shape: Shape) -> Shape:
    """Shape in PyTorch of the Flax parameter at `path` with `shape`."""
    if path[-1] != "kernel":
        return shape
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]


def to_torch_layout(path: Path, array: np.ndarray) -> np.ndarray:
    """A Flax parameter's array in PyTorch's layout."""
    if path[-1] != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def to_flax_layout(path: Path, array: np.ndarray) -> np.ndarray:
    """A PyTorch parameter's array in Flax's layout."""
    if path[-1] != "kernel":
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _module_and_inputs(config: Config) -> tuple[nn.Module, tuple[jax.ShapeDtypeStruct, ...]]:
    def array(*shape: int, dtype: DTypeLike = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    match config:
        case ClipTextConfig():
            return ClipText(config), (array(1, 2, dtype=jnp.int32),)
        case UNetConfig():
            side = 2 ** (len(config.block_out_channels) - 1)
            latents = array(1, side, side, config.in_channels)
            return UNet(config), (latents, array(1), array(1, 1, config.cross_attention_dim))
        case VaeConfig():
            return Vae(config), (array(1, config.downscale, config.downscale, config.in_channels),)
        case ClipConfig(vision=vision):
            return Clip(config), (array(1, vision.image_size, vision.image_size, 3), array(1, 2, dtype=jnp.int32))
        case VitConfig():
            return Vit(config), (array(1, config.image_size, config.image_size, 3),)


@functools.lru_cache(maxsize=16)
def parameter_shapes(config: Config) -> Mapping[Path, Shape]:
    """Path -> shape of every parameter of the network that `config` describes; nothing is allocated."""
    module, inputs = _module_and_inputs(config)
    try:
        tree = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        given = f"{type(config).__name__}: {str(error).splitlines()[0]}"
        allowed = "widths that are multiples of norm_num_groups and of the number of heads"
        raise InputError(given, allowed, "change config.json") from error
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(step.key for step in path): leaf.shape for path, leaf in leaves}


def torch_shapes(config: Config) -> dict[str, Shape]:
    """Name -> shape of the same network's PyTorch `state_dict`."""
    return {torch_name(path): torch_shape(path, shape) for path, shape in parameter_shapes(config).items()}


def canonical_name(config: Config, key: str) -> str | None:
    """Current name of a key that any release wrote; None for a key that holds no parameter."""
    match config:
        case ClipTextConfig():
            if _TEXT_IGNORED.fullmatch(key):
                return None
            return key if key.startswith(_TEXT_PREFIX) else _TEXT_PREFIX + key
        case VaeConfig():
            return _OLD_ATTENTION.sub(lambda found: _VAE_ATTENTION[found[1]], key)
        case ClipConfig():
            return None if _CLIP_IGNORED.fullmatch(key) else key
    return key


def same_shape(given: Shape, wanted: Shape) -> bool:
    """Whether the shapes agree, where a 1x1 convolution and a dense layer count as equal."""
    short, long = sorted((given, wanted), key=len)
    return given == wanted or (len(short) == 2 and long == (*short, 1, 1))


def from_torch(what: str, state: Arrays, config: Config, dtype: DTypeLike | None = jnp.float32) -> Params:
    """Flax parameters of `config`'s network from a PyTorch `state_dict` of arrays; `what` names the source in messages.

    With `dtype` None each keeps that of its array. Raises WeightMismatch with all missing, unexpected and misshapen
    keys, InputError for values that are not finite floating-point numbers.
    """
    expected = {torch_name(path): (path, torch_shape(path, s)) for path, s in parameter_shapes(config).items()}
    found: dict[str, str] = {}
    unexpected: list[str] = []
    for key in state:
        name = canonical_name(config, key)
        if name in expected and name not in found:
            found[name] = key
        elif name is not None:
            unexpected.append(key)
    missing = [name for name in expected if name not in found]

    flat: dict[Path, AnyArray] = {}
    misshapen: list[str] = []
    for name, key in found.items():
        path, shape = expected[name]
        if not same_shape(np.shape(state[key]), shape):
            misshapen.append(f"{key} {np.shape(state[key])} not {shape}")
    if missing or unexpected or misshapen:
        raise WeightMismatch(what, missing, unexpected, misshapen)
    for name, key in found.items():
        path, shape = expected[name]
        given = np.asarray(state[key]).reshape(shape)
        flat[path] = to_array(f"{what}: {key}", to_flax_layout(path, given), dtype)
    return unflatten_params(flat)


def to_array(what: str, array: np.ndarray, dtype: DTypeLike | None) -> jax.Array:
    """`array` as a device array in `dtype` (None: its own); raises InputError unless all values are finite floats."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f"{what} holds {array.dtype}", "float32, float16 or bfloat16", "convert the file first")
    # In NumPy: JAX would compile a conversion and a reduction for every distinct shape.
    with np.errstate(over="ignore"):
        out = array.astype(array.dtype if dtype is None else dtype, copy=False)
    if not np.isfinite(out).all():
        raise InputError(f"{what} holds NaN or infinity in {out.dtype}", "finite numbers", "take an undamaged copy")
    return jnp.array(out)  # a copy: the caller may change its own later


def to_torch(params: Params) -> dict[str, np.ndarray]:
    """PyTorch `state_dict` of any part's Flax parameters, as contiguous host arrays; the dtype stays."""
    return {
        torch_name(path): np.ascontiguousarray(to_torch_layout(path, np.asarray(leaf)))
        for path, leaf in flatten_params(params).items()
    }
