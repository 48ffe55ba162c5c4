"""Types that every room shares. Shapes are named here once.

Axes: `batch` images, `branch` network rows of one image, `token` text positions, `dim` channels of the text, `h w c`
latent cells, `H W` pixels.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Array: TypeAlias = jax.Array
HostArray: TypeAlias = np.ndarray
AnyArray: TypeAlias = jax.Array | np.ndarray
Params: TypeAlias = Mapping[str, Any]  # nested dictionaries whose leaves are arrays

FeatureMap: TypeAlias = Float[Array, "batch h w c"]  # channels last, as in every network here
Tokens: TypeAlias = Float[Array, "batch token dim"]  # hidden states of a transformer
Latents: TypeAlias = Float[Array, "batch h w c"]
Context: TypeAlias = Float[Array, "batch token dim"]
TokenIds: TypeAlias = Int[Array, "batch token"]
PerItem: TypeAlias = Float[Array, "batch"]
PerItemMask: TypeAlias = Bool[Array, "batch"]
BranchContext: TypeAlias = Float[Array, "batch branch token dim"]
BranchLatents: TypeAlias = Float[Array, "batch branch h w c"]
Images: TypeAlias = Float[Array, "batch H W 3"]
ImagesU8: TypeAlias = UInt8[Array, "batch H W 3"]
Scalar: TypeAlias = Float[Array, ""]
Step: TypeAlias = Int[Array, ""]  # index of a network call

# On the host, before and after the programs of a pipeline.
HostLatents: TypeAlias = Float[np.ndarray, "batch h w c"]
HostContext: TypeAlias = Float[np.ndarray, "batch token dim"]
HostImages: TypeAlias = UInt8[np.ndarray, "batch H W 3"]
LatentShape: TypeAlias = tuple[int, int, int]  # h, w, c

Scale: TypeAlias = float | Array | np.ndarray  # one number, or one per item: [batch]

STATIC: Mapping[str, bool] = MappingProxyType({"static": True})  # metadata of a pytree's field that is no leaf
