"""Erased Stable Diffusion (arXiv 2303.07345): train a UNet to answer a prompt with its opposite.

    ε_θ(x_t, c)  ←  ε_0(x_t, ∅) - η (ε_0(x_t, c) - ε_0(x_t, ∅))

ε_0 is the original model, frozen; x_t lies on its trajectories for c. For a prompt that holds more than the concept,
the prompt without it replaces ∅ (`erase_from`), so that the rest of the scene is not erased with it.

An addition of this project, off unless `preserve_weight` is set, is the *benign preservation term*: on noised benign
latents and benign captions ε_θ is held to ε_0, which spares the words that plain ESD damages beside the erased ones.

Written into the directory: unet.safetensors (only the changed weights, in ESD's published layout), log.jsonl,
timing.jsonl, config.json, checkpoints/, and the hashes of all.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Float, Int, UInt32

from ine_jax.config import EsdConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.mesh import across, platform_of
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import native_unet
from ine_jax.schedulers import NoiseConfig, add_noise, alphas_cumprod
from ine_jax.training import loop
from ine_jax.training.checkpoint import content_hash
from ine_jax.training.rows import ALL, Share, normal_rows
from ine_jax.training.step import Metrics
from ine_jax.types import Array, Context, Latents, Params, PerItem
from ine_jax.unlearning.esd_data import Kept, Pool, build_pool, encoded_images, generated_latents
from ine_jax.unlearning.layers import Trained, merged, trained
from ine_jax.unlearning.prompts import with_prompts
from ine_jax.unlearning.result import Result, origin_of, write
from ine_jax.unlearning.run import Unconstrained, binding, optimize

__all__ = ["EsdConfig", "erase"]

TAIL_RATE = 0.3
# Fields that do not change what a given number of steps computes.
IDLE_FIELDS = ("save_every", "prompts_file")


class Data(NamedTuple):
    """What a step samples from."""

    pool: Pool
    kept: Kept | None
    erased: Float[Array, "prompt token dim"]  # contexts of the erased prompts
    benign: Float[Array, "kept_prompt token dim"]  # contexts of the preserved prompts, the empty one last
    seed: UInt32[Array, ""]
    weight: Float[Array, ""]  # of the preservation term


class Rows(NamedTuple):
    """Rows of one network call."""

    latents: Latents  # x_t
    timesteps: PerItem
    context: Context


def erase(
    pipe: Pipeline,
    config: EsdConfig,
    directory: Path | str,
    progress: loop.Progress | None = None,
    preserve_images: np.ndarray | None = None,
    preserve_captions: Sequence[int] | None = None,
    embeddings: Sequence[Embedding] = (),
) -> Result:
    """Train, write the changed weights and return the result; `pipe` itself stays as it is.

    Args:
        directory: continued where it already holds a part of this very run.
        preserve_images: uint8 [M, H, W, 3], noised for the preservation term; without them the original model
            generates images of the preserved prompts.
        preserve_captions: for each image the index of its prompt in `config.preserve`; without them every image may
            meet every prompt (the target is the original model's answer, so the pair need not be true).
        embeddings: learned embeddings whose tokens the erased prompts use.

    Raises:
        InputError: prompts, images or the directory do not fit.
        NumericalError: the loss stayed non-finite.
        Interrupted: asked to stop; calling again continues.
    """
    config = with_prompts(config)
    _check(config, preserve_images, preserve_captions)
    origin = origin_of(pipe)
    if preserve_images is not None:
        given = {"images": preserve_images, "captions": np.asarray(preserve_captions or ())}
        origin["preserve_sha256"] = content_hash(given)
    erased, empty = jnp.asarray(pipe.encode(list(config.erase), embeddings)), jnp.asarray(pipe.encode([""]))

    def data() -> Data:
        pool = build_pool(pipe, config, erased, empty)
        return with_kept(pipe, config, pool, erased, preserve_images, preserve_captions)

    if embeddings:
        origin["embeddings_sha256"] = content_hash({each.token: np.asarray(each.vectors) for each in embeddings})
    notes = {"method": config.method, "config": dataclasses.asdict(config), **origin}
    return train(pipe, config, data, Path(directory), {**origin, "esd": binding(config, IDLE_FIELDS)}, notes, progress)


def train(
    pipe: Pipeline,
    config: EsdConfig,
    data: Callable[[], Data],
    folder: Path,
    bound: Mapping[str, object],
    notes: Mapping[str, object],
    progress: loop.Progress | None,
    beside: Sequence[Path] = (),
) -> Result:
    """Train the layers of `config.method` on `data`, which is made when a step is due, and write the changed weights.

    `bound` is what the directory is bound to, `notes` go into the header of the weights; `beside` are further files of
    the run, whose hashes are recorded too.
    """
    base = pipe.parts.unet_params

    def finish(found: Trained) -> Result:
        return write(pipe, merged(base, found), folder, notes, beside)

    start = trained(base, config.method)
    return optimize(esd_objective(pipe, config), start, base, data, config, folder, bound, progress, finish)


def sample_erased(data: Data, key: Array, batch: int, share: Share = ALL) -> tuple[Rows, Latents]:
    """Points on the trajectories (trajectory and noise level uniform) and their erasure targets [B, h, w, c].

    Of the `batch` points, those in `share`.
    """
    which, level = jax.random.split(key)
    rows, _ = share.rows(batch)
    i = jax.random.randint(which, (batch,), 0, data.pool.latents.shape[0])[rows]
    s = jax.random.randint(level, (batch,), 0, data.pool.latents.shape[1])[rows]
    context = data.erased[data.pool.prompt[i]]
    return Rows(data.pool.latents[i, s], data.pool.timesteps[s], context), data.pool.targets[i, s]


def sample_kept(
    data: Data, key: Array, batch: int, alphas: np.ndarray, scaling_factor: float, share: Share = ALL
) -> Rows:
    """Benign latents noised to a uniform level, those rows in `share`; the first row's caption is the empty one."""
    assert data.kept is not None  # noqa: S101  called only with a preservation term
    keys = jax.random.split(key, 5)
    rows, _ = share.rows(batch)
    i = jax.random.randint(keys[0], (batch,), 0, data.kept.mean.shape[0])[rows]
    mean, logvar = data.kept.mean[i], data.kept.logvar[i]
    clean = scaling_factor * (mean + jnp.exp(0.5 * logvar) * normal_rows(keys[1], rows, mean.shape[1:]))
    t = jax.random.randint(keys[2], (batch,), 0, len(alphas))[rows]
    noisy = add_noise(clean, normal_rows(keys[3], rows, mean.shape[1:]), t, alphas)
    own = data.kept.caption[i]
    free = jax.random.randint(keys[4], (batch,), 0, data.benign.shape[0] - 1)[rows]
    caption = jnp.where(rows == 0, data.benign.shape[0] - 1, jnp.where(own < 0, free, own))
    return Rows(noisy, t.astype(jnp.float32), data.benign[caption])


@dataclass(frozen=True)
class EsdObjective(Unconstrained):
    """ESD's loss with the preservation term. Runs over models of one shape share its compiled step, whatever their
    prompts, seed, rate and weight are.
    """

    unet: UNetConfig
    noise: NoiseConfig
    scaling_factor: float
    dtype: DTypeLike
    mesh: Mesh
    batch: int
    preserve_batch: int  # 0: no preservation term
    warmup: int  # steps
    tail_start: int | None  # first step at TAIL_RATE of the rate

    def loss(
        self, weights: Trained, base: Params, data: Data, i: Int[Array, ""], share: Share
    ) -> tuple[Array, Metrics]:
        """mean ||ε_θ(x_t, c) - target||² over erased rows, plus weight · mean ||ε_θ - ε_0||² over preserved rows.

        Of both means, what the rows in `share` add. Both kinds of rows go through the trained network in one call; the
        original network sees the preserved rows only, because the erased rows' targets come with their trajectories
        (`esd_data`).
        """
        unet = native_unet(self.unet, self.dtype, platform_of(self.mesh))
        first, second = jax.random.split(jax.random.fold_in(jax.random.key(data.seed), i))
        rows, wanted = sample_erased(data, first, self.batch, share)
        count = len(wanted)
        if self.preserve_batch:
            alphas = alphas_cumprod(self.noise)
            kept = sample_kept(data, second, self.preserve_batch, alphas, self.scaling_factor, share)
            answer = unet(base, *kept)
            rows = Rows(*(jnp.concatenate(pair) for pair in zip(rows, kept, strict=True)))
            wanted = jnp.concatenate([wanted, answer])
        errors = jnp.mean(jnp.square(unet(merged(base, weights), *rows) - wanted), axis=(1, 2, 3))
        erase = jnp.where(share.rows(self.batch)[1], errors[:count], 0.0).sum() / self.batch
        if not self.preserve_batch:
            return erase, {"loss": erase}
        preserve = jnp.where(share.rows(self.preserve_batch)[1], errors[count:], 0.0).sum() / self.preserve_batch
        total = erase + data.weight * preserve
        return total, {"loss": total, "erase": erase, "preserve": preserve}

    def factor(self) -> optax.Schedule:
        """1 after a linear warm-up from 1/warmup; TAIL_RATE from `tail_start` on."""
        rise = optax.constant_schedule(1.0)
        if self.warmup > 1:
            rise = optax.linear_schedule(1 / self.warmup, 1.0, self.warmup - 1)
        if self.tail_start is None:
            return rise
        return optax.join_schedules([rise, optax.constant_schedule(TAIL_RATE)], [self.tail_start])

    def rule(self, rate: Float[Array, ""]) -> optax.GradientTransformation:
        """Adam without weight decay."""
        return optax.adam(rate)


def esd_objective(pipe: Pipeline, config: EsdConfig) -> EsdObjective:
    """The objective of these settings on this model."""
    return EsdObjective(
        unet=pipe.parts.unet_config,
        noise=pipe.scheduler.noise,
        scaling_factor=pipe.parts.vae_config.scaling_factor,
        dtype=pipe.dtype,
        mesh=across(pipe.programs.mesh),
        batch=config.batch,
        preserve_batch=config.preserve_batch if config.preserve_weight else 0,
        warmup=config.warmup,
        tail_start=round(config.steps * (1.0 - config.tail)) if config.tail else None,
    )


def with_kept(
    pipe: Pipeline,
    config: EsdConfig,
    pool: Pool,
    erased: Context,
    images: np.ndarray | None = None,
    captions: Sequence[int] | None = None,
) -> Data:
    """The data of a run: the pool of the erased contexts and, where a preservation term is asked for, its latents."""
    seed, weight, empty = jnp.uint32(config.seed), jnp.float32(config.preserve_weight), jnp.asarray(pipe.encode([""]))
    if not config.preserve_weight:
        return Data(pool, None, erased, empty, seed, weight)
    benign = jnp.concatenate([jnp.asarray(pipe.encode(list(config.preserve))), empty])
    kept = generated_latents(pipe, config) if images is None else encoded_images(pipe, images, captions)
    return Data(pool, kept, erased, benign, seed, weight)


def _check(config: EsdConfig, images: np.ndarray | None, captions: Sequence[int] | None) -> None:
    if not config.erase:
        raise InputError("no prompt to erase", "at least one", "name prompts of the concept in erase")
    if images is None:
        return
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        given = f"preserve_images {images.dtype} {images.shape}"
        raise InputError(given, "uint8 [M, H, W, 3], M at least 1", "convert them")
    if captions is not None and (
        len(captions) != len(images) or not all(0 <= index < len(config.preserve) for index in captions)
    ):
        given = f"{len(captions)} captions of {len(images)} images"
        raise InputError(given, f"for each image an index below {len(config.preserve)}", "change preserve_captions")
