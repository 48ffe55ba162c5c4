"""Concept Semi-Permeable Membrane (SPM, arXiv 2312.16145, CVPR 2024): rank-1 adapters that erase, anchored elsewhere.

    L = mean (ε_θ(x_t, c) - [ε_0(x_t, g) - η (ε_0(x_t, c) - ε_0(x_t, g))])² + λ mean (ε_θ(x_t, a) - ε_0(x_t, a))²

c is the context of a concept, g that of its guide, 0 the model without adapters. x_t is sampled by the model that is
being trained, from noise, for a random number of DDIM steps under CFG. *Latent anchoring*, the second term, keeps what
other contexts a mean: random directions with 0.8 to 1.2 of the length of c, accepted with probability 1 - cos(a, c).

As in the authors' `train_spm.py`: adapters of every dense layer and convolution of the transformers, DDIM with its
steps at train_steps // steps and the network asked at train_steps - 1 - (steps done) · train_steps / steps, AdamW (in
full instead of 8 bits), cosine with restarts after a warm-up, and every second anchored row the empty prompt, which is
what their code computes. Images have the model's own size; the authors also vary it.

Written into the directory: spm_last.safetensors (kohya's keys, with their header), log.jsonl, timing.jsonl,
config.json, checkpoints/, and the hashes of all.
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
from jax.typing import DTypeLike
from jaxtyping import Float, Int, UInt32

from ine_jax.config import SpmConfig
from ine_jax.errors import InputError
from ine_jax.models.trees import Path as Place
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.mesh import across, platform_of
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import Apply, native_unet
from ine_jax.schedulers import Ddim
from ine_jax.training import loop
from ine_jax.training.rows import Share, normal_rows
from ine_jax.training.step import Metrics
from ine_jax.types import Array, Context, Latents, LatentShape, Params
from ine_jax.unlearning.adapters import Adapters, adapted, fresh, kernels, with_adapters, write_adapters
from ine_jax.unlearning.esd_data import ddim_of, latent_shape
from ine_jax.unlearning.result import Result, origin_of, write_file
from ine_jax.unlearning.run import Unconstrained, binding, optimize
from ine_jax.unlearning.uce import pairs

WEIGHTS = "spm_last.safetensors"
IDLE_FIELDS = ("save_every",)
CANDIDATES = 8  # directions per anchor, of which the first accepted one counts; none is with probability below 1e-6


class Data(NamedTuple):
    """What a step samples from."""

    erased: Float[Array, "concept token dim"]
    guide: Float[Array, "concept token dim"]
    empty: Float[Array, "1 token dim"]
    seed: UInt32[Array, ""]
    eta: Float[Array, ""]
    weight: Float[Array, ""]  # λ
    scale: Float[Array, ""]  # of the trajectories


class Rows(NamedTuple):
    """The random part of a step: each row's concept, noise and anchors."""

    concept: Int[Array, "row"]
    noise: Latents
    anchors: Float[Array, "row anchor token dim"]
    steps: Int[Array, ""]  # of the sampler, before the network is asked


def transformers(path: Place) -> bool:
    """Whether a layer belongs to a transformer: its attentions, feed-forward and the projections around them."""
    return any(name.startswith("attentions_") for name in path)


def unlearn(pipe: Pipeline, config: SpmConfig, directory: Path | str, progress: loop.Progress | None = None) -> Result:
    """Train the adapters, write them, and return the result; `pipe` itself stays as it is.

    Raises:
        InputError: no concept, or another run's directory.
        NumericalError: the loss stayed non-finite.
        Interrupted: asked to stop; calling again continues.
    """
    folder, base, named = Path(directory), pipe.parts.unet_params, pairs(config.erase, config.guide)
    start = fresh(kernels(base, transformers), config.rank, config.seed, "kaiming")
    scale = config.alpha / config.rank
    bound = {**origin_of(pipe), "spm": binding(config, IDLE_FIELDS)}
    notes = {"method": "spm", "config": dataclasses.asdict(config), **origin_of(pipe)}
    notes |= {"prompts": ",".join(config.erase), "rank": str(config.rank), "alpha": str(config.alpha)}

    def data() -> Data:
        texts = [pair[0] for pair in named], [pair[1] for pair in named], [""]
        erased, guide, empty = (jnp.asarray(pipe.encode(each)) for each in texts)
        numbers = jnp.float32(config.eta), jnp.float32(config.anchor_weight), jnp.float32(config.start_guidance)
        return Data(erased, guide, empty, jnp.uint32(config.seed), *numbers)

    def finish(found: Adapters) -> Result:
        def write(path: Path, metadata: dict[str, str]) -> list[Path]:
            write_adapters(path, found, "kohya", config.alpha, metadata)
            return []

        return write_file(with_adapters(base, found, scale), folder / WEIGHTS, notes, write)

    return optimize(spm_objective(pipe, config), start, base, data, config, folder, bound, progress, finish)


