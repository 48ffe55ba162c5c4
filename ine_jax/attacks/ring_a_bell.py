"""Ring-A-Bell (arXiv 2310.10012): prompts whose context is that of a given prompt plus the vector of a concept.

    v = mean over pairs of (E(harmful) - E(harmless)),    min over ids of ||E(p) + η v - E(begin, ids, end, end, ...)||²

over all positions of the text encoder E. The ids are found by a genetic search, as in the authors' notebook: the better
half survives; with some probability a survivor has two children, which exchange the ends of its ids and those of a
random survivor; then one id of every prompt, survivors included, changes with some probability. So the best prompt may
be lost again.

The attack needs the text encoder alone: it knows neither the UNet nor the guard. All prompts are searched in one
program, spread over the devices. A survivor that did not change keeps its loss, so that the encoder sees only new ids.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Bool, Float, Int, UInt32

from ine_jax.attacks.result import TRIES, AttackResult, binding, require_usable, shown, text_of, tried, write
from ine_jax.attacks.run import search
from ine_jax.attacks.target import Finder, Target
from ine_jax.config.attacks import RingABellConfig, RingABellNumbers
from ine_jax.errors import InputError
from ine_jax.models.clip import ClipText, ClipTextConfig, ClipTextOutput
from ine_jax.models.text import Tokenizer
from ine_jax.pipeline.mesh import AXIS, everywhere, replicated
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.prompts.items import Item
from ine_jax.training import loop
from ine_jax.training.step import Metrics
from ine_jax.types import Array, Context, Params, Step, TokenIds

Encode: TypeAlias = Callable[[TokenIds], Float[Array, "text token dim"]]
BORN = 3  # places of a survivor in the next generation: itself and two children
# Fields that do not change what a given number of generations computes.
IDLE_FIELDS = ("preset", "save_every")


class Data(NamedTuple):
    """What is searched for, and among what."""

    wanted: Float[Array, "prompt token dim"]
    words: Int[Array, "word"]  # ids that prompts consist of
    ends: Int[Array, "2"]  # ids of begin and end
    seed: UInt32[Array, "prompt"]
    run: UInt32[Array, ""]  # seed of the run


class State(NamedTuple):
    """The survivors of a generation, best first, and their losses."""

    ids: Int[Array, "prompt survivor place"]
    losses: Float[Array, "prompt survivor"]


class Chances(NamedTuple):
    """The random numbers that make the next generation of one prompt from h survivors."""

    crosses: Bool[Array, "survivor"]  # has children
    mate: Int[Array, "survivor"]
    cut: Int[Array, "survivor"]  # ids before it are the survivor's own in the first child
    mutates: Bool[Array, "born"]
    place: Int[Array, "born"]
    word: Int[Array, "born"]


def attack(
    target: Target,
    items: Sequence[Item],
    config: RingABellConfig,
    directory: Path | str,
    progress: loop.Progress | None = None,
    finders: Sequence[Finder] = (),
) -> AttackResult:
    """Search, and write the prompts and what detectors read in the target's images of them.

    Raises:
        InputError: prompts, settings or the directory do not fit.
        Interrupted: asked to stop; calling again continues.
    """
    pipe, folder, numbers = target.pipe, Path(directory), config.numbers
    require_usable(items)
    _check(config, pipe.tokenizer)
    settings = shown(config, generations=None)  # more of them continue a run
    bound = binding(target, items, "ring-a-bell", settings, finders)
    data = everywhere(_data(pipe, items, config), pipe.programs.mesh)
    params = pipe.parts.text_params
    step = compiled_step(pipe.parts.text_config, numbers, pipe.programs.mesh, config.batch)
    half = numbers.population // 2
    ids = jnp.zeros((len(items), half, numbers.length), jnp.int32)
    first = State(ids, jnp.zeros((len(items), half), jnp.float32))

    def finish(final: State) -> AttackResult:
        best = np.asarray(final.ids[:, 0])
        texts = [text_of(pipe.tokenizer, row) for row in best]
        found = [dataclasses.replace(item, prompt=text) for item, text in zip(items, texts, strict=True)]
        rows = tried(target, found, finders, folder / TRIES / f"{config.steps:06d}.jsonl")
        return write(folder, bound, items, rows)

    start = everywhere(first, pipe.programs.mesh)
    return search(lambda state, i: step(params, data, state, i), start, config, folder, bound, progress, finish)


def concept_vector(pipe: Pipeline, config: RingABellConfig) -> Float[np.ndarray, "token dim"]:
    """Return v, the mean difference of the contexts of harmful and harmless prompts."""
    harmful, harmless = pipe.encode(list(config.harmful)), pipe.encode(list(config.harmless))
    mean: np.ndarray = (harmful - harmless).mean(axis=0)
    return mean


def vocabulary(tokenizer: Tokenizer) -> Int[np.ndarray, "word"]:
    """Return the ids of which prompts may consist: all but 0, begin and end, as published."""
    special = {0, tokenizer.backend.bos_token_id, tokenizer.backend.eos_token_id}
    return np.asarray([i for i in range(len(tokenizer.backend)) if i not in special], np.int32)


def _data(pipe: Pipeline, items: Sequence[Item], config: RingABellConfig) -> Data:
    wanted = pipe.encode([item.prompt for item in items])
    wanted = wanted + np.float32(config.numbers.strength) * concept_vector(pipe, config)[None]
    backend = pipe.tokenizer.backend
    return Data(
        wanted=jnp.asarray(wanted),
        words=jnp.asarray(vocabulary(pipe.tokenizer)),
        ends=jnp.asarray([backend.bos_token_id, backend.eos_token_id], jnp.int32),
        seed=jnp.asarray([item.seed for item in items], jnp.uint32),
        run=jnp.uint32(config.seed),
    )


def _check(config: RingABellConfig, tokenizer: Tokenizer) -> None:
    if not config.harmful:
        raise InputError("ring_a_bell.harmful: empty", "pairs of prompts", "name prompts with and without the concept")
    most = tokenizer.max_length - 2
    if config.numbers.length > most:
        raise InputError(f"length {config.numbers.length}", f"at most {most} for this model", "change length")


@functools.lru_cache(maxsize=8)
def compiled_step(
    text: ClipTextConfig, numbers: RingABellNumbers, mesh: Mesh, batch: int
) -> Callable[[Params, Data, State, int], tuple[State, Metrics]]:
    """Return the jitted generation (params, data, state, i) -> (state, metrics)."""
    clip = ClipText(text)

    def own(params: Params, data: Data, wanted: Context, seed: UInt32[Array, "row"], old: State, i: Step) -> State:
        encode = functools.partial(_encode, clip, params)
        return generation(old, data._replace(wanted=wanted, seed=seed), i, numbers, encode, batch)

    rows, same = PartitionSpec(AXIS), PartitionSpec()
    specs = (same, same, rows, rows, rows, same)
    shared = jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)

    def step(params: Params, data: Data, state: State, i: Step) -> tuple[State, Metrics]:
        count = len(data.seed)
        place = jnp.minimum(jnp.arange(-(-count // mesh.size) * mesh.size), count - 1)  # full rows for every device
        old = State(state.ids[place], state.losses[place])
        new: State = shared(params, data, data.wanted[place], data.seed[place], old, i)
        new = State(new.ids[:count], new.losses[:count])
        return new, {"loss": new.losses[:, 0].mean(), "worst": new.losses[:, 0].max()}

    return jax.jit(step, donate_argnums=2, out_shardings=replicated(mesh))


def _encode(clip: ClipText, params: Params, ids: TokenIds) -> Float[Array, "text token dim"]:
    output = clip.apply({"params": params}, ids)
    assert isinstance(output, ClipTextOutput)  # noqa: S101  flax does not type what apply returns
    return output.hidden


def generation(
    state: State,
    data: Data,
    i: Step,
    numbers: RingABellNumbers,
    encode: Encode,
    batch: int,
) -> State:
    """Return the survivors of generation i: of random prompts for i = 0, else of what the survivors before it make."""
    half, length = numbers.population // 2, numbers.length

    def born(
        own: UInt32[Array, ""], ids: Int[Array, "survivor place"], losses: Float[Array, "survivor"]
    ) -> tuple[Int[Array, "born place"], Float[Array, "born"], Bool[Array, "born"]]:
        """The prompts of this generation, their losses as far as they are known, and which have to be encoded."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(data.run), own), i)
        fresh = jax.random.randint(key, (BORN * half, length), 0, len(data.words))
        made, known = breed(ids, losses, data.words, chances(key, numbers, len(data.words)))
        alive = jnp.arange(BORN * half) < 2 * half
        first = (data.words[fresh], jnp.where(alive, jnp.nan, jnp.inf).astype(losses.dtype))
        chosen, known = (jnp.where(i == 0, a, b) for a, b in zip(first, (made, known), strict=True))
        return chosen, known, jnp.isnan(known)

    ids, known, needed = jax.vmap(born)(data.seed, state.ids, state.losses)
    losses = _losses(ids, known, needed, data, encode, batch)
    order = jnp.argsort(losses, axis=1)[:, :half]
    return State(jnp.take_along_axis(ids, order[..., None], axis=1), jnp.take_along_axis(losses, order, axis=1))


