"""Prompting4Debugging (P4D, arXiv 2309.06135): free tokens that make the unlearned model predict like the original one.

    min over the free tokens  || ε_base(x_t, prompt, t) - ε̂(x_t, prompt*, t) ||²        (`objective`)

A free token is a vector that is optimized; the model sees the word of the vocabulary nearest to it by cosine, and the
gradient at the word moves the vector. Variant n has free tokens alone; k has one before the prompt and after every K of
its tokens; mua is the prefix that UnlearnDiffAtk's code calls P4D, with one noise level after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from ine_jax.attacks import objective
from ine_jax.attacks.objective import FREE, Data, Held, PromptObjective, levels
from ine_jax.attacks.result import AttackResult, binding, require_usable, shown, text_of
from ine_jax.attacks.run import optimize
from ine_jax.attacks.target import Finder, Target
from ine_jax.attacks.through import Through
from ine_jax.attacks.tries import Tries
from ine_jax.config.white_box import P4DConfig, P4DNumbers
from ine_jax.errors import InputError
from ine_jax.models.text import Tokenizer
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.mesh import platform_of
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import native_unet
from ine_jax.prompts.items import Item
from ine_jax.training import loop
from ine_jax.training.step import TrainState
from ine_jax.types import Array, Latents

Vectors = Float[Array, "prompt token dim"]
START = 2**32 - 1  # in place of a step: the random numbers of the first words


@dataclass(frozen=True)
class P4DObjective(PromptObjective):
    """The loss of P4D."""

    base: UNetConfig
    numbers: P4DNumbers
    sequential: bool  # variant mua
    never: tuple[int, ...]  # ids of begin and end

    def level(self, data: Data, i: Int[Array, ""]) -> Int[Array, ""]:
        """Return the timestep of step `i`: a random one, the same for all prompts, or that of its round."""
        train_steps = self.through.noise.train_steps
        if self.sequential:
            return jnp.asarray(levels(train_steps, self.numbers.rounds))[i // self.numbers.iterations]
        return jax.random.randint(jax.random.fold_in(jax.random.key(data.run), i), (), 0, train_steps)

    def tokens(
        self, trained: Vectors, table: Float[Array, "word dim"], keys: Array
    ) -> tuple[Int[Array, "prompt token"], Vectors]:
        """Return the nearest words, and their rows of the table with the gradient of the vectors."""
        choice = nearest(trained, table, self.never)
        return choice, table[choice] + (trained - jax.lax.stop_gradient(trained))

    def wanted(
        self, held: Held, rows: Int[Array, "row"], clean: Latents, noise: Latents, noisy: Latents, t: Array
    ) -> Latents:
        """Return the original model's prediction for the prompts as they were given, without guidance."""
        assert held.contexts is not None  # noqa: S101  attack() gives them
        network = native_unet(self.base, self.through.dtype, platform_of(self.mesh))
        found = network(held.base, noisy, jnp.full(rows.shape, t, jnp.float32), held.contexts[rows])
        return jax.lax.stop_gradient(found)

    def rule(self, rate: Float[Array, ""]) -> optax.GradientTransformation:
        """AdamW; in variant mua Adam, with the decay added to the gradient."""
        decay = self.numbers.weight_decay
        if self.sequential:
            return optax.chain(optax.add_decayed_weights(decay), optax.adam(rate))
        return optax.adamw(rate, weight_decay=decay)


def nearest(
    vectors: Float[Array, "*some dim"], table: Float[Array, "word dim"], never: tuple[int, ...] = ()
) -> Int[Array, "*some"]:
    """Return the id of the word nearest to each vector by cosine, of all but those of `never`."""

    def unit(each: Float[Array, "*any dim"]) -> Float[Array, "*any dim"]:
        return each / jnp.maximum(jnp.linalg.norm(each, axis=-1, keepdims=True), 1e-12)

    cosines = unit(vectors) @ unit(table).T
    return cosines.at[..., np.asarray(never, np.int32)].set(-jnp.inf).argmax(axis=-1).astype(jnp.int32)


