"""AdvUnlearn (arXiv 2405.15234, NeurIPS 2024): train the text encoder on prompts with an adversarial prefix.

With τ_θ the encoder, ε the original UNet (frozen), c an erased prompt's original context and v the token vectors of a
prefix, each step first attacks and then trains,

    v ← argmin_v ||ε(x_t, τ_θ([v, prompt])) - ε(x_t, c)||²
    θ ← argmin_θ ||ε(x_t, τ_θ([v, prompt])) - (ε(x_t, ∅) - η (ε(x_t, c) - ε(x_t, ∅)))||²
                 + w ||ε(x'_t, τ_θ(r)) - ε(x'_t, r)||²

for prompts r to preserve. The attack starts from random rows of the token table and makes `attack_steps` steps of Adam,
on the gradient or on its sign, with a new x_t each (the authors' loop does not clear the gradient between them, so
theirs add up); the first `attack_start` steps have no prefix. Every row of the
batch is attacked by itself, so devices exchange nothing in an attack. x_t lies on trajectories of the original model,
as published, but they are computed once: `pool` of them take the place of a new one for every step.

The authors' release is a `CLIPTextModel` folder; this writes the same: text_encoder/ with config.json,
model.safetensors and their hashes. The bundled world uses its own prompts; nothing else is replaced.
"""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Float, Int, UInt32

from ine_jax.config import AdvUnlearnConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.models.clip import ClipText, ClipTextConfig, embed_tokens
from ine_jax.models.text import PLACEHOLDER, encode_ids
from ine_jax.models.trees import flatten_params
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.mesh import across, platform_of
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import native_unet
from ine_jax.training import loop
from ine_jax.training.rows import Share
from ine_jax.training.step import Metrics
from ine_jax.types import Array, Context, Latents, Params, PerItem, TokenIds
from ine_jax.unlearning.esd_data import Pool, erasure_weights, visit
from ine_jax.unlearning.layers import Trained, merged
from ine_jax.unlearning.prompts import with_prompts
from ine_jax.unlearning.result import Result, origin_of, write_text_encoder
from ine_jax.unlearning.run import Unconstrained, binding, optimize

Prefix = Float[Array, "row place dim"]
ANSWER = np.asarray([[0.0, 1.0]], np.float32)  # weights of the target ε_0(x_t, prompt)


class Frozen(NamedTuple):
    """Parameters of the original model."""

    text: Params
    unet: Params


class Data(NamedTuple):
    """What a step samples from; trajectory i of a pool belongs to prompt i modulo their number."""

    erased: Pool
    answers: Float[Array, "trajectory level h w c"]  # ε_0(x_t, c) of the erased prompts
    kept: Pool  # with ε_0(x_t, r) as target
    ids: Int[Array, "prompt token"]  # of the erased prompts
    attacked: Int[Array, "prompt token"]  # the same after a prefix of placeholders
    kept_ids: Int[Array, "kept_prompt token"]
    seed: UInt32[Array, ""]
    weight: Float[Array, ""]  # of the preservation term
    rate: Float[Array, ""]  # of the attack


class Points(NamedTuple):
    """Points on trajectories, and what the original model answers there."""

    latents: Latents
    timesteps: PerItem
    targets: Latents
    answers: Latents


def unlearn(
    pipe: Pipeline, config: AdvUnlearnConfig, directory: Path | str, progress: loop.Progress | None = None
) -> Result:
    """Train the text encoder, write it, and return its parameters; `pipe` itself stays as it is.

    Raises:
        InputError: no prompt, a prompt that leaves the prefix no room, more layers than there are, another run's
            directory.
        NumericalError: the loss stayed non-finite.
        Interrupted: asked to stop; calling again continues.
    """
    config = with_prompts(config)
    _check(pipe, config)
    frozen = Frozen(pipe.parts.text_params, pipe.parts.unet_params)
    bound = {**origin_of(pipe), "advunlearn": binding(config, ("save_every", "preserve_file"))}

    def finish(found: Trained) -> Result:
        notes = {"method": "advunlearn", "config": dataclasses.asdict(config), **origin_of(pipe)}
        return write_text_encoder(pipe, merged(frozen.text, found), Path(directory), notes)

    objective, start = advunlearn_objective(pipe, config), trained(frozen.text, config.layers)
    data = functools.partial(data_of, pipe, config)
    return optimize(objective, start, frozen, data, config, Path(directory), bound, progress, finish)


def trained(params: Params, layers: int | None) -> Trained:
    """The encoder's parameters that are trained, as float32 copies by dotted path: layers, and with all the last norm.

    The tables of tokens and positions stay.
    """

    def chosen(path: tuple[str, ...]) -> bool:
        if "layers" in path:
            return layers is None or int(path[path.index("layers") + 1]) < layers
        return layers is None and "final_layer_norm" in path

    flat = flatten_params(params)
    return {".".join(path): jnp.array(flat[path], jnp.float32) for path in sorted(flat) if chosen(path)}