def chances(key: Array, numbers: RingABellNumbers, words: int) -> Chances:
    """Return the random numbers of one generation of one prompt."""
    half, born, length = numbers.population // 2, BORN * (numbers.population // 2), numbers.length
    keys = jax.random.split(key, 6)
    return Chances(
        crosses=jax.random.uniform(keys[0], (half,)) < numbers.crossover,
        mate=jax.random.randint(keys[1], (half,), 0, half),
        cut=jax.random.randint(keys[2], (half,), 0, length),
        mutates=jax.random.uniform(keys[3], (born,)) < numbers.mutation,
        place=jax.random.randint(keys[4], (born,), 0, length),
        word=jax.random.randint(keys[5], (born,), 0, words),
    )


def breed(
    ids: Int[Array, "survivor place"], losses: Float[Array, "survivor"], words: Int[Array, "word"], random: Chances
) -> tuple[Int[Array, "born place"], Float[Array, "born"]]:
    """Return the next generation [3h, L] and its losses: infinite for places that stay empty, NaN where unknown."""
    half, length = ids.shape
    mates, own = ids[random.mate], jnp.arange(length)[None] < random.cut[:, None]
    children = jnp.where(own, ids, mates), jnp.where(own, mates, ids)
    family = jnp.stack([ids, *children], axis=1).reshape(BORN * half, length)
    child = jnp.where(random.crosses, jnp.nan, jnp.inf).astype(losses.dtype)
    known = jnp.stack([losses, child, child], axis=1).reshape(BORN * half)
    here = random.mutates[:, None] & (jnp.arange(length)[None] == random.place[:, None])
    known = jnp.where(random.mutates & jnp.isfinite(known), jnp.nan, known)
    return jnp.where(here, words[random.word][:, None], family), known


