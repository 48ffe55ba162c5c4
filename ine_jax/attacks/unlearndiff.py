"""UnlearnDiffAtk (arXiv 2310.11868): a prefix whose prompt explains an image of the concept to the unlearned model.

    min over the prefix  || ε - ε̂(x_t, prefix + prompt, t) ||²,    x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε

x_0 are the latents of the original model's image of the prompt. ε̂ is the unlearned UNet's prediction, or, for an
attacker who knows the guard, what the target's guard makes of it (`through`). Every token of the prefix is a point of
the vocabulary's simplex (`simplex`), optimized by Adam at one noise level after the other. After each level the most
likely prefix of every prompt is tried: an image of the target, read by the detectors. A prompt that succeeds is left as
it is.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, UInt32

from ine_jax.attacks import simplex
from ine_jax.attacks.result import TRIES, AttackResult, Try, binding, drop_damaged, require_usable, tried, write
from ine_jax.attacks.target import Finder, Target
from ine_jax.attacks.through import Frozen, Through, frozen
from ine_jax.config.attacks import UnlearnDiffConfig, UnlearnDiffNumbers
from ine_jax.errors import CorruptRunError, InputError
from ine_jax.guidance import NoGuidance
from ine_jax.guidance.concept import Concept
from ine_jax.models.clip import ClipText, ClipTextConfig, ClipTextOutput, embed_tokens
from ine_jax.models.text import Tokenizer
from ine_jax.pipeline.bound import Bound
from ine_jax.pipeline.mesh import everywhere
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.prompts.items import Item
from ine_jax.schedulers import add_noise, alphas_cumprod
from ine_jax.schedulers import target as wanted_of
from ine_jax.training import loop
from ine_jax.training.rows import Share
from ine_jax.training.step import Metrics, TrainState, compiled_step, first_state
from ine_jax.types import Array, Latents

Weights = Float[Array, "prompt token word"]
# Fields that do not change what a given number of steps computes.
IDLE_FIELDS = ("preset", "save_every")


class Data(NamedTuple):
    """What a step attacks."""

    latents: Latents  # x_0 of every prompt
    ids: Int[Array, "prompt place"]  # with room for the prefix after begin
    seed: UInt32[Array, "prompt"]
    active: Bool[Array, "prompt"]  # has not succeeded yet
    run: UInt32[Array, ""]


@dataclass(frozen=True)
class UnlearnDiffObjective:
    """The loss of all prompts of an attack, which never mix."""

    text: ClipTextConfig
    through: Through
    numbers: UnlearnDiffNumbers

    @property
    def mesh(self) -> Mesh:
        """The devices of the target."""
        return self.through.programs.mesh

    def loss(
        self, weights: Weights, target: Frozen, data: Data, i: Int[Array, ""], share: Share
    ) -> tuple[Array, Metrics]:
        """What the prompts in `share` add to the sum of all active prompts' mean squared errors."""
        rows, real = share.rows(len(data.seed))
        noise_config, shape = self.through.noise, data.latents.shape[1:]
        t = jnp.asarray(levels(noise_config.train_steps, self.numbers.timesteps))[i // self.numbers.iterations]

        def sample(seed: UInt32[Array, ""], own: Float[Array, "token word"]) -> tuple[Array, Array]:
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(data.run), seed), i)
            first, second = jax.random.split(key)
            return jax.random.normal(first, shape), jax.random.categorical(second, jnp.log(own))

        noise, choice = jax.vmap(sample)(data.seed[rows], weights[rows])
        ids, context = self._context(weights[rows], choice, data.ids[rows], target)
        clean, each = data.latents[rows], jnp.full(rows.shape, t)
        noisy = add_noise(clean, noise, each, alphas_cumprod(noise_config))
        wanted = wanted_of(noise_config.prediction_type, clean, noise, each, alphas_cumprod(noise_config))
        errors = jnp.square(wanted - self.through.prediction(target, ids, context, noisy, t)).mean(axis=(1, 2, 3))
        total = jnp.where(real & data.active[rows], errors, 0.0).sum()
        return total, {"loss": total / jnp.maximum(data.active.sum(), 1).astype(total.dtype)}

    def _context(
        self, weights: Weights, choice: Int[Array, "prompt token"], ids: Int[Array, "prompt place"], target: Frozen
    ) -> tuple[Int[Array, "prompt place"], Float[Array, "prompt place dim"]]:
        """The prompts' ids with the sampled prefix, and their context; the gradient reaches the weights."""
        end = 1 + choice.shape[1]
        ids = ids.at[:, 1:end].set(choice.astype(ids.dtype))
        table = target.text["text_model"]["embeddings"]["token_embedding"]["embedding"].astype(jnp.float32)
        prefix = simplex.sampled(weights, choice, table)
        tokens = embed_tokens(target.text, ids).astype(jnp.float32).at[:, 1:end].set(prefix)
        output = ClipText(self.text).apply({"params": target.text}, ids, token_embeddings=tokens)
        assert isinstance(output, ClipTextOutput)  # noqa: S101  flax does not type what apply returns
        return ids, output.hidden

    def running(self, data: Data, i: Int[Array, ""]) -> Bool[Array, "prompt"]:
        """The prompts that have not succeeded."""
        return data.active

    def factor(self) -> optax.Schedule:
        """The rate is constant."""
        return optax.constant_schedule(1.0)

    def rule(self, rate: Float[Array, ""]) -> optax.GradientTransformation:
        """Adam, with the decay added to the gradient as PyTorch's Adam does."""
        return optax.chain(optax.add_decayed_weights(self.numbers.weight_decay), optax.adam(rate))

    def finish(
        self, weights: Weights, metrics: Metrics, data: Data, i: Int[Array, ""], rate: Float[Array, ""]
    ) -> tuple[Weights, Metrics]:
        """Project every token's weights onto the simplex."""
        return simplex.project(weights), metrics


