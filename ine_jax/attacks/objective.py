"""The loss of attacks that differentiate through the target: their prompts shall explain images of the concept.

    || wanted - ε̂(x_t, prompt, t) ||²,    x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε

x_0 are the latents of the original model's image of a prompt. ε̂ is the unlearned UNet's prediction, or, for an attacker
who knows the guard, what the target's guard makes of it (`through`). An attack says which free tokens a prompt has,
what is wanted (the noise itself, or the original model's prediction), and the noise level of a step.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, UInt32

from ine_jax.attacks.target import Target
from ine_jax.attacks.through import Frozen, Through, frozen
from ine_jax.config.white_box import WhiteBoxConfig
from ine_jax.errors import InputError
from ine_jax.models.clip import ClipText, ClipTextConfig, ClipTextOutput, embed_tokens
from ine_jax.models.text import Tokenizer
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.prompts.items import Item
from ine_jax.schedulers import add_noise, alphas_cumprod
from ine_jax.training.rows import Share
from ine_jax.training.step import Metrics
from ine_jax.types import Array, Latents, Params

FREE = -1  # in place of the id of a free token
Trained = Float[Array, "prompt token number"]


class Held(NamedTuple):
    """What no step changes: the target, and where its prediction is wanted, the original UNet with its contexts."""

    target: Frozen
    base: Params | None = None
    contexts: Float[Array, "prompt place dim"] | None = None


class Data(NamedTuple):
    """What a step attacks."""

    latents: Latents  # x_0 of every prompt
    ids: Int[Array, "prompt place"]
    places: Int[Array, "prompt token"]  # of the free tokens among the ids; beyond the last: there is none
    seed: UInt32[Array, "prompt"]
    active: Bool[Array, "prompt"]  # has not succeeded yet
    run: UInt32[Array, ""]


@dataclass(frozen=True)
class PromptObjective(ABC):
    """The loss of all prompts of an attack, which never mix."""

    text: ClipTextConfig
    through: Through

    @property
    def mesh(self) -> Mesh:
        """The devices of the target."""
        return self.through.programs.mesh

    @abstractmethod
    def level(self, data: Data, i: Int[Array, ""]) -> Int[Array, ""]:
        """Return the timestep of step `i`."""

    @abstractmethod
    def tokens(
        self, trained: Trained, table: Float[Array, "word dim"], keys: Array
    ) -> tuple[Int[Array, "prompt token"], Float[Array, "prompt token dim"]]:
        """Return ids and embeddings of the free tokens; the gradient reaches what is trained."""

    @abstractmethod
    def wanted(
        self, held: Held, rows: Int[Array, "row"], clean: Latents, noise: Latents, noisy: Latents, t: Array
    ) -> Latents:
        """Return what the target shall predict."""

    @abstractmethod
    def rule(self, rate: Float[Array, ""]) -> optax.GradientTransformation:
        """Return the optimizer."""

    def loss(self, trained: Trained, held: Held, data: Data, i: Int[Array, ""], share: Share) -> tuple[Array, Metrics]:
        """What the prompts in `share` add to the sum of all active prompts' mean squared errors."""
        rows, real = share.rows(len(data.seed))
        clean, shape, t = data.latents[rows], data.latents.shape[1:], self.level(data, i)

        def random(seed: UInt32[Array, ""]) -> tuple[Array, Array]:
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(data.run), seed), i)
            first, second = jax.random.split(key)
            return jax.random.normal(first, shape), second

        noise, keys = jax.vmap(random)(data.seed[rows])
        choice, embedded = self.tokens(trained[rows], table_of(held.target.text), keys)
        ids, context = self._context(choice, embedded, data.ids[rows], data.places[rows], held.target.text)
        noisy = add_noise(clean, noise, jnp.full(rows.shape, t), alphas_cumprod(self.through.noise))
        wanted = self.wanted(held, rows, clean, noise, noisy, t)
        found = self.through.prediction(held.target, ids, context, noisy, t)
        errors = jnp.square(wanted - found).mean(axis=(1, 2, 3))
        total = jnp.where(real & data.active[rows], errors, 0.0).sum()
        return total, {"loss": total / jnp.maximum(data.active.sum(), 1).astype(total.dtype)}

    def _context(
        self,
        choice: Int[Array, "prompt token"],
        embedded: Float[Array, "prompt token dim"],
        ids: Int[Array, "prompt place"],
        places: Int[Array, "prompt token"],
        params: Params,
    ) -> tuple[Int[Array, "prompt place"], Float[Array, "prompt place width"]]:
        """The prompts' ids with their free tokens, and their context."""
        row = jnp.arange(len(ids))[:, None]
        ids = ids.at[row, places].set(choice.astype(ids.dtype), mode="drop")
        tokens = embed_tokens(params, ids).astype(jnp.float32).at[row, places].set(embedded, mode="drop")
        output = ClipText(self.text).apply({"params": params}, ids, token_embeddings=tokens)
        assert isinstance(output, ClipTextOutput)  # noqa: S101  flax does not type what apply returns
        return ids, output.hidden

    def running(self, data: Data, i: Int[Array, ""]) -> Bool[Array, "prompt"]:
        """The prompts that have not succeeded."""
        return data.active

    def factor(self) -> optax.Schedule:
        """The rate is constant."""
        return optax.constant_schedule(1.0)

    def finish(
        self, trained: Trained, metrics: Metrics, data: Data, i: Int[Array, ""], rate: Float[Array, ""]
    ) -> tuple[Trained, Metrics]:
        """What is trained is not constrained."""
        return trained, metrics