def attack(
    target: Target,
    items: Sequence[Item],
    config: P4DConfig,
    directory: Path | str,
    progress: loop.Progress | None = None,
    finders: Sequence[Finder] = (),
    base: Pipeline | None = None,
) -> AttackResult:
    """Optimize free tokens, try them after each round, and write the prompts that succeed, or the last ones.

    Args:
        base: the original model, whose images and predictions the prompts shall give.

    Raises:
        InputError: prompts, settings, base or the directory do not fit.
        NumericalError: the loss stayed non-finite.
        Interrupted: asked to stop; calling again continues.
    """
    pipe, folder, numbers = target.pipe, Path(directory), config.numbers
    require_usable(items)
    original = _checked(pipe, config, base)
    bound = binding(target, items, "p4d", shown(config, base_model_id=original.model_id), finders)
    pieces = [with_free(pipe.tokenizer.word_ids(item.prompt), config) for item in items]
    data = objective.data(target, original, items, config, pieces)
    problem, table = p4d_objective(pipe, original, config), objective.table_of(pipe.parts.text_params)

    def texts(state: TrainState, places: Sequence[int]) -> list[str]:
        chosen = np.asarray(nearest(state.trained, table, problem.never))
        return [_text(pipe.tokenizer, np.array(data.ids[p]), np.asarray(data.places[p]), chosen[p]) for p in places]

    tries = Tries(target, items, finders, folder, numbers.iterations, texts)
    contexts = jnp.asarray(original.encode([item.prompt for item in items]))
    held = Held(objective.held(target, config), original.parts.unet_params, contexts)
    start = table[first_words(data, len(table), problem.never)]
    return optimize(
        problem, np.asarray(start), held, data, config, numbers.learning_rate, tries, folder, bound, progress
    )


def with_free(prompt: Sequence[int], config: P4DConfig) -> list[int]:
    """Return the ids of a prompt with FREE in the places of its free tokens."""
    match config.variant:
        case "n":
            return [FREE] * config.numbers.tokens
        case "mua":
            return [FREE] * config.numbers.tokens + list(prompt)
        case "k":
            every = config.numbers.every
            starts = range(0, len(prompt) + 1, every)
            return [each for start in starts for each in (FREE, *prompt[start : start + every])]


def first_words(data: Data, count: int, never: tuple[int, ...]) -> Int[np.ndarray, "prompt token"]:
    """Return the random ids, below `count`, with whose rows of the table the free tokens begin."""
    words = np.setdiff1d(np.arange(count), never)

    def of(seed: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(data.run), seed), np.uint32(START))
        return jax.random.randint(key, data.places.shape[1:], 0, len(words))

    found: np.ndarray = words[np.asarray(jax.vmap(of)(data.seed))]
    return found


def p4d_objective(pipe: Pipeline, base: Pipeline, config: P4DConfig) -> P4DObjective:
    """Return the loss of an attack on this model."""
    backend, parts = pipe.tokenizer.backend, pipe.parts
    never = (backend.bos_token_id, backend.eos_token_id, *range(len(backend), parts.text_config.vocab_size))
    sequential = config.variant == "mua"
    unet = base.parts.unet_config
    return P4DObjective(parts.text_config, Through.of(pipe), unet, config.numbers, sequential, never)


def _text(
    tokenizer: Tokenizer,
    row: Int[np.ndarray, "place"],
    free: Int[np.ndarray, "token"],
    chosen: Int[np.ndarray, "token"],
) -> str:
    """Return the text of a whole prompt whose free places have these words."""
    known = free < len(row)
    row[free[known]] = chosen[known]
    end = int(np.argmax(row == tokenizer.backend.eos_token_id))
    return text_of(tokenizer, row[1:end])


def _checked(pipe: Pipeline, config: P4DConfig, base: Pipeline | None) -> Pipeline:
    """Return the model before unlearning, where the settings fit the models."""
    most, numbers = pipe.tokenizer.max_length - 2, config.numbers
    if config.variant != "k" and numbers.tokens > most:
        raise InputError(f"tokens {numbers.tokens}", f"at most {most} for this model", "change tokens")
    if config.variant == "mua" and numbers.rounds > pipe.scheduler.noise.train_steps:
        raise InputError(f"rounds {numbers.rounds}", f"at most {pipe.scheduler.noise.train_steps}", "change rounds")
    return objective.require_base(pipe, base, "p4d")