@dataclass(frozen=True)
class AdvUnlearnObjective(Unconstrained):
    """AdvUnlearn's loss with the attack inside. Runs over models of one shape share its compiled step."""

    text: ClipTextConfig
    unet: UNetConfig
    dtype: DTypeLike
    mesh: Mesh
    batch: int
    preserve_batch: int
    attack: str
    attack_start: int
    attack_steps: int
    tokens: int  # of the prefix

    def loss(
        self, weights: Trained, frozen: Frozen, data: Data, i: Int[Array, ""], share: Share
    ) -> tuple[Array, Metrics]:
        """What the rows in `share` add to the loss of step `i`.

        `distance` is that of the trained encoder's answers from the original's: after an attack, what the prefix could
        not recover. Erased and preserved rows go through the UNet in one call.
        """
        keys = jax.random.split(jax.random.fold_in(jax.random.key(data.seed), i), 4)
        rows, real = share.rows(self.batch)
        prompt = jax.random.randint(keys[0], (self.batch,), 0, len(data.ids))[rows]
        attacked = i >= self.attack_start
        ids = jnp.where(attacked, data.attacked[prompt], data.ids[prompt])
        steps = jnp.where(attacked, self.attack_steps, 0)
        prefix = self.prefix(jax.lax.stop_gradient(weights), frozen, data, (keys[1], rows, prompt, ids), steps)
        points = sample(data, keys[2], rows, prompt)
        others, counted = share.rows(self.preserve_batch)
        kept, kept_ids = sample_kept(data, keys[3], self.preserve_batch, others)
        latents, times, wanted = (jnp.concatenate([a, b]) for a, b in zip(points[:3], kept, strict=True))
        context = self.encode(weights, frozen, jnp.concatenate([ids, kept_ids]), prefix)
        eps = self.denoise(frozen, latents, times, context)
        errors = jnp.mean(jnp.square(eps - wanted), axis=(1, 2, 3))
        distance = jnp.mean(jnp.square(eps[: len(rows)] - points.answers), axis=(1, 2, 3))
        erase = jnp.where(real, errors[: len(rows)], 0.0).sum() / self.batch
        preserve = jnp.where(counted, errors[len(rows) :], 0.0).sum() / self.preserve_batch
        total = erase + data.weight * preserve
        apart = jnp.where(real, distance, 0.0).sum() / self.batch
        return total, {"loss": total, "erase": erase, "preserve": preserve, "distance": apart}

    def prefix(
        self, weights: Trained, frozen: Frozen, data: Data, rows: tuple[Array, Array, Array, TokenIds], steps: Array
    ) -> Prefix:
        """The prefix of each row after `steps` steps of the attack; `rows` are key, numbers, prompts and token ids."""
        key, numbers, prompt, ids = rows

        def words(n: Array) -> Array:
            return jax.random.randint(jax.random.fold_in(key, n), (self.tokens,), 0, self.text.vocab_size)

        start = embed_tokens(frozen.text, jax.vmap(words)(numbers)).astype(jnp.float32)
        adam = optax.adam(data.rate)

        def distance(vectors: Prefix, points: Points) -> Array:
            eps = self.denoise(frozen, *points[:2], self.encode(weights, frozen, ids, vectors))
            return jnp.mean(jnp.square(eps - points.answers), axis=(1, 2, 3)).sum()

        def step(j: Array, state: tuple[Prefix, optax.OptState]) -> tuple[Prefix, optax.OptState]:
            vectors, memory = state
            points = sample(data, jax.random.fold_in(key, self.batch + j), numbers, prompt)
            gradient = jax.grad(distance)(vectors, points)
            if self.attack == "fast-at":
                gradient = jnp.sign(gradient)
            with jax.numpy_dtype_promotion("standard"):  # optax computes decay ** count
                update, memory = adam.update(gradient, memory)
            return cast(Array, optax.apply_updates(vectors, update)), memory

        found: Prefix = jax.lax.fori_loop(0, steps, step, (start, adam.init(start)))[0]
        return found

    def encode(self, weights: Trained, frozen: Frozen, ids: TokenIds, prefix: Prefix) -> Context:
        """Contexts in the trained encoder; the placeholders of row n are those of prefix n."""
        offset = jnp.arange(len(ids), dtype=ids.dtype)[:, None] * self.tokens
        numbered = jnp.where(ids >= PLACEHOLDER, ids + offset, ids)
        learned = prefix.reshape(-1, prefix.shape[-1])
        return encode_ids(ClipText(self.text), merged(frozen.text, weights), numbered, learned)

    def denoise(self, frozen: Frozen, latents: Latents, timesteps: PerItem, context: Context) -> Latents:
        """The original UNet's predictions."""
        return native_unet(self.unet, self.dtype, platform_of(self.mesh))(frozen.unet, latents, timesteps, context)

    def factor(self) -> optax.Schedule:
        """The rate is constant."""
        return optax.constant_schedule(1.0)

    def rule(self, rate: Array) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(rate)