def anchors(key: Array, concept: Float[Array, "token dim"], count: int) -> Float[Array, "{count} token dim"]:
    """Contexts around a concept's: random directions, rather away from it, with 0.8 to 1.2 of its length."""
    keys = jax.random.split(key, 3)
    length = jnp.linalg.norm(concept)
    tried = jax.random.normal(keys[0], (count, CANDIDATES, *concept.shape))
    tried = tried / jnp.sqrt(jnp.square(tried).sum(axis=(2, 3), keepdims=True))
    cosine = jnp.einsum("ckte,te->ck", tried, concept) / length
    first = jnp.argmax(jax.random.uniform(keys[1], cosine.shape) < 1.0 - cosine, axis=1)
    scales = length * jax.random.uniform(keys[2], (count, 1, 1), minval=0.8, maxval=1.2)
    chosen: Array = tried[jnp.arange(count), first] * scales
    return chosen


def cosine_restarts(warmup: int, steps: int, cycles: int) -> optax.Schedule:
    """A linear warm-up from 0, then `cycles` half cosines from 1 to 0."""

    def factor(step: jax.typing.ArrayLike) -> Array:
        done = jnp.asarray(step, jnp.float32)
        part = (done - warmup) / max(1, steps - warmup)
        wave = 0.5 * (1.0 + jnp.cos(jnp.pi * (cycles * part % 1.0)))
        return jnp.where(done < warmup, done / max(1, warmup), jnp.where(part >= 1.0, 0.0, wave))

    return factor