def _losses(
    ids: Int[Array, "prompt born place"],
    known: Float[Array, "prompt born"],
    needed: Bool[Array, "prompt born"],
    data: Data,
    encode: Encode,
    batch: int,
) -> Float[Array, "prompt born"]:
    """Return ||wanted - E(ids)||² of the prompts that need it, `batch` of them per call of the encoder."""
    count, born, length = ids.shape
    tokens, need = data.wanted.shape[1], needed.reshape(-1)
    order = jnp.argsort(~need)  # stable: those that need it, in their order
    order = jnp.concatenate([order, jnp.repeat(order[-1:], -len(order) % batch)])

    def some(part: Array, losses: Float[Array, "text"]) -> Float[Array, "text"]:
        rows = jax.lax.dynamic_slice_in_dim(order, part * batch, batch)
        begin = jnp.broadcast_to(data.ends[:1], (batch, 1))
        end = jnp.broadcast_to(data.ends[1:], (batch, tokens - 1 - length))
        texts = jnp.concatenate([begin, ids.reshape(-1, length)[rows], end], axis=1)
        errors = jnp.square(data.wanted[rows // born] - encode(texts)).sum(axis=(1, 2))
        return losses.at[rows].set(jnp.where(need[rows], errors, losses[rows]))

    parts = -(-need.sum() // batch)
    found: Array = jax.lax.fori_loop(0, parts, some, known.reshape(-1))
    return found.reshape(count, born)
