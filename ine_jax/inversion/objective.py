"""The denoising loss of concept inversion, for one concept or several side by side.

    c* = argmin_c  E_{z, ε, t} || ε - ε_θ(z_t, c, t) ||²          (arXiv 2208.01618 eq. 2; arXiv 2511.04834)

with θ frozen. Concepts never mix: each has its own images, random numbers and loss, so the result for one does not
depend on which others are learned in the same run.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ine_jax.models.text import PLACEHOLDER
from ine_jax.schedulers import add_noise, target
from ine_jax.types import Array, Context, Latents

Denoise = Callable[[Latents, Array, Context], Latents]
Encode = Callable[[Array, Array], Context]  # (ids [rows, T], learned rows [R, d]) -> context [rows, T, D]


class Batch(NamedTuple):
    """The random numbers of one step, leading axes [concept, batch]: everything but the learned vectors."""

    latents: Float[Array, "concept batch h w c"]  # x_0 as the network sees it
    noise: Float[Array, "concept batch h w c"]  # ε
    timesteps: Int[Array, "concept batch"]
    sentence: Int[Array, "concept batch"]  # which template


class Data(NamedTuple):
    """What a step samples from: the posteriors of all concepts' images in one array, and each concept's range."""

    mean: Float[Array, "image h w c"]  # unscaled
    logvar: Float[Array, "image h w c"]
    start: Int[Array, "concept"]  # first image
    images: Int[Array, "concept"]  # number of images
    seed: Int[Array, "concept"]  # uint32
    ids: Int[Array, "sentence token"]  # template ids; unused in context space
    norm: Float[Array, ""] | None  # length that the vectors are pulled to


def sample(data: Data, step: Array | int, batch: int, train_steps: int, scaling_factor: float) -> Batch:
    """The batch of `step`, a pure function of (seed of the concept, step): no iterator to save, hence exact resuming.

    Latents are sampled anew from the autoencoder's posterior, N(mean, exp(logvar)), times the scaling factor.
    """

    def one(seed: Array, start: Array, count: Array) -> Batch:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), step), 5)
        index = start + jax.random.randint(keys[0], (batch,), 0, count)
        mean, logvar = data.mean[index], data.logvar[index]
        posterior = mean + jnp.exp(0.5 * logvar) * jax.random.normal(keys[1], mean.shape, mean.dtype)
        return Batch(
            latents=posterior * scaling_factor,
            noise=jax.random.normal(keys[2], mean.shape, mean.dtype),
            timesteps=jax.random.randint(keys[3], (batch,), 0, train_steps),
            sentence=jax.random.randint(keys[4], (batch,), 0, data.ids.shape[0]),
        )

    return jax.vmap(one)(data.seed, data.start, data.images)


def losses(
    vectors: Float[Array, "concept row dim"],
    batch: Batch,
    ids: Int[Array, "sentence token"] | None,
    *,
    denoise: Denoise,
    encode: Encode,
    alphas_cumprod: np.ndarray,
    prediction_type: str,
    spread: Callable[[Array], Array] = lambda rows: rows,
) -> Float[Array, "concept"]:
    """Mean squared error of each concept, [C].

    `vectors` are the learned rows [C, k, d], or in context space the contexts themselves [C, T, D], where the template
    `ids` [P, T] are None. `denoise` and `encode` are the frozen networks, on rows; `spread` lays an array's first axis
    over the devices.
    """
    concepts, size = batch.timesteps.shape

    def rows(x: Array) -> Array:
        return spread(x.reshape(concepts * size, *x.shape[2:]))

    latents, noise, timesteps = rows(batch.latents), rows(batch.noise), rows(batch.timesteps)
    if ids is None:
        context = spread(jnp.repeat(vectors, size, axis=0))
    else:
        context = spread(contexts(vectors, ids, batch.sentence, encode))
    noisy = add_noise(latents, noise, timesteps, alphas_cumprod)
    wanted = target(prediction_type, latents, noise, timesteps, alphas_cumprod)
    predicted = denoise(noisy, timesteps.astype(noisy.dtype), context)
    return jnp.mean(jnp.square(wanted - predicted).reshape(concepts, -1), axis=1)


def contexts(
    vectors: Float[Array, "concept row dim"],
    ids: Int[Array, "sentence token"],
    sentence: Int[Array, "concept each"],
    encode: Encode,
) -> Float[Array, "item token width"]:
    """Contexts [C·B, T, D] of the sampled sentences, each with its own concept's vectors.

    Where there are fewer sentences than rows of the batch, every sentence is encoded once.
    """
    concepts, size = sentence.shape
    learned = vectors.reshape(-1, vectors.shape[-1])
    first = (jnp.arange(concepts, dtype=ids.dtype) * vectors.shape[1])[:, None, None]
    few = ids.shape[0] < size
    chosen = jnp.broadcast_to(ids, (concepts, *ids.shape)) if few else ids[sentence]
    own = jnp.where(chosen >= PLACEHOLDER, chosen + first, chosen)
    encoded = encode(own.reshape(-1, ids.shape[1]), learned)
    if not few:
        return encoded
    position = jnp.arange(concepts, dtype=sentence.dtype)[:, None] * ids.shape[0] + sentence
    return encoded[position.reshape(-1)]


def pull(vectors: Float[Array, "*any dim"], norm: Array | float, rate: Array | float) -> Float[Array, "*any dim"]:
    """Move each vector's length n towards `norm`: n + min(1, 100·rate) (norm - n), the direction kept.

    Norm control as in cloneofsimo/lora: at usual rates it holds the length, at small ones it only leans on it.
    """
    length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    pulled: Array = vectors * (length + jnp.minimum(1.0, 100.0 * rate) * (norm - length)) / jnp.maximum(length, 1e-12)
    return pulled
