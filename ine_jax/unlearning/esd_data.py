"""What ESD and its relatives are trained on: trajectories of the original model with targets, and latents to preserve.

A trajectory visits the noisy latents x_t of a prompt under classifier-free guidance. The two predictions that guidance
needs, ε_0(x_t, ∅) and ε_0(x_t, c), are part of every target, so a trajectory yields the targets of all its steps at
little cost, and training needs no further call of the original model for them.

A target is a fixed affine combination of predictions at x_t with weights that sum to 1, so it holds for v as for ε.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

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
from ine_jax.types import Array, Context, HostContext, Latents, Params

Visited = Float[Array, "batch level h w c"]
Targets = Float[Array, "batch target level h w c"]
Others = Float[Array, "batch other token dim"]  # contexts whose predictions enter the targets, beside ∅ and the prompt
Weights = Float[Array, "target source"]  # of the predictions for ∅, the prompt and the others
Empty = Float[Array, "1 token dim"]  # context of the empty prompt
Scales = Float[Array, "batch"] | float  # guidance scale w of each trajectory
POOL_ROWS = 64  # trajectories per call


@runtime_checkable
class PoolSettings(Protocol):
    """Settings of a pool of trajectories."""

    @property
    def pool(self) -> int:
        """Number of trajectories."""

    @property
    def ddim_steps(self) -> int:
        """Noise levels of each."""

    @property
    def start_guidance(self) -> float:
        """Guidance scale."""

    @property
    def guidance_spread(self) -> float:
        """The scales lie evenly over start_guidance ± this."""

    @property
    def seed(self) -> int:
        """Trajectory i depends on (seed, i) alone."""


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


def erasure_weights(eta: float) -> np.ndarray:
    """ε_0(x_t, ∅) - η (ε_0(x_t, c) - ε_0(x_t, ∅)), eq. 7 of arXiv 2303.07345, where one other context replaces ∅.

    That context is what an erased prompt falls back to: the prompt without the concept (`EsdConfig.erase_from`), or ∅.
    """
    return np.asarray([[0.0, -eta, 1.0 + eta]], np.float32)


def trajectories(
    denoise: Denoiser,
    ddim: Ddim,
    tables: DdimTables,
    texts: Texts,
    noise: Latents,
    scale: Scales,
    others: Others,
    weights: Weights,
) -> tuple[Visited, Targets]:
    """Noisy latents [batch, S, h, w, c] and targets [batch, M, S, h, w, c] of a batch, from noise to clean.

    Row m of `weights` makes target m; the contexts `others` do not steer the trajectory.
    """
    guard = Cfg(scale)

    def body(latents: Array, row: tuple[Array, DdimTables]) -> tuple[Array, tuple[Array, Array]]:
        step, numbers = row
        eps = predict(denoise, guard, texts, latents, numbers.timestep, step)
        level, kind = ddim.level(numbers), ddim.noise.prediction_type
        at = Moment(step, numbers.timestep, latents, *level, len(tables.timestep), kind)
        guided, _ = guard.combine((), eps, at)
        following, _ = ddim.step((), latents, guided, numbers)
        times = jnp.full((latents.shape[0],), numbers.timestep)

        def add(total: Array, other: tuple[Array, Array]) -> tuple[Array, None]:
            context, weight = other
            return total + _outer(weight, denoise(latents, times, context).astype(jnp.float32)), None

        start = _outer(weights[:, 0], eps[:, 0]) + _outer(weights[:, 1], eps[:, 1])
        found, _ = jax.lax.scan(add, start, (jnp.swapaxes(others, 0, 1), weights[:, 2:].T))
        return following, (latents, found)

    start, _ = ddim.initial(noise, tables)
    _, visited = jax.lax.scan(body, start, (jnp.arange(len(tables.timestep)), tables))
    return jnp.swapaxes(visited[0], 0, 1), jnp.moveaxis(visited[1], 0, 2)


def _outer(weight: Float[Array, "target"], eps: Float[Array, "batch h w c"]) -> Float[Array, "batch target h w c"]:
    return weight[None, :, None, None, None] * eps[:, None]


def build_pool(pipe: Pipeline, config: EsdConfig, contexts: Context, empty: Empty) -> Pool:
    """`config.pool` trajectories with ESD's target, the prompts in turn.

    `contexts` [E, T, D] are those of the erased prompts, `empty` [1, T, D] that of the empty one.
    """
    prompt = np.arange(config.pool, dtype=np.int32) % len(contexts)
    origin = pipe.encode(list(config.erase_from) or [""] * len(contexts))[prompt]
    latents, targets, timesteps = visit(
        pipe, config, np.asarray(contexts)[prompt], empty, origin[:, None], erasure_weights(config.eta)
    )
    return Pool(latents, targets[:, 0], timesteps, jnp.asarray(prompt))


def visit(
    pipe: Pipeline,
    settings: PoolSettings,
    prompts: HostContext,
    empty: Empty,
    others: Float[np.ndarray, "batch other token dim"],
    weights: Float[np.ndarray, "target source"],
    stream: int = 2**31 - 1,
) -> tuple[Visited, Targets, Float[Array, "level"]]:
    """`settings.pool` trajectories of the pipeline: latents, targets and timesteps.

    `prompts` and `others` hold the contexts of each trajectory; pools of one seed and several streams are independent.
    """
    ddim = ddim_of(pipe)
    tables, made = jax.device_put((ddim.tables(settings.ddim_steps), jnp.asarray(weights)), pipe.programs.replicated())
    walk = _walk(pipe.parts.unet_config, pipe.dtype, pipe.programs.mesh, ddim)
    params, rows = pipe.parts.unet_params, pipe.rows(min(settings.pool, POOL_ROWS))
    inputs = [prompts, others, pool_noise(pipe, settings, stream), pool_scales(settings)]
    both = pipe.programs.batched(lambda *items: walk(params, tables, empty, made, *items), inputs, rows)
    return jnp.asarray(both[:, 0]), jnp.asarray(both[:, 1:]), jnp.asarray(tables.timestep)


@functools.lru_cache(maxsize=8)
def _walk(config: UNetConfig, dtype: DTypeLike, mesh: Mesh, ddim: Ddim) -> Callable[..., Array]:
    """`trajectories` of one model shape, compiled: latents and targets stacked, [batch, 1 + M, S, h, w, c]."""
    unet = on_own_rows(native_unet(config, dtype, platform_of(mesh)), mesh)

    @jax.jit
    def walk(
        params: Params,
        tables: DdimTables,
        empty: Empty,
        weights: Weights,
        prompt: Context,
        others: Others,
        noise: Latents,
        scale: Float[Array, "batch"],
    ) -> Array:
        texts = Texts(prompt=prompt, uncond=jnp.broadcast_to(empty, prompt.shape))
        denoise = functools.partial(unet, params)
        latents, targets = trajectories(denoise, ddim, tables, texts, noise, scale, others, weights)
        return jnp.concatenate([latents[:, None], targets], 1)

    return walk


def pool_scales(config: PoolSettings) -> np.ndarray:
    """Guidance scale of each trajectory, float32 [pool].

    The order is the golden ratio's, so that every prompt meets the whole range. The edited model predicts about
    ε_0(∅) - η (ε_0(c) - ε_0(∅)), so its own trajectories at scale w are those of the original model at -η w.
    """
    place: np.ndarray = np.arange(config.pool) * (np.sqrt(5) - 1) / 2 % 1.0
    return (config.start_guidance + config.guidance_spread * (2 * place - 1)).astype(np.float32)


def pool_noise(pipe: Pipeline, config: PoolSettings, stream: int = 2**31 - 1) -> np.ndarray:
    """Unit noise [pool, h, w, c]; row i depends on (seed, stream, i) alone."""
    key, shape = jax.random.fold_in(jax.random.key(config.seed), stream), latent_shape(pipe)
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
        guidance=config.start_guidance + config.guidance_spread,
        seeds=seeds,
        steps=config.ddim_steps,
        batch_size=min(config.pool, POOL_ROWS),
        output="latents",
    ).latents
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
