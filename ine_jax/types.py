"""Shape aliases, named once: `batch` images, `token` text positions, `dim` channels of the text, `h w` latent cells."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
from jaxtyping import Float, Int, UInt8

Array: TypeAlias = jax.Array
Params: TypeAlias = Mapping[str, Any]  # nested dictionaries whose leaves are arrays

Latents: TypeAlias = Float[Array, "batch h w c"]
Context: TypeAlias = Float[Array, "batch token dim"]
TokenIds: TypeAlias = Int[Array, "batch token"]
Timesteps: TypeAlias = Float[Array, "batch"]
BranchContext: TypeAlias = Float[Array, "batch branch token dim"]
BranchLatents: TypeAlias = Float[Array, "batch branch h w c"]
Images: TypeAlias = Float[Array, "batch H W 3"]
ImagesU8: TypeAlias = UInt8[Array, "batch H W 3"]
