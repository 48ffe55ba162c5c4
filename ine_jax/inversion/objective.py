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
from ine_jax.training.rows import ALL, Share, normal_rows
from ine_jax.types import Array, Context, Latents

Denoise = Callable[[Latents, Array, Context], Latents]
Encode = Callable[[Array, Array], Context]  # (ids [rows, T], learned rows [R, d]) -> context [rows, T, D]


class Batch(NamedTuple):
    """The random numbers of one step, concept after concept: everything but the learned vectors."""

    latents: Float[Array, "row h w c"]  # x_0 as the network sees it
    noise: Float[Array, "row h w c"]  # ε
    timesteps: Int[Array, "row"]
    sentence: Int[Array, "row"]  # which template
    concept: Int[Array, "row"]
    weight: Float[Array, "row"]  # 1 / rows of the concept; 0: the row does not count


class Data(NamedTuple):
    """What a step samples from: the posteriors of all concepts' images in one array, and each concept's range."""

    mean: Float[Array, "image h w c"]  # unscaled
    logvar: Float[Array, "image h w c"]
    start: Int[Array, "concept"]  # first image
    images: Int[Array, "concept"]  # number of images
    seed: Int[Array, "concept"]  # uint32
    steps: Int[Array, "concept"]  # after which the concept's vectors stay as they are
    ids: Int[Array, "sentence token"]  # template ids; unused in context space
    norm: Float[Array, ""] | None  # length that the vectors are pulled to


def sample(
    data: Data, step: Array | int, batch: int, train_steps: int, scaling_factor: float, share: Share = ALL
) -> Batch:
    """The rows of `step` that lie in `share`, `batch` for each concept in all.

    A pure function of (seed of the concept, step): no iterator to save, hence exact resuming on any number of hosts.
    Latents are sampled anew from the autoencoder's posterior, N(mean, exp(logvar)), times the scaling factor.
    """
    concepts, shape = data.seed.shape[0], data.mean.shape[1:]
    numbers, real = share.rows(concepts * batch)
    concept, place = numbers // batch, numbers % batch

    def of_concept(seed: Array, start: Array, count: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Two keys for the random numbers of a device's own rows, and the few integers of all rows."""
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), step), 5)
        index = start + jax.random.randint(keys[0], (batch,), 0, count)
        timesteps = jax.random.randint(keys[3], (batch,), 0, train_steps)
        return keys[1], keys[2], index, timesteps, jax.random.randint(keys[4], (batch,), 0, data.ids.shape[0])

    spread, noise, index, timesteps, sentence = jax.vmap(of_concept)(data.seed, data.start, data.images)
    mean, logvar = data.mean[index[concept, place]], data.logvar[index[concept, place]]

    def normal(keys: Array) -> Array:
        rows: Array = jax.vmap(lambda key, row: normal_rows(key, row[None], shape)[0])(keys[concept], place)
        return rows.astype(mean.dtype)

    return Batch(
        latents=(mean + jnp.exp(0.5 * logvar) * normal(spread)) * scaling_factor,
        noise=normal(noise),
        timesteps=timesteps[concept, place],
        sentence=sentence[concept, place],
        concept=concept,
        weight=real.astype(mean.dtype) / batch,
    )


def losses(
    vectors: Float[Array, "concept row dim"],
    batch: Batch,
    ids: Int[Array, "sentence token"] | None,
    *,
    denoise: Denoise,
    encode: Encode,
    alphas_cumprod: np.ndarray,
    prediction_type: str,
    most: int | None = None,
) -> Float[Array, "concept"]:
    """What the rows of `batch` add to the mean squared error of each concept, [C].

    `vectors` are the learned rows [C, k, d], or in context space the contexts themselves [C, T, D], where the template
    `ids` [P, T] are None. `denoise` and `encode` are the frozen networks, on rows; `most` as in `contexts`.
    """
    latents, noise, timesteps = batch.latents, batch.noise, batch.timesteps
    context = vectors[batch.concept]
    if ids is not None:
        context = contexts(vectors, ids, batch.sentence, batch.concept, encode, most)
    noisy = add_noise(latents, noise, timesteps, alphas_cumprod)
    wanted = target(prediction_type, latents, noise, timesteps, alphas_cumprod)
    predicted = denoise(noisy, timesteps.astype(noisy.dtype), context)
    errors = jnp.mean(jnp.square(wanted - predicted), axis=(1, 2, 3)) * batch.weight
    own = batch.concept[:, None] == jnp.arange(vectors.shape[0])[None]
    return jnp.where(own, errors[:, None], jnp.zeros_like(errors)[:, None]).sum(axis=0)


def contexts(
    vectors: Float[Array, "concept row dim"],
    ids: Int[Array, "sentence token"],
    sentence: Int[Array, "item"],
    concept: Int[Array, "item"],
    encode: Encode,
    most: int | None = None,
) -> Float[Array, "item token width"]:
    """Contexts [N, T, D] of the sampled sentences, each with its own concept's vectors.

    The items' concepts ascend; at most `most` of them (by default all) follow each other. Where their sentences are
    fewer than the items, every sentence is encoded once.
    """
    total, rows = vectors.shape[:2]
    near, sentences = min(most or total, total), ids.shape[0]
    learned = vectors.reshape(-1, vectors.shape[-1])
    few = near * sentences < len(sentence)
    if few:
        first = jnp.minimum(concept[0], total - near)
        chosen = jnp.broadcast_to(ids, (near, *ids.shape)).reshape(-1, ids.shape[1])
        owner = first + jnp.repeat(jnp.arange(near, dtype=concept.dtype), sentences)
    else:
        chosen, owner = ids[sentence], concept
    offset = (owner * rows).astype(ids.dtype)[:, None]
    encoded = encode(jnp.where(chosen >= PLACEHOLDER, chosen + offset, chosen), learned)
    return encoded[(concept - first) * sentences + sentence] if few else encoded


def pull(vectors: Float[Array, "*any dim"], norm: Array | float, rate: Array | float) -> Float[Array, "*any dim"]:
    """Move each vector's length n towards `norm`: n + min(1, 100·rate) (norm - n), the direction kept.

    Norm control as in cloneofsimo/lora: at usual rates it holds the length, at small ones it only leans on it.
    """
    length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    pulled: Array = vectors * (length + jnp.minimum(1.0, 100.0 * rate) * (norm - length)) / jnp.maximum(length, 1e-12)
    return pulled