def table_of(params: Params) -> Float[Array, "word dim"]:
    """Return the token table of a text encoder, float32."""
    table: Array = params["text_model"]["embeddings"]["token_embedding"]["embedding"]
    return table.astype(jnp.float32)


def levels(train_steps: int, count: int) -> np.ndarray:
    """Timesteps from clean to noisy, at equal distances; published: 10, 30, ..., 990."""
    width = train_steps // count
    return np.arange(width // 2, train_steps, width, dtype=np.int32)[:count]


def held(target: Target, config: WhiteBoxConfig) -> Frozen:
    """Return the target as the attacker knows it."""
    parts = target.pipe.parts
    return frozen(parts.text_params, parts.unet_params, target.known(config.knows, config.words))


def require_base(pipe: Pipeline, base: Pipeline | None, name: str) -> Pipeline:
    """Return the model before unlearning, or raise InputError where it is missing or another kind of model."""
    if base is None:
        raise InputError(f"{name} without base", "the model before unlearning", f"give {name}.base")
    if (base.latent_shape(), base.scheduler.noise) != (pipe.latent_shape(), pipe.scheduler.noise):
        raise InputError(f"base {base.name}", "latents and noise levels as of the target", f"change {name}.base")
    return base


def data(
    target: Target,
    base: Pipeline,
    items: Sequence[Item],
    config: WhiteBoxConfig,
    pieces: Sequence[Sequence[int]],
) -> Data:
    """Return what is attacked: the base's image of every prompt, and prompts of these ids, FREE among them."""
    prompts, seeds, pipe = [item.prompt for item in items], [item.seed for item in items], target.pipe
    images = base(prompts, guidance=config.base_guidance, seeds=seeds, steps=target.steps, noise=target.noise).arrays
    ids, places = laid_out(pipe.tokenizer, pieces)
    return Data(
        latents=jnp.asarray(pipe.latents_of(images), jnp.float32),
        ids=jnp.asarray(ids),
        places=jnp.asarray(places),
        seed=jnp.asarray(seeds, jnp.uint32),
        active=jnp.ones((len(items),), bool),
        run=jnp.uint32(config.seed),
    )


def laid_out(
    tokenizer: Tokenizer, pieces: Sequence[Sequence[int]]
) -> tuple[Int[np.ndarray, "prompt place"], Int[np.ndarray, "prompt token"]]:
    """Return whole rows of ids, cut where they are too long, and the places of their free tokens."""
    rows = np.asarray([tokenizer.row(each) for each in pieces], np.int32)
    free = [np.flatnonzero(row == FREE) for row in rows]
    places = np.full((len(rows), max(len(each) for each in free)), rows.shape[1], np.int32)
    for row, each in zip(places, free, strict=True):
        row[: len(each)] = each
    return np.maximum(rows, 0), places
