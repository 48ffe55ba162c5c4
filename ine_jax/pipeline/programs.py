"""The compiled programs of a pipeline: text encoding and projection, sampling, decoding and encoding of images.

Prompts, seeds, scales, step tables and parameters are arguments, so a program belongs to its shapes alone and models
of one shape (a base and its unlearned variants) share it. Batches are spread over the device mesh, parameters lie on
every device.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, UInt8

from ine_jax.errors import InputError
from ine_jax.guidance.base import Guidance, Texts
from ine_jax.guidance.projection import masked_copies
from ine_jax.guidance.safree import Reference, SafeText, Safree
from ine_jax.models.clip import ClipText, ClipTextConfig
from ine_jax.models.layers import per_row
from ine_jax.models.skips import SkipEdit
from ine_jax.models.text import encode_ids
from ine_jax.models.unet import UNet, UNetConfig
from ine_jax.models.vae import Vae, VaeConfig
from ine_jax.pipeline import mesh as devices
from ine_jax.pipeline.batches import in_batches
from ine_jax.pipeline.sampling import sample
from ine_jax.schedulers import AnyScheduler, Tables
from ine_jax.types import (
    AnyArray,
    Array,
    Context,
    HostArray,
    Images,
    ImagesU8,
    Latents,
    Params,
    PerItem,
    Scale,
    TokenIds,
)

DECODE_ROWS = 8
Apply: TypeAlias = Callable[..., Array]  # (params, latents, timesteps, context), and a guard's reference if it has one
Rows: TypeAlias = Float[Array, "row token dim"]  # texts, one or more of them after the other for each of the latents


@dataclass(frozen=True)
class Programs:
    """Jitted functions of one model shape on one mesh; `traces` counts how often each was compiled."""

    mesh: Mesh
    encode: Callable[..., Context]
    sample: Callable[..., Latents]
    decode: Callable[..., ImagesU8]
    encode_images: Callable[..., tuple[Latents, Latents]]
    project: Callable[..., SafeText]
    traces: Counter[str] = field(compare=False)

    def batch_sharding(self) -> NamedSharding:
        """Return the sharding of a batch: its first axis over all devices."""
        return devices.spread(self.mesh)

    def replicated(self) -> NamedSharding:
        """Return the sharding of parameters: a copy on every device."""
        return devices.replicated(self.mesh)

    def batched(self, run: Callable[..., Array], arrays: Sequence[HostArray], rows: int) -> HostArray:
        """Return `run` over batches of exactly `rows` items, the last one padded with its own last item."""
        if not len(arrays[0]):
            raise InputError("an empty list", "one item or more", "give something to work on")
        (found,) = in_batches(lambda *chunk: (run(*chunk),), arrays, rows, self.batch_sharding())
        return found


@functools.lru_cache(maxsize=8)
def build(
    text: ClipTextConfig,
    unet: UNetConfig,
    vae: VaeConfig,
    dtype: np.dtype[np.generic],
    mesh: Mesh,
    foreign_unet: str | None = None,
) -> Programs:
    """Return the programs of a model shape; equal arguments return the same object, so nothing compiles twice.

    `foreign_unet` is the text of the UNet's `config.json` where diffusers' Flax UNet runs instead of this package's.
    """
    traces: Counter[str] = Counter()
    clip = ClipText(text, dtype=dtype)
    platform = devices.platform_of(mesh)
    decode, encode_images = _vae_programs(Vae(vae, dtype, platform), vae.scaling_factor, mesh, traces)
    if foreign_unet is None:
        network = on_own_rows(native_unet(unet, dtype, platform), mesh)
    else:
        network = diffusers_unet(foreign_unet, dtype)
    denoise = jax.jit(network)  # part of every loop, but traced once for all guards of as many rows

    def encode(params: Params, ids: TokenIds, learned: Float[Array, "row dim"]) -> Context:
        traces["encode"] += 1
        return encode_ids(clip, params, ids, learned).astype(jnp.float32)

    def run(
        params: Params, scheduler: AnyScheduler, tables: Tables, guidance: Guidance, texts: Texts, noise: Latents
    ) -> Latents:
        traces["sample"] += 1
        return sample(functools.partial(denoise, params), scheduler, tables, guidance, texts, noise)

    def project(
        params: Params,
        ids: TokenIds,
        learned: Float[Array, "row dim"],
        cut: Bool[Array, "batch"],
        end: Int[AnyArray, ""],
        guard: Safree,
        prompt: Context,
        concept: Float[Array, "column dim"],
        calls: Scale,
    ) -> SafeText:
        """Without the concept: `concept` has its pooled vectors, `cut` marks prompts that were cut, `end` is its id."""
        traces["project"] += 1
        copies = masked_copies(ids, end, cut=cut if guard.overlong == "as-released" else None)

        def pooled(hidden: TokenIds) -> Float[Array, "batch dim"]:
            contexts = encode_ids(clip, params, hidden, learned).astype(jnp.float32)
            return jnp.take_along_axis(contexts, copies.pooled[:, None, None], axis=1)[:, 0]

        # One token after the other: all copies at once would need N times the memory of the batch.
        masked = jnp.swapaxes(jax.lax.map(pooled, jnp.swapaxes(copies.ids, 0, 1)), 0, 1)
        return guard.project(prompt, masked, copies.mask, copies.end, concept, calls)

    return Programs(
        mesh,
        encode=jax.jit(encode),
        sample=jax.jit(run, static_argnums=1),
        decode=jax.jit(decode),
        encode_images=jax.jit(encode_images),
        project=jax.jit(project),
        traces=traces,
    )


def _vae_programs(
    autoencoder: Vae, scaling: float, mesh: Mesh, traces: Counter[str]
) -> tuple[Callable[..., ImagesU8], Callable[..., tuple[Latents, Latents]]]:
    """Return the functions that decode latents and encode images."""

    def decode_rows(params: Params, latents: Latents) -> ImagesU8:
        def one(latent: Float[Array, "h w c"]) -> UInt8[Array, "H W 3"]:
            images = autoencoder.apply({"params": params}, latent[None] / scaling, method="decode")
            return to_uint8(images[0])

        # Chunked on each device by itself: decoding needs far more memory per image than sampling.
        images: ImagesU8 = jax.lax.map(one, latents, batch_size=min(DECODE_ROWS, latents.shape[0]))
        return images

    def decode(params: Params, latents: Latents) -> ImagesU8:
        traces["decode"] += 1
        rows = PartitionSpec(devices.AXIS)
        each = jax.shard_map(decode_rows, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows, check_vma=False)
        return each(params, latents)

    def encode_one(params: Params, image: UInt8[Array, "H W 3"]) -> tuple[Float[Array, "h w c"], Float[Array, "h w c"]]:
        found = autoencoder.apply({"params": params}, from_uint8(image[None]), method="encode")
        mean, logvar = cast(tuple[Array, Array], found)
        return mean[0].astype(jnp.float32), logvar[0].astype(jnp.float32)

    def encode_images(params: Params, images: ImagesU8) -> tuple[Latents, Latents]:
        traces["encode_images"] += 1
        rows = PartitionSpec(devices.AXIS)

        def own(params: Params, images: ImagesU8) -> tuple[Latents, Latents]:
            # One image at a time: what training learns from must not depend on how many devices a host has.
            mean, logvar = jax.lax.map(functools.partial(encode_one, params), images)
            return mean, logvar

        each = jax.shard_map(own, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows, check_vma=False)
        mean, logvar = each(params, images)
        return mean, logvar

    return decode, encode_images


def to_uint8(images: Float[Array, "*batch H W 3"]) -> UInt8[Array, "*batch H W 3"]:
    """Convert images in [-1, 1] to 0 ... 255, rounded to nearest."""
    return jnp.round(jnp.clip(images.astype(jnp.float32) * 0.5 + 0.5, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def from_uint8(images: ImagesU8) -> Images:
    """Convert images of 0 ... 255 to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def native_unet(config: UNetConfig, dtype: DTypeLike, platform: str = "cpu") -> Apply:
    """Return this package's UNet as (params, latents, timesteps, context) -> eps in float32.

    `platform` is that of the devices. With a guard's reference as fifth argument the last row of every item is compared
    with the others and dropped.
    """
    unet = UNet(config, dtype, platform)

    def apply(
        params: Params, latents: Latents, timesteps: PerItem, context: Rows, reference: Reference | None = None
    ) -> Float[Array, "kept h w c"]:
        edit = None
        if reference is not None:
            numbers = (reference.active, reference.backbone, reference.skip)
            edit = SkipEdit(*numbers, mode=reference.mode, rows=reference.rows)
        eps = cast(Array, unet.apply({"params": params}, latents, timesteps, context, edit))
        return eps.astype(jnp.float32)

    return apply


