"""What ESD is trained on: trajectories of the original model with their erasure targets, and latents to preserve.

A trajectory visits the noisy latents x_t of a prompt under classifier-free guidance. The two predictions that guidance
needs, ε_0(x_t, ∅) and ε_0(x_t, c), are the very ones of the erasure target, so a trajectory yields the targets of all
its steps at no cost, and training needs no further call of the original model for them.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from ine_jax.config import EsdConfig
from ine_jax.guidance.base import Moment, Texts
from ine_jax.guidance.cfg import Cfg
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.mesh import platform_of
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import native_unet, on_own_rows
from ine_jax.pipeline.sampling import Denoiser, predict
from ine_jax.schedulers import Ddim, from_config
from ine_jax.schedulers.ddim import DdimTables
from ine_jax.types import Array, Context, Latents, Params

Prediction = Float[Array, "batch h w c"]
Visited = Float[Array, "batch level h w c"]
Empty = Float[Array, "1 token dim"]  # context of the empty prompt
Scales = Float[Array, "batch"] | float  # guidance scale w of each trajectory


class Pool(NamedTuple):
    """Trajectories of the original model: N of them, S noise levels each."""

    latents: Float[Array, "trajectory level h w c"]  # x_t
    targets: Float[Array, "trajectory level h w c"]
    timesteps: Float[Array, "level"]
    prompt: Int[Array, "trajectory"]  # which erased prompt


class Kept(NamedTuple):
    """Benign latents as posteriors, and the caption of each."""

    mean: Float[Array, "image h w c"]  # unscaled
    logvar: Float[Array, "image h w c"]
    caption: Int[Array, "image"]  # index into the preserved prompts; -1: any of them


def target(uncond: Prediction, prompt: Prediction, eta: float | Array) -> Prediction:
    """ε_0(x_t, ∅) - η (ε_0(x_t, c) - ε_0(x_t, ∅)), eq. 7 of arXiv 2303.07345.

    Where the prompt holds more than the concept, ∅ is the prompt without it (`EsdConfig.erase_from`).
    A fixed affine combination with weights that sum to 1, so it holds for v as for ε.
    """
    return uncond - eta * (prompt - uncond)


def trajectories(
    denoise: Denoiser, ddim: Ddim, tables: DdimTables, texts: Texts, noise: Latents, scale: Scales, eta: float | Array
) -> tuple[Visited, Visited]:
    """Noisy latents and erasure targets of a batch, each [batch, S, h, w, c], from noise to clean.

    `texts.negative`, where given, holds what the erased prompts fall back to; it does not steer the trajectory.
    """
    guard, origin = Cfg(scale), texts.negative
    texts = dataclasses.replace(texts, negative=None)

    def body(latents: Array, row: tuple[Array, DdimTables]) -> tuple[Array, tuple[Array, Array]]:
        step, numbers = row
        eps = predict(denoise, guard, texts, latents, numbers.timestep, step)
        level, kind = ddim.level(numbers), ddim.noise.prediction_type
        at = Moment(step, numbers.timestep, latents, *level, len(tables.timestep), kind)
        guided, _ = guard.combine((), eps, at)
        following, _ = ddim.step((), latents, guided, numbers)
        rest = eps[:, 0]
        if origin is not None:
            times = jnp.full((latents.shape[0],), numbers.timestep)
            rest = denoise(latents, times, origin).astype(jnp.float32)
        return following, (latents, target(rest, eps[:, 1], eta))

    start, _ = ddim.initial(noise, tables)
    _, visited = jax.lax.scan(body, start, (jnp.arange(len(tables.timestep)), tables))
    return jnp.swapaxes(visited[0], 0, 1), jnp.swapaxes(visited[1], 0, 1)


def build_pool(pipe: Pipeline, config: EsdConfig, contexts: Context, empty: Empty) -> Pool:
    """`config.pool` trajectories, the prompts in turn; trajectory i depends on (seed, i) alone.

    `contexts` [E, T, D] are those of the erased prompts, `empty` [1, T, D] that of the empty one.
    """
    ddim = ddim_of(pipe)
    tables = jax.device_put(ddim.tables(config.ddim_steps), pipe.programs.replicated())
    prompt = np.arange(config.pool, dtype=np.int32) % len(contexts)
    walk = _walk(pipe.parts.unet_config, pipe.dtype, pipe.programs.mesh, ddim)
    params, eta, rows = pipe.parts.unet_params, jnp.float32(config.eta), pipe.rows(min(config.pool, POOL_ROWS))
    origin = pipe.encode(list(config.erase_from) or [""] * len(contexts))
    inputs = [np.asarray(contexts)[prompt], origin[prompt], pool_noise(pipe, config), pool_scales(config)]
    both = pipe.programs.batched(lambda *items: walk(params, tables, empty, eta, *items), inputs, rows)
    return Pool(*map(jnp.asarray, (both[:, 0], both[:, 1], tables.timestep, prompt)))


POOL_ROWS = 64  # trajectories per call


@functools.lru_cache(maxsize=8)
def _walk(config: UNetConfig, dtype: DTypeLike, mesh: Mesh, ddim: Ddim) -> Callable[..., Array]:
    """`trajectories` of one model shape, compiled: latents and targets stacked, [batch, 2, S, h, w, c]."""
    unet = on_own_rows(native_unet(config, dtype, platform_of(mesh)), mesh)

    @jax.jit
    def walk(
        params: Params,
        tables: DdimTables,
        empty: Empty,
        eta: Array,
        prompt: Context,
        origin: Context,
        noise: Latents,
        scale: Float[Array, "batch"],
    ) -> Array:
        texts = Texts(prompt=prompt, uncond=jnp.broadcast_to(empty, prompt.shape), negative=origin)
        return jnp.stack(trajectories(functools.partial(unet, params), ddim, tables, texts, noise, scale, eta), 1)

    return walk


def pool_scales(config: EsdConfig) -> np.ndarray:
    """Guidance scale of each trajectory, float32 [pool].

    The order is the golden ratio's, so that every prompt meets the whole range. The edited model predicts about
    ε_0(∅) - η (ε_0(c) - ε_0(∅)), so its own trajectories at scale w are those of the original model at -η w.
    """
    place: np.ndarray = np.arange(config.pool) * (np.sqrt(5) - 1) / 2 % 1.0
    return (config.start_guidance + config.guidance_spread * (2 * place - 1)).astype(np.float32)


def pool_noise(pipe: Pipeline, config: EsdConfig) -> np.ndarray:
    """Unit noise [pool, h, w, c]; row i depends on (seed, i) alone."""
    key, shape = jax.random.fold_in(jax.random.key(config.seed), 2**31 - 1), latent_shape(pipe)
    sample = jax.jit(jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape)))
    return np.asarray(sample(jnp.arange(config.pool)))


def encoded_images(pipe: Pipeline, images: np.ndarray, captions: Sequence[int] | None) -> Kept:
    """Posteriors of given images (uint8 [M, H, W, 3]); without captions each may meet any preserved prompt."""
    mean, logvar = pipe.encode_images(images)
    caption = np.full(len(images), -1) if captions is None else np.asarray(captions)
    return Kept(jnp.asarray(mean), jnp.asarray(logvar), jnp.asarray(caption, jnp.int32))


def generated_latents(pipe: Pipeline, config: EsdConfig) -> Kept:
    """Latents that the original model generates for the preserved prompts in turn, as many as the pool is large."""
    caption = np.arange(config.pool, dtype=np.int32) % len(config.preserve)
    prompts = [config.preserve[i] for i in caption]
    seeds = [config.seed * 1_000_003 % 2**31 + i for i in range(len(prompts))]
    latents = pipe(
        prompts,
        guidance=Cfg(config.start_guidance + config.guidance_spread),
        seeds=seeds,
        steps=config.ddim_steps,
        batch_size=min(config.pool, POOL_ROWS),
        output="latents",
    )
    mean = jnp.asarray(latents, jnp.float32) / pipe.parts.vae_config.scaling_factor
    return Kept(mean, jnp.full_like(mean, -60.0), jnp.asarray(caption))  # exp(-30): a point, not a spread


def ddim_of(pipe: Pipeline) -> Ddim:
    """The DDIM sampler over the model's own noise levels."""
    ddim = from_config(pipe.parts.scheduler_config, "ddim")
    assert isinstance(ddim, Ddim)  # noqa: S101  what the name means
    return ddim


def latent_shape(pipe: Pipeline) -> tuple[int, int, int]:
    """Height, width and channels of the UNet's latents."""
    unet = pipe.parts.unet_config
    return unet.sample_size, unet.sample_size, unet.in_channels
