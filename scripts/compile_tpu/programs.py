"""The programs of a full-size Stable Diffusion 1.x model in bfloat16, lowered for a mesh from shapes alone."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ine_jax.guidance import Cfg, Texts
from ine_jax.inversion.objective import Data
from ine_jax.inversion.step import Frozen, InversionObjective
from ine_jax.models.attention import attention
from ine_jax.models.clip import ClipText, ClipTextConfig
from ine_jax.models.unet import UNet, UNetConfig
from ine_jax.models.vae import Vae, VaeConfig
from ine_jax.pipeline.mesh import AXIS, replicated, spread
from ine_jax.pipeline.programs import build
from ine_jax.schedulers import Ddim, NoiseConfig
from ine_jax.training.step import TrainState, compiled_step, optimizer
from ine_jax.types import Params

TEXT, UNET, VAE = ClipTextConfig(), UNetConfig(), VaeConfig()
TOKENS, STEPS = 77, 50
IMAGES, TEMPLATES = 100, 27  # of a concept
NOISE = NoiseConfig(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", offset=1)
Lower: TypeAlias = Callable[[Mesh, int], jax.stages.Lowered]


def shapes(init: Callable[[], Any], mesh: Mesh, dtype: Any = jnp.bfloat16) -> Params:
    """Return the parameters of a network as shapes, a copy on every device."""
    with jax.numpy_dtype_promotion("standard"):
        found = jax.eval_shape(init)["params"]
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=replicated(mesh)), found)


def unet_params(mesh: Mesh) -> Params:
    """Return the UNet's parameters."""
    example = jnp.zeros((1, 64, 64, 4)), jnp.zeros((1,)), jnp.zeros((1, TOKENS, TEXT.hidden_size))
    return shapes(lambda: UNet(UNET).init(jax.random.key(0), *example), mesh)


def text_params(mesh: Mesh, dtype: Any = jnp.bfloat16) -> Params:
    """Return the text encoder's parameters."""
    ids = jnp.zeros((1, TOKENS), jnp.int32)
    return shapes(lambda: ClipText(TEXT).init(jax.random.key(0), ids), mesh, dtype)


def array(mesh: Mesh, shape: Sequence[int], dtype: Any = jnp.float32, rows: bool = True) -> jax.ShapeDtypeStruct:
    """Return an array's shape, its first axis over the devices or a copy on each."""
    layout = spread(mesh) if rows else replicated(mesh)
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=layout)


def sampler(mesh: Mesh, rows: int, steps: int) -> jax.stages.Lowered:
    """Lower sampling with classifier-free guidance: two rows of the network per image."""
    batch = mesh.size * rows // 2
    programs = build(TEXT, UNET, VAE, jnp.dtype(jnp.bfloat16), mesh)
    context = array(mesh, (batch, TOKENS, TEXT.hidden_size))
    texts = Texts(prompt=context, uncond=context, negative=context)  # type: ignore[arg-type]
    ddim, guard = Ddim(NOISE), Cfg(np.array(7.5, np.float32))
    tables = jax.tree.map(lambda x: array(mesh, x.shape, x.dtype, rows=False), ddim.tables(steps))
    noise = array(mesh, (batch, 64, 64, 4))
    lowered: jax.stages.Lowered = programs.sample.lower(unet_params(mesh), ddim, tables, guard, texts, noise)  # type: ignore[attr-defined]
    return lowered


def decoder(mesh: Mesh, rows: int) -> jax.stages.Lowered:
    """Lower the decoder: latents to uint8 images."""
    image = jnp.zeros((1, 64, 64, 3))
    params = shapes(lambda: Vae(VAE).init(jax.random.key(0), image), mesh)
    programs = build(TEXT, UNET, VAE, jnp.dtype(jnp.bfloat16), mesh)
    latents = array(mesh, (mesh.size * rows, 64, 64, 4))
    lowered: jax.stages.Lowered = programs.decode.lower(params, latents)  # type: ignore[attr-defined]
    return lowered


def encoder(mesh: Mesh, rows: int) -> jax.stages.Lowered:
    """Lower the text encoder."""
    programs = build(TEXT, UNET, VAE, jnp.dtype(jnp.bfloat16), mesh)
    ids = array(mesh, (mesh.size * rows, TOKENS), jnp.int32)
    learned = array(mesh, (1, TEXT.hidden_size), rows=False)
    lowered: jax.stages.Lowered = programs.encode.lower(text_params(mesh), ids, learned)  # type: ignore[attr-defined]
    return lowered


def inversion(mesh: Mesh, rows: int) -> jax.stages.Lowered:
    """Lower a step of inversion for one concept of one token, with its images' latents on every device."""
    objective = InversionObjective(
        text=TEXT,
        unet=UNET,
        noise=NOISE,
        scaling_factor=VAE.scaling_factor,
        dtype=jnp.bfloat16,
        mesh=mesh,
        space="token",
        batch=mesh.size * rows,
        concepts=1,
    )
    same = functools.partial(array, mesh, rows=False)
    images = same((IMAGES, 64, 64, 4))
    one = same((1,), jnp.int32)
    ids = same((TEMPLATES, TOKENS), jnp.int32)
    values: list[Any] = [images, images, one, one, same((1,), jnp.uint32), one, ids, None]
    data = Data(*values)
    frozen = Frozen(text_params(mesh, jnp.float32), unet_params(mesh))
    vectors = same((1, 1, TEXT.hidden_size))
    with jax.numpy_dtype_promotion("standard"):
        memory = jax.eval_shape(optimizer(objective, 5e-3).init, vectors)
    state = jax.tree.map(lambda x: same(x.shape, x.dtype), TrainState(vectors, memory))
    step: Any = compiled_step(objective)
    lowered: jax.stages.Lowered = step.lower(frozen, data, state, 0)
    return lowered


def attend(mesh: Mesh, rows: int, shape: tuple[int, int, int], platform: str) -> jax.stages.Lowered:
    """Lower one layer's self-attention of [tokens, heads, head size], as on a platform."""
    each = array(mesh, (mesh.size * rows, *shape), jnp.bfloat16)

    def own(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attention(query, key, value, platform=platform)

    split = jax.shard_map(own, mesh=mesh, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(AXIS), check_vma=False)
    return jax.jit(split).lower(each, each, each)


ATTENTION = {
    f"{' × '.join(map(str, shape))}, {name}": functools.partial(attend, shape=shape, platform=platform)
    for shape in ((4096, 8, 40), (1024, 8, 80), (4096, 1, 512))
    for name, platform in (("plain", "none"), ("flash", "tpu"))
}
PROGRAMS: dict[str, Lower] = {
    "sampler step": functools.partial(sampler, steps=1),
    "sampler loop": functools.partial(sampler, steps=STEPS),
    "decoder": decoder,
    "text encoder": encoder,
    "inversion step": inversion,
    **ATTENTION,
}