def sample(data: Data, key: Array, rows: Int[Array, "row"], prompt: Int[Array, "row"]) -> Points:
    """For each row a point on a trajectory of its prompt; row n depends on (key, n) alone."""
    kinds, (total, levels) = len(data.ids), data.erased.latents.shape[:2]

    def one(n: Array, own: Array) -> tuple[Array, Array]:
        which, level = jax.random.split(jax.random.fold_in(key, n))
        turn = jax.random.randint(which, (), 0, (total - 1 - own) // kinds + 1)
        return own + turn * kinds, jax.random.randint(level, (), 0, levels)

    i, s = jax.vmap(one)(rows, prompt)
    return Points(data.erased.latents[i, s], data.erased.timesteps[s], data.erased.targets[i, s], data.answers[i, s])


def sample_kept(
    data: Data, key: Array, batch: int, rows: Int[Array, "row"]
) -> tuple[tuple[Latents, PerItem, Latents], TokenIds]:
    """Points on the preserved prompts' trajectories with the original's answers, and their token ids."""
    which, level = jax.random.split(key)
    i = jax.random.randint(which, (batch,), 0, data.kept.latents.shape[0])[rows]
    s = jax.random.randint(level, (batch,), 0, data.kept.latents.shape[1])[rows]
    points = data.kept.latents[i, s], data.kept.timesteps[s], data.kept.targets[i, s]
    return points, data.kept_ids[data.kept.prompt[i]]


def advunlearn_objective(pipe: Pipeline, config: AdvUnlearnConfig) -> AdvUnlearnObjective:
    """The objective of these settings on this model."""
    return AdvUnlearnObjective(
        text=pipe.parts.text_config,
        unet=pipe.parts.unet_config,
        dtype=pipe.dtype,
        mesh=across(pipe.programs.mesh),
        batch=config.batch,
        preserve_batch=config.preserve_batch,
        attack=config.attack,
        attack_start=config.attack_start,
        attack_steps=config.attack_steps,
        tokens=config.attack_tokens,
    )


def data_of(pipe: Pipeline, config: AdvUnlearnConfig) -> Data:
    """Both pools, and the token ids of all prompts."""
    empty = jnp.asarray(pipe.encode([""]))
    erased, prompt = pipe.encode(list(config.erase)), np.arange(config.pool, dtype=np.int32) % len(config.erase)
    rest = np.broadcast_to(np.asarray(empty)[None], (config.pool, 1, *empty.shape[1:]))
    weights = np.concatenate([erasure_weights(config.eta), np.pad(ANSWER, [(0, 0), (0, 1)])])
    latents, targets, times = visit(pipe, config, erased[prompt], empty, rest, weights)
    few = dataclasses.replace(config, pool=config.preserve_pool, erase=())
    kept = np.arange(few.pool, dtype=np.int32) % len(config.preserve)
    contexts = pipe.encode(list(config.preserve))[kept]
    calm, answers, _ = visit(pipe, few, contexts, empty, rest[:1, :0].repeat(few.pool, 0), ANSWER, 2**31 - 2)
    probe = _probe(pipe, config)
    return Data(
        Pool(latents, targets[:, 0], times, jnp.asarray(prompt)),
        targets[:, 1],
        Pool(calm, answers[:, 0], times, jnp.asarray(kept)),
        jnp.asarray(pipe.tokenizer.ids(list(config.erase))),
        jnp.asarray(pipe.tokenizer.ids([f"{probe.token} {text}" for text in config.erase], [probe])),
        jnp.asarray(pipe.tokenizer.ids(list(config.preserve))),
        jnp.uint32(config.seed),
        jnp.float32(config.preserve_weight),
        jnp.float32(config.attack_learning_rate),
    )


def _probe(pipe: Pipeline, config: AdvUnlearnConfig) -> Embedding:
    return Embedding(np.zeros((config.attack_tokens, pipe.parts.text_config.hidden_size), np.float32), concept="prefix")


def _check(pipe: Pipeline, config: AdvUnlearnConfig) -> None:
    if not config.erase or not config.preserve:
        raise InputError("erase or preserve: empty", "at least one prompt each", "name the concept and what is to stay")
    count = pipe.parts.text_config.num_hidden_layers
    if config.layers is not None and config.layers > count:
        raise InputError(f"layers {config.layers}", f"1 to {count} for this text encoder", "change layers")
    probe = _probe(pipe, config)
    for text in config.erase:
        if pipe.tokenizer.truncated([f"{probe.token} {text}"], [probe])[0]:
            given = f"prompt {text[:60]!r} after {config.attack_tokens} tokens"
            raise InputError(given, f"at most {pipe.tokenizer.max_length - 2} tokens", "shorten it")
