"""Erased Stable Diffusion (arXiv 2303.07345): train a UNet to answer a prompt with its opposite.

    ε_θ(x_t, c)  ←  ε_0(x_t, ∅) - η (ε_0(x_t, c) - ε_0(x_t, ∅))

ε_0 is the original model, frozen; x_t lies on its trajectories for c. For a prompt that holds more than the concept,
the prompt without it stands in for ∅ (`erase_from`), so that the rest of the scene is not erased with it.

An addition of this project, off unless `preserve_weight` is set, is the *benign preservation term*: on noised benign
latents and benign captions ε_θ is held to ε_0, which spares the words that plain ESD damages beside the erased ones.

Written into the directory: unet.safetensors (only the changed weights, in ESD's published layout), log.jsonl,
timing.jsonl, config.json, checkpoints/.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from ine_jax.config import EsdConfig
from ine_jax.errors import InputError
from ine_jax.models.checkpoints.delta import write_unet_delta
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.mesh import platform_of, spread
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import native_unet
from ine_jax.schedulers import NoiseConfig, add_noise, alphas_cumprod
from ine_jax.storage.provenance import canonical
from ine_jax.training import loop
from ine_jax.training.checkpoint import content_hash
from ine_jax.types import Array, Params
from ine_jax.unlearning.esd_data import Kept, Pool, build_pool, drawn_latents, encoded_images
from ine_jax.unlearning.layers import merged, trained
from ine_jax.unlearning.prompts import with_prompts

__all__ = ["WEIGHTS", "EsdConfig", "erase"]

WEIGHTS = "unet.safetensors"
TAIL_RATE = 0.3
# Fields that do not change what a given number of steps computes.
IDLE_FIELDS = ("save_every", "prompts_file")


class Numbers(NamedTuple):
    """Numbers of the config as leaves, so that a sweep over them compiles nothing."""

    rate: Array
    warmup: Array  # steps
    tail_start: Array  # first step of the last ones, at a smaller rate
    weight: Array  # of the preservation term


class Data(NamedTuple):
    """What a step draws from; contexts are [prompts, T, D]."""

    pool: Pool
    kept: Kept | None
    erased: Array  # contexts of the erased prompts
    benign: Array  # contexts of the preserved prompts, the empty one last
    seed: Array  # uint32
    numbers: Numbers


class Rows(NamedTuple):
    """Rows of one network call."""

    latents: Array  # x_t, [B, h, w, c]
    timesteps: Array  # float32 [B]
    context: Array  # [B, T, D]


def erase(
    pipe: Pipeline,
    config: EsdConfig,
    directory: Path | str,
    progress: loop.Progress | None = None,
    preserve_images: np.ndarray | None = None,
    preserve_captions: Sequence[int] | None = None,
) -> Params:
    """Train, write the changed weights and return the UNet's new parameters; `pipe` itself stays as it is.

    Args:
        pipe: the original model.
        config: what to erase, what to preserve, and how.
        directory: continued where it already holds a part of this very run.
        progress: shown after each step.
        preserve_images: uint8 [M, H, W, 3], noised for the preservation term; without them the original model draws
            images of the preserved prompts.
        preserve_captions: for each image the index of its prompt in `config.preserve`; without them every image may
            meet every prompt (the target is the original model's answer, so the pair need not be true).

    Raises:
        InputError: prompts, images or the directory do not fit.
        NumericalError: the loss stayed non-finite.
        Interrupted: asked to stop; calling again continues.
    """
    config = with_prompts(config)
    _check(config, preserve_images, preserve_captions)
    folder, programs = Path(directory), pipe.programs
    origin = {"model": pipe.name, "model_id": pipe.model_id}
    if preserve_images is not None:
        origin["preserve_sha256"] = content_hash(
            {"images": preserve_images, "captions": np.asarray(preserve_captions or ())}
        )
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in IDLE_FIELDS}
    weights = trained(pipe.parts.unet_params, config.method)
    state = {"weights": weights, "optimizer": ADAM.init(weights)}
    data = jax.device_put(_data(pipe, config, preserve_images, preserve_captions), programs.replicated())
    step, base = compiled_step(pipe, config), pipe.parts.unet_params
    final = loop.run(
        lambda now, i: step(base, data, now, i),
        jax.device_put(state, programs.replicated()),
        steps=config.steps,
        directory=folder,
        save_every=config.save_every,
        config={**origin, "esd": settings},
        log_every=config.log_every,
        progress=progress,
    )
    params = merged(base, final["weights"])
    if jax.process_index() == 0:
        notes = {"method": config.method, "config": canonical(dataclasses.asdict(config)), **origin}
        write_unet_delta(params, base, folder / WEIGHTS, {key: str(value) for key, value in notes.items()})
    return params


ADAM = optax.scale_by_adam()  # the rate is applied in the step


def rate_at(numbers: Numbers, step: Any) -> Array:
    """Adam's step size at `step`: it rises over the warm-up and is 0.3 of itself from the tail's start on."""
    rising = jnp.minimum(1.0, (step + 1) / jnp.maximum(1, numbers.warmup))
    return numbers.rate * rising * jnp.where(step >= numbers.tail_start, TAIL_RATE, 1.0)


def numbers_of(config: EsdConfig) -> Numbers:
    """The config's numbers as arrays."""
    tail_start = round(config.steps * (1.0 - config.tail))
    floats = jnp.float32(config.learning_rate), jnp.float32(config.preserve_weight)
    return Numbers(floats[0], jnp.int32(config.warmup), jnp.int32(tail_start), floats[1])


def draw_erased(data: Data, key: Array, batch: int) -> tuple[Rows, Array]:
    """Points on the trajectories (trajectory and noise level uniform) and their erasure targets [B, h, w, c]."""
    which, level = jax.random.split(key)
    i = jax.random.randint(which, (batch,), 0, data.pool.latents.shape[0])
    s = jax.random.randint(level, (batch,), 0, data.pool.latents.shape[1])
    context = data.erased[data.pool.prompt[i]]
    return Rows(data.pool.latents[i, s], data.pool.timesteps[s], context), data.pool.targets[i, s]


def draw_kept(data: Data, key: Array, batch: int, alphas: np.ndarray, scaling_factor: float) -> Rows:
    """Benign latents noised to a uniform level; the first row's caption is the empty one."""
    assert data.kept is not None  # noqa: S101  asked for only with a preservation term
    keys = jax.random.split(key, 5)
    i = jax.random.randint(keys[0], (batch,), 0, data.kept.mean.shape[0])
    mean, logvar = data.kept.mean[i], data.kept.logvar[i]
    clean = scaling_factor * (mean + jnp.exp(0.5 * logvar) * jax.random.normal(keys[1], mean.shape))
    t = jax.random.randint(keys[2], (batch,), 0, len(alphas))
    noisy = add_noise(clean, jax.random.normal(keys[3], mean.shape), t, alphas)
    own = data.kept.caption[i]
    free = jax.random.randint(keys[4], (batch,), 0, data.benign.shape[0] - 1)
    caption = jnp.where(own < 0, free, own).at[0].set(data.benign.shape[0] - 1)
    return Rows(noisy, t.astype(jnp.float32), data.benign[caption])


class Recipe(NamedTuple):
    """All that the compiled step depends on beside its arguments."""

    unet: UNetConfig
    noise: NoiseConfig
    scaling_factor: float
    dtype: Any
    mesh: Mesh
    batch: int
    preserve_batch: int  # 0: no preservation term


def compiled_step(pipe: Pipeline, config: EsdConfig) -> Callable[..., Any]:
    """The jitted step (original params, data, state, i) -> (state, metrics); the state is donated.

    Runs over models of one shape share it, whatever their prompts, seed, rates and weights are.
    """
    shape = (pipe.parts.unet_config, pipe.scheduler.noise, pipe.parts.vae_config.scaling_factor, pipe.dtype)
    kept = config.preserve_batch if config.preserve_weight else 0
    return _jitted(Recipe(*shape, pipe.programs.mesh, config.batch, kept))


@functools.lru_cache(maxsize=8)
def _jitted(recipe: Recipe) -> Callable[..., Any]:
    return jax.jit(make_step(recipe), donate_argnums=2)


def make_step(recipe: Recipe) -> Callable[..., Any]:
    """The pure training step, not yet compiled.

    Erased and preserved rows go through the trained network in one call; the original one sees the preserved rows only.
    """
    unet, alphas = native_unet(recipe.unet, recipe.dtype, platform_of(recipe.mesh)), alphas_cumprod(recipe.noise)

    def placed(x: Array) -> Array:
        return jax.lax.with_sharding_constraint(x, spread(recipe.mesh, x.shape[0]))

    def step(base: Params, data: Data, state: Any, i: Any) -> tuple[Any, dict[str, Array]]:
        first, second = jax.random.split(jax.random.fold_in(jax.random.key(data.seed), i))
        rows, wanted = draw_erased(data, first, recipe.batch)
        if recipe.preserve_batch:
            kept = draw_kept(data, second, recipe.preserve_batch, alphas, recipe.scaling_factor)
            answer = unet(base, *map(placed, kept))
            rows = Rows(*(jnp.concatenate(pair) for pair in zip(rows, kept, strict=True)))
            wanted = jnp.concatenate([wanted, answer])
        rows, wanted = Rows(*map(placed, rows)), placed(wanted)

        def loss(weights: Any) -> tuple[Array, dict[str, Array]]:
            errors = jnp.mean(jnp.square(unet(merged(base, weights), *rows) - wanted), axis=(1, 2, 3))
            forget = errors[: recipe.batch].mean()
            if not recipe.preserve_batch:
                return forget, {"loss": forget}
            keep = errors[recipe.batch :].mean()
            total = forget + data.numbers.weight * keep
            return total, {"loss": total, "erase": forget, "preserve": keep}

        gradient, metrics = jax.grad(loss, has_aux=True)(state["weights"])
        direction, memory = ADAM.update(gradient, state["optimizer"])
        rate = rate_at(data.numbers, i)
        weights = jax.tree.map(lambda weight, move: weight - rate * move, state["weights"], direction)
        return {"weights": weights, "optimizer": memory}, metrics

    return step


def _data(pipe: Pipeline, config: EsdConfig, images: np.ndarray | None, captions: Sequence[int] | None) -> Data:
    erased, empty = jnp.asarray(pipe.encode(list(config.erase))), jnp.asarray(pipe.encode([""]))
    pool, seed = build_pool(pipe, config, erased, empty), jnp.uint32(config.seed)
    if not config.preserve_weight:
        return Data(pool, None, erased, empty, seed, numbers_of(config))
    benign = jnp.concatenate([jnp.asarray(pipe.encode(list(config.preserve))), empty])
    kept = drawn_latents(pipe, config) if images is None else encoded_images(pipe, images, captions)
    return Data(pool, kept, erased, benign, seed, numbers_of(config))


def _check(config: EsdConfig, images: np.ndarray | None, captions: Sequence[int] | None) -> None:
    if not config.erase:
        raise InputError("no prompt to erase", "at least one", "name prompts of the concept in erase")
    if images is None:
        return
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise InputError(
            f"preserve_images {images.dtype} {images.shape}", "uint8 [M, H, W, 3], M at least 1", "convert them"
        )
    if captions is not None and (
        len(captions) != len(images) or not all(0 <= index < len(config.preserve) for index in captions)
    ):
        given = f"{len(captions)} captions of {len(images)} images"
        raise InputError(given, f"for each image an index below {len(config.preserve)}", "mend preserve_captions")