def levels(train_steps: int, count: int) -> np.ndarray:
    """The timesteps of the attack, from clean to noisy; published: 10, 30, ..., 990."""
    width = train_steps // count
    return np.arange(width // 2, train_steps, width, dtype=np.int32)[:count]


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
    original = _original(pipe, config, base)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in IDLE_FIELDS}
    settings |= {**dataclasses.asdict(numbers), "base_model_id": original.model_id}
    bound = binding(target, items, "unlearndiff", settings, finders)
    problem = _objective(pipe, numbers)
    known = everywhere(frozen(pipe.parts.text_params, pipe.parts.unet_params, _known(target, config)), problem.mesh)
    data = everywhere(_data(target, original, items, config), problem.mesh)
    step, tries = compiled_step(problem), _Tries(target, items, finders, folder, numbers)
    words = pipe.parts.text_config.vocab_size
    start = np.full((len(items), numbers.tokens, words), 1 / words, np.float32)

    def advance(state: TrainState, i: int) -> tuple[TrainState, Metrics]:
        active = tries.active(state, i)
        if not active.any():
            return state, {"loss": jnp.float32(0)}
        return step(known, data._replace(active=everywhere(jnp.asarray(active), problem.mesh)), state, i)

    with loop.owned(folder):
        drop_damaged(folder)
        final = loop.run(
            advance,
            first_state(problem, start, numbers.learning_rate),
            steps=config.steps,
            directory=folder,
            save_every=config.save_every,
            config=bound,
            log_every=config.log_every,
            progress=progress,
        )
        tries.active(final, config.steps)
        return write(folder, bound, items, tries.found)