def on_own_rows(denoise: Apply, mesh: Mesh) -> Apply:
    """Return `denoise` with every device of the mesh computing its own rows, or all where they cannot be shared out.

    The compiler cannot split attention kernels over devices. No row needs another one, so nothing is communicated.
    """
    if mesh.size == 1:
        return denoise

    def apply(params: Params, *inputs: Array | Reference) -> Float[Array, "kept h w c"]:
        shared = all(x.shape[0] % mesh.size == 0 for x in jax.tree.leaves(inputs) if jnp.ndim(x))
        rows = PartitionSpec(devices.AXIS) if shared else PartitionSpec()
        specs = jax.tree.map(lambda x: rows if jnp.ndim(x) else PartitionSpec(), inputs)
        each = jax.shard_map(denoise, mesh=mesh, in_specs=(PartitionSpec(), *specs), out_specs=rows, check_vma=False)
        out: Array = each(params, *inputs)
        return out

    return apply


def diffusers_unet(config_json: str, dtype: DTypeLike) -> Apply:
    """Return diffusers 0.39's Flax UNet on the same parameters; its layout is NCHW.

    The result raises `InputError` for a guard with reference rows: this UNet's skip connections are out of reach.

    Raises:
        InputError: diffusers is missing, is a version without Flax, or its Flax UNet cannot be this model: it knows 32
            groups only, and no `num_attention_heads`.
    """
    try:
        from diffusers.models.unets.unet_2d_condition_flax import FlaxUNet2DConditionModel
        from diffusers.utils import logging
    except ImportError as error:
        todo = "install ine_jax[diffusers], or use 'native'"
        raise InputError(f"unet_impl 'diffusers': {error}", "diffusers 0.39, the last with Flax", todo) from error
    logging.set_verbosity_error()  # one deprecation line per module otherwise
    given = json.loads(config_json)
    for key, allowed in (("norm_num_groups", 32), ("num_attention_heads", None)):
        if given.get(key, allowed) != allowed:
            what = f"unet_impl 'diffusers' with {key} {given[key]}"
            raise InputError(what, f"{key} {allowed}", "use unet_impl 'native'")
    known = FlaxUNet2DConditionModel.__dataclass_fields__
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in known}
    unet = FlaxUNet2DConditionModel(**{**settings, "dtype": dtype})

    def apply(
        params: Params, latents: Latents, timesteps: PerItem, context: Rows, reference: Reference | None = None
    ) -> Float[Array, "kept h w c"]:
        if reference is not None:
            what = f"re-attention {reference.mode!r} with unet_impl 'diffusers'"
            raise InputError(what, "unet_impl 'native'", "use it, or reattention 'off'")
        planes = jnp.transpose(per_row(latents, context), (0, 3, 1, 2)).astype(dtype)
        out = unet.apply({"params": params}, planes, per_row(timesteps, context), context.astype(dtype)).sample
        return jnp.transpose(out, (0, 2, 3, 1)).astype(jnp.float32)

    return apply