@dataclass(frozen=True)
class SpmObjective(Unconstrained):
    """SPM's loss. Runs over models of one shape share its compiled step, whatever their concepts and seed are."""

    unet: UNetConfig
    ddim: Ddim
    dtype: DTypeLike
    mesh: Mesh
    shape: LatentShape
    batch: int
    anchors: int  # per row
    sampler_steps: int
    scale: float  # of the adapters
    steps: int
    warmup: int
    cycles: int
    weight_decay: float

    def sample(self, data: Data, i: Array | int, share: Share) -> Rows:
        """The rows of step `i` that lie in `share`; a pure function of (seed, i)."""
        keys = jax.random.split(jax.random.fold_in(jax.random.key(data.seed), i), 4)
        numbers, _ = share.rows(self.batch)
        concept = jax.random.randint(keys[0], (self.batch,), 0, len(data.erased))[numbers]
        own = jax.vmap(lambda row: jax.random.fold_in(keys[1], row))(numbers)
        around = jax.vmap(lambda key, c: anchors(key, c, self.anchors))(own, data.erased[concept])
        around = jnp.where((jnp.arange(self.anchors) % 2 == 0)[:, None, None], data.empty[0], around)
        steps = jax.random.randint(keys[3], (), 1, self.sampler_steps)
        return Rows(concept, normal_rows(keys[2], numbers, self.shape), around, steps)

    def walk(self, network: Apply, base: Params, data: Data, rows: Rows) -> Latents:
        """Latents after the first `rows.steps` steps of DDIM under CFG, by the adapted network."""
        tables, count = self.ddim.tables(self.sampler_steps), len(rows.noise)
        empty = jnp.broadcast_to(data.empty, (count, *data.empty.shape[1:]))
        contexts = jnp.concatenate([empty, data.erased[rows.concept]])

        def body(k: Array, latents: Array) -> Array:
            row = jax.tree.map(lambda column: column[k], tables)
            twice = jnp.concatenate([latents, latents])
            plain, prompt = jnp.split(network(base, twice, jnp.full((2 * count,), row.timestep), contexts), 2)
            return self.ddim.step((), latents, plain + data.scale * (prompt - plain), row)[0]

        reached: Array = jax.lax.fori_loop(0, rows.steps, body, rows.noise)
        return reached

    def loss(
        self, adapters: Adapters, base: Params, data: Data, i: Int[Array, ""], share: Share
    ) -> tuple[Array, Metrics]:
        """What the rows in `share` add to L."""
        rows, real = self.sample(data, i, share), share.rows(self.batch)[1]
        unet = native_unet(self.unet, self.dtype, platform_of(self.mesh))
        frozen = jax.lax.stop_gradient(adapters)
        latents = self.walk(adapted(unet, frozen, self.scale), base, data, rows)
        last = self.ddim.noise.train_steps
        asked = (last - 1 - rows.steps * last // self.sampler_steps).astype(jnp.float32)
        around = rows.anchors.reshape(-1, *rows.anchors.shape[2:])
        concept, guide = data.erased[rows.concept], data.guide[rows.concept]

        def answer(network: Apply, *contexts: Context) -> tuple[Array, list[Array]]:
            """Predictions for the anchors, and for one context a row each."""
            place = jnp.concatenate([jnp.repeat(latents, self.anchors, axis=0), *[latents] * len(contexts)])
            found = network(base, place, jnp.full((len(place),), asked), jnp.concatenate([around, *contexts]))
            return found[: len(around)], jnp.split(found[len(around) :], len(contexts))

        kept, (plain, shown) = answer(unet, guide, concept)
        moved, (erased,) = answer(adapted(unet, adapters, self.scale), concept)
        wanted = jax.lax.stop_gradient(plain - data.eta * (shown - plain))
        each = {
            "erase": jnp.mean(jnp.square(erased - wanted), axis=(1, 2, 3)),
            "anchor": jnp.square(moved - kept).reshape(len(latents), -1).mean(axis=1),
        }
        metrics = {name: jnp.where(real, value, 0.0).sum() / self.batch for name, value in each.items()}
        total = metrics["erase"] + data.weight * metrics["anchor"]
        return total, {"loss": total, **metrics}

    def factor(self) -> optax.Schedule:
        """Cosine with restarts after the warm-up."""
        return cosine_restarts(self.warmup, self.steps, self.cycles)

    def rule(self, rate: Float[Array, ""]) -> optax.GradientTransformation:
        """AdamW."""
        return optax.adamw(rate, weight_decay=self.weight_decay)


def spm_objective(pipe: Pipeline, config: SpmConfig) -> SpmObjective:
    """The objective of these settings on this model."""
    ddim = ddim_of(pipe)
    return SpmObjective(
        unet=pipe.parts.unet_config,
        ddim=dataclasses.replace(
            ddim, noise=dataclasses.replace(ddim.noise, spacing="leading", offset=0), clip=None, alpha_one=True
        ),
        dtype=pipe.dtype,
        mesh=across(pipe.programs.mesh),
        shape=latent_shape(pipe),
        batch=config.batch,
        anchors=config.anchors,
        sampler_steps=config.ddim_steps,
        scale=config.alpha / config.rank,
        steps=config.steps,
        warmup=config.warmup,
        cycles=config.cycles,
        weight_decay=config.weight_decay,
    )


def transport(pipe: Pipeline, prompts: Sequence[str], erased: Sequence[str]) -> Float[np.ndarray, "prompt"]:
    """Facilitated transport: the strength of an SPM for each prompt, at most 1; 1 for prompts that hold a concept.

    The largest, over the erased concepts, of the cosine of the two contexts and of the share of the concept's tokens
    that are in the prompt (the authors' metric "clipcos_tokenuni"). `--unlearned FILE:strength` applies it.
    """
    if not erased:
        raise InputError("erased: empty", "at least one concept", "name the concepts of the SPM")
    both = (pipe.encode(list(texts)).reshape(len(texts), -1).astype(np.float64) for texts in (prompts, erased))
    found, concepts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in both)
    words = [[set(pipe.tokenizer.word_ids(text)) for text in texts] for texts in (prompts, erased)]
    shared = [[len(own & concept) / len(concept) for concept in words[1]] for own in words[0]]
    strengths: np.ndarray = np.maximum(found @ concepts.T, np.asarray(shared)).max(axis=1)
    return strengths