class _Tries:
    """The tries of an attack: one before it, with the prompts as they are, and one after each noise level."""

    def __init__(
        self,
        target: Target,
        items: Sequence[Item],
        finders: Sequence[Finder],
        folder: Path,
        numbers: UnlearnDiffNumbers,
    ) -> None:
        self._target, self._items, self._finders = target, items, finders
        self._folder, self._every = folder / TRIES, numbers.iterations
        self._done = -1
        self.found = [Try(id=item.id, prompt=item.prompt, seed=item.seed, success=None, scores={}) for item in items]

    def active(self, state: TrainState, i: int) -> Bool[np.ndarray, "prompt"]:
        """Which prompts have not succeeded by step `i`; the level that ends there is tried, earlier ones are read."""
        for number in range(self._done + 1, i // self._every + 1):
            self._try(number, state if number * self._every == i else None)
            self._done = number
        return np.asarray([row["success"] is not True for row in self.found])

    def _try(self, number: int, state: TrainState | None) -> None:
        left = [place for place, row in enumerate(self.found) if row["success"] is not True]
        path = self._folder / f"{number:03d}.jsonl"
        if not left or (state is None and not self._finders):
            return
        if state is None and not path.is_file():
            raise CorruptRunError(f"{path}: missing", "the tries of this run", "start again in a new directory")
        best = None if state is None or not number else np.asarray(state.trained.argmax(axis=-1))
        made = [self._items[place] for place in left]
        if best is not None:
            texts = [prefixed(self._target.pipe.tokenizer, best[place], self._items[place].prompt) for place in left]
            made = [dataclasses.replace(item, prompt=text) for item, text in zip(made, texts, strict=True)]
        for place, row in zip(left, tried(self._target, made, self._finders, path, stored=state is None), strict=True):
            self.found[place] = row


def prefixed(tokenizer: Tokenizer, ids: Int[np.ndarray, "token"], prompt: str) -> str:
    """Return the prompt after the text of a prefix, in which end tokens are left out."""
    kept = [int(each) for each in ids if each != tokenizer.backend.eos_token_id]
    return f"{tokenizer.backend.decode(kept, clean_up_tokenization_spaces=False).strip()} {prompt}".strip()


def _objective(pipe: Pipeline, numbers: UnlearnDiffNumbers) -> UnlearnDiffObjective:
    end = pipe.tokenizer.backend.eos_token_id
    through = Through(pipe.parts.unet_config, pipe.scheduler.noise, pipe.dtype, pipe.programs, end)
    return UnlearnDiffObjective(pipe.parts.text_config, through, numbers)


def _known(target: Target, config: UnlearnDiffConfig) -> Bound:
    """The target as the attacker knows it."""
    if config.knows == "embedding":
        return target.bound()
    if config.knows == "model":
        return dataclasses.replace(target, guard=NoGuidance(), negative=None).bound()
    words = config.words or (target.negative.words if target.negative else ()) or ("",)
    return dataclasses.replace(target, negative=Concept(words) if target.negative else None).bound()


def _original(pipe: Pipeline, config: UnlearnDiffConfig, base: Pipeline | None) -> Pipeline:
    most = pipe.tokenizer.max_length - 2
    if base is None:
        raise InputError("unlearndiff without base", "the model before unlearning", "give unlearndiff.base")
    if config.numbers.tokens > most:
        raise InputError(f"tokens {config.numbers.tokens}", f"at most {most} for this model", "change tokens")
    if config.numbers.timesteps > pipe.scheduler.noise.train_steps:
        allowed = f"at most {pipe.scheduler.noise.train_steps}"
        raise InputError(f"timesteps {config.numbers.timesteps}", allowed, "change timesteps")
    return base


def _data(target: Target, base: Pipeline, items: Sequence[Item], config: UnlearnDiffConfig) -> Data:
    prompts, seeds, pipe = [item.prompt for item in items], [item.seed for item in items], target.pipe
    images = base(prompts, guidance=config.base_guidance, seeds=seeds, steps=target.steps, noise=target.noise).arrays
    ids, tokens = pipe.tokenizer.ids(prompts), config.numbers.tokens
    room = np.zeros((len(items), tokens), np.int32)
    whole = np.concatenate([ids[:, :1], room, ids[:, 1:]], axis=1)[:, : ids.shape[1]]
    whole[:, -1] = ids[:, -1]  # end or padding, also of a prompt that the prefix cuts
    return Data(
        latents=jnp.asarray(pipe.latents_of(images), jnp.float32),
        ids=jnp.asarray(whole),
        seed=jnp.asarray(seeds, jnp.uint32),
        active=jnp.ones((len(items),), bool),
        run=jnp.uint32(config.seed),
    )
