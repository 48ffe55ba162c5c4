"""SDEdit (arXiv 2108.01073): images noised to a level of the sampler, and denoised from there with other prompts."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from ine_jax import schedulers
from ine_jax.guidance.cfg import Cfg
from ine_jax.guidance.concept import NegativeLike
from ine_jax.pipeline.bound import texts_of
from ine_jax.pipeline.noise import Seeds, item_noise
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.types import Array, HostImages, TokenIds


def edit(
    pipe: Pipeline,
    images: HostImages,
    prompts: Sequence[str],
    *,
    negative: NegativeLike,
    strength: float,
    scale: float,
    seeds: Seeds,
    steps: int,
) -> HostImages:
    """Return the images, edited towards their prompts under CFG.

    With x_0 the mean latents, denoising by DDIM starts at α x_0 + σ ε of step steps - int(steps · strength), as
    in diffusers' image-to-image pipeline; `strength` 1 keeps nothing of an image.

    Raises:
        InputError: the images do not have a size that the model makes.
    """
    editor = dataclasses.replace(pipe, scheduler=schedulers.from_config(pipe.parts.scheduler_config, "ddim"))
    shape, rows = pipe.latent_shape(images.shape[1], images.shape[2]), pipe.rows()
    bound = editor.bind(Cfg(scale), negative, shape, steps=steps, rows=rows)
    first = steps - max(1, int(steps * strength))
    bound = dataclasses.replace(bound, tables=jax.tree.map(lambda column: column[first:], bound.tables))
    alpha, sigma = editor.scheduler.level(jax.tree.map(lambda column: column[0], bound.tables))
    start = np.asarray(alpha) * pipe.latents_of(images) + np.asarray(sigma) * item_noise(seeds, shape, len(images))
    texts = texts_of([bound] * rows, pipe.programs.batch_sharding())

    def run(ids: TokenIds, cut: Array, start: Array) -> Array:
        return pipe.programs.decode(pipe.parts.vae_params, editor.sample(bound, texts, ids, cut, start))

    cut = np.asarray(pipe.tokenizer.truncated(prompts, ()), bool)
    return pipe.programs.batched(run, [pipe.tokenizer.ids(prompts, ()), cut, start], rows)
