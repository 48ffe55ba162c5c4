"""UnlearnDiffAtk (arXiv 2310.11868): a prefix whose prompt explains an image of the concept to the unlearned model.

    min over the prefix  || ε - ε̂(x_t, prefix + prompt, t) ||²        (`objective`)

Every token of the prefix is a point of the vocabulary's simplex (`simplex`), optimized by Adam at one noise level after
the other. After each level the most likely prefix of every prompt is tried: an image of the target, read by the
detectors. A prompt that succeeds is left as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from ine_jax.attacks import objective, simplex
from ine_jax.attacks.objective import FREE, Data, Held, PromptObjective, levels
from ine_jax.attacks.result import AttackResult, binding, require_usable, shown, text_of
from ine_jax.attacks.run import optimize
from ine_jax.attacks.target import Finder, Target
from ine_jax.attacks.through import Through
from ine_jax.attacks.tries import Tries
from ine_jax.config.white_box import UnlearnDiffConfig, UnlearnDiffNumbers
from ine_jax.errors import InputError
from ine_jax.models.text import Tokenizer
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.prompts.items import Item
from ine_jax.schedulers import alphas_cumprod
from ine_jax.schedulers import target as wanted_of
from ine_jax.training import loop
from ine_jax.training.step import Metrics, TrainState
from ine_jax.types import Array, Latents

Weights = Float[Array, "prompt token word"]


@dataclass(frozen=True)
class UnlearnDiffObjective(PromptObjective):
    """The loss of UnlearnDiffAtk."""

    numbers: UnlearnDiffNumbers

    def level(self, data: Data, i: Int[Array, ""]) -> Int[Array, ""]:
        """Return the timestep of step `i`: one noise level after the other."""
        return jnp.asarray(levels(self.through.noise.train_steps, self.numbers.timesteps))[i // self.numbers.iterations]

    def tokens(
        self, trained: Weights, table: Float[Array, "word dim"], keys: Array
    ) -> tuple[Int[Array, "prompt token"], Float[Array, "prompt token dim"]]:
        """Return sampled words, and their rows of the table."""
        choice = jax.vmap(jax.random.categorical)(keys, jnp.log(trained))
        return choice, simplex.sampled(trained, choice, table)

    def wanted(
        self, held: Held, rows: Int[Array, "row"], clean: Latents, noise: Latents, noisy: Latents, t: Array
    ) -> Latents:
        """Return the noise, or what the model predicts in its place."""
        noise_config, each = self.through.noise, jnp.full(rows.shape, t)
        return wanted_of(noise_config.prediction_type, clean, noise, each, alphas_cumprod(noise_config))

    def rule(self, rate: Float[Array, ""]) -> optax.GradientTransformation:
        """Adam, with the decay added to the gradient as PyTorch's Adam does."""
        return optax.chain(optax.add_decayed_weights(self.numbers.weight_decay), optax.adam(rate))

    def finish(
        self, trained: Weights, metrics: Metrics, data: Data, i: Int[Array, ""], rate: Float[Array, ""]
    ) -> tuple[Weights, Metrics]:
        """Project every token's weights onto the simplex."""
        return simplex.project(trained), metrics


def attack(
    target: Target,
    items: Sequence[Item],
    config: UnlearnDiffConfig,
    directory: Path | str,
    progress: loop.Progress | None = None,
    finders: Sequence[Finder] = (),
    base: Pipeline | None = None,
) -> AttackResult:
    """Optimize prefixes, try them after each noise level, and write the prompts that succeed, or the last ones.

    Args:
        base: the original model, which generates the images that the prompts shall give.

    Raises:
        InputError: prompts, settings, base or the directory do not fit.
        NumericalError: the loss stayed non-finite.
        Interrupted: asked to stop; calling again continues.
    """
    pipe, folder, numbers = target.pipe, Path(directory), config.numbers
    require_usable(items)
    original = _checked(pipe, config, base)
    bound = binding(target, items, "unlearndiff", shown(config, base_model_id=original.model_id), finders)
    pieces = [[FREE] * numbers.tokens + pipe.tokenizer.word_ids(item.prompt) for item in items]
    data = objective.data(target, original, items, config, pieces)
    words = pipe.parts.text_config.vocab_size
    start = np.full((len(items), numbers.tokens, words), 1 / words, np.float32)

    def texts(state: TrainState, places: Sequence[int]) -> list[str]:
        best = np.asarray(state.trained.argmax(axis=-1))
        return [prefixed(pipe.tokenizer, best[place], items[place].prompt) for place in places]

    tries = Tries(target, items, finders, folder, numbers.iterations, texts)
    problem = UnlearnDiffObjective(pipe.parts.text_config, Through.of(pipe), numbers)
    held = Held(objective.held(target, config))
    return optimize(problem, start, held, data, config, numbers.learning_rate, tries, folder, bound, progress)


def prefixed(tokenizer: Tokenizer, ids: Int[np.ndarray, "token"], prompt: str) -> str:
    """Return the prompt after the text of a prefix, in which end tokens are left out."""
    return f"{text_of(tokenizer, ids[ids != tokenizer.backend.eos_token_id])} {prompt}".strip()


def _checked(pipe: Pipeline, config: UnlearnDiffConfig, base: Pipeline | None) -> Pipeline:
    """Return the model before unlearning, where the settings fit the models."""
    most = pipe.tokenizer.max_length - 2
    if config.numbers.tokens > most:
        raise InputError(f"tokens {config.numbers.tokens}", f"at most {most} for this model", "change tokens")
    if config.numbers.timesteps > pipe.scheduler.noise.train_steps:
        allowed = f"at most {pipe.scheduler.noise.train_steps}"
        raise InputError(f"timesteps {config.numbers.timesteps}", allowed, "change timesteps")
    return objective.require_base(pipe, base, "unlearndiff")
