"""MACE (arXiv 2403.06135, CVPR 2024): mass concept erasure in three stages, all on cross-attention keys and values.

1. *Closed-form refinement*. In sentences about a concept all words but the concept's own are made to answer as in the
   same sentences about its guide: W_1 = M W_0 with `uce.edit_matrix`, and the texts to preserve.
2. *Attention suppression*. Adapters ΔW_k of each concept k, on W_1, are trained on images of the concept to minimise

       L_k = Σ_layers || A[masked pixels, the concept's tokens and all end tokens] ||_F

   where A are the attention probabilities of all heads and the mask shows where the concept is.
3. *Closed-form fusion* of all adapters into one kernel each, over the contexts c of every sentence,

       W = (λI + Σ_k C_k + r P)^-1 (λ W_1 + Σ_k C_k (W_1 + ΔW_k) + r P W_0),     C_k = Σ cᵀ c

   with P the same sum over the texts to preserve.

The concepts of stage 2 never mix, so all are trained side by side: each has its own adapters, images and clipping, and
a step is one step of every concept. The authors preserve the captions of COCO, here `preserve` is a list of the user's.
They get masks from Grounded-SAM, here from folders of the user; without them a mask holds the pixels that differ from
an image's most frequent colour, which suits the flat backgrounds of the bundled world. Sentences are those of
inversion.

Written into the directory: unet.safetensors (only the changed weights, in UCE's layout; the authors publish pipeline
folders), log.jsonl, timing.jsonl, config.json, checkpoints/, and the hashes of all.
"""

import dataclasses
import functools
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
from jaxtyping import Bool, Float, Int, UInt32

from ine_jax.config import MaceConfig
from ine_jax.inversion.rece import Kernels, projections
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.mesh import across, platform_of
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import native_unet
from ine_jax.schedulers import NoiseConfig, add_noise, alphas_cumprod
from ine_jax.training import loop
from ine_jax.training.checkpoint import content_hash
from ine_jax.training.rows import Share, normal_rows
from ine_jax.training.step import Metrics
from ine_jax.types import Array, Params
from ine_jax.unlearning import uce
from ine_jax.unlearning.adapters import Adapters, fresh, watched
from ine_jax.unlearning.layers import merged
from ine_jax.unlearning.mace_data import concept_tokens, images_and_masks, refinements, templates
from ine_jax.unlearning.result import Result, origin_of, write
from ine_jax.unlearning.run import Unconstrained, binding, optimize

IDLE_FIELDS = ("save_every", "images", "masks")


class Data(NamedTuple):
    """What a step samples from; the first axis is the concept's."""

    mean: Float[Array, "concept image h w c"]  # unscaled
    logvar: Float[Array, "concept image h w c"]
    masks: Bool[Array, "concept image H W"]
    contexts: Float[Array, "concept sentence token dim"]
    tokens: Bool[Array, "concept sentence token"]  # whose attention is suppressed
    seed: UInt32[Array, ""]


def unlearn(pipe: Pipeline, config: MaceConfig, directory: Path | str, progress: loop.Progress | None = None) -> Result:
    """Run the three stages, write the changed weights and return the result; `pipe` itself stays as it is.

    Raises:
        InputError: no concept, texts or images that do not fit, or another run's directory.
        NumericalError: the loss stayed non-finite.
        Interrupted: asked to stop; calling again continues.
    """
    folder, base, named = Path(directory), pipe.parts.unet_params, uce.pairs(config.erase, config.guide)
    known = templates(pipe, [*config.erase, *config.guide])
    sentences = [[template.format(concept) for template in known] for concept in config.erase]
    kept = [uce.whole(pipe, text, config.preserve_scale) for text in config.preserve]
    edits = [edit for pair in named for edit in refinements(pipe, known, *pair)]
    refined = uce.edited(base, uce.edit_matrix([*edits, *kept], config.regularizer))
    contexts = np.stack([pipe.encode(each) for each in sentences])
    sides = functools.cache(lambda: [images_and_masks(pipe, config, concept) for concept in config.erase])
    origin = origin_of(pipe)
    if config.images:
        images, masks = (np.stack([each[side] for each in sides()]) for side in (0, 1))
        origin["images_sha256"] = content_hash({"images": images, "masks": masks})
    kernels = {name.removesuffix(".kernel"): value.shape for name, value in projections(base).items()}
    start = _each([fresh(kernels, config.rank, config.seed + k, "gaussian") for k in range(len(named))])

    def data() -> Data:
        latents = [pipe.encode_images(images) for images, _ in sides()]
        mean, logvar = (jnp.asarray(np.stack([each[side] for each in latents])) for side in (0, 1))
        masks = jnp.asarray(np.stack([mask for _, mask in sides()]))
        own = zip(config.erase, sentences, strict=True)
        tokens = np.asarray([[concept_tokens(pipe, text, concept) for text in texts] for concept, texts in own])
        return Data(mean, logvar, masks, jnp.asarray(contexts), jnp.asarray(tokens), jnp.uint32(config.seed))

    def finish(found: Adapters) -> Result:
        old, new = projections(base), projections(refined)
        adapted = [_moved(new, {name: np.asarray(leaf[k]) for name, leaf in found.items()}) for k in range(len(named))]
        rows = [each.reshape(-1, each.shape[-1]).astype(np.float64) for each in contexts]
        whole = fused(old, new, adapted, rows, kept, config.regularizer)
        params = merged(base, {name: jnp.asarray(value, jnp.float32) for name, value in whole.items()})
        notes = {"method": "mace", "config": dataclasses.asdict(config), **origin}
        return write(pipe, params, folder, notes)

    bound = {**origin, "mace": binding(config, IDLE_FIELDS)}
    return optimize(mace_objective(pipe, config), start, refined, data, config, folder, bound, progress, finish)


def _each(adapters: Sequence[Adapters]) -> Adapters:
    return {name: jnp.stack([each[name] for each in adapters]) for name in adapters[0]}


def _moved(kernels: Kernels, adapters: dict[str, np.ndarray]) -> Kernels:
    """Kernels with a concept's adapters, float64."""
    factors = {name: value.astype(np.float64) for name, value in adapters.items()}
    names = {name: name.removesuffix(".kernel") for name in kernels}
    return {name: kernels[name] + factors[f"{at}.down"] @ factors[f"{at}.up"] for name, at in names.items()}


def fused(
    old: Kernels,
    refined: Kernels,
    adapted: Sequence[Kernels],
    rows: Sequence[np.ndarray],
    kept: Sequence[uce.Edit],
    regularizer: float,
) -> Kernels:
    """Stage 3: one kernel for all concepts, in float64; `rows` are the contexts of each concept's sentences."""
    grams = [each.T @ each for each in rows]
    prior = sum((edit.weight * edit.source.T @ edit.source for edit in kept), np.zeros_like(grams[0]))
    left = regularizer * np.eye(len(prior)) + sum(grams, prior)
    found: Kernels = {}
    for name, kernel in refined.items():
        answers = [gram @ each[name] for gram, each in zip(grams, adapted, strict=True)]
        found[name] = np.linalg.solve(left, regularizer * kernel + sum(answers, prior @ old[name]))
    return found


def importance(levels: int) -> Float[np.ndarray, "level"]:
    """Probabilities of the authors' importance sampling: σ(0.05 (t - 200)) - σ(0.05 (t - 400)), normalised."""
    t = np.arange(levels)
    raised = [1 / (1 + np.exp(-0.05 * (t - middle))) for middle in (200, 400)]
    weights: np.ndarray = (raised[0] - raised[1]) / (raised[0] - raised[1]).sum()
    return weights


def suppression(
    attention: Float[Array, "row head pixel token"], mask: Bool[Array, "row H W"], tokens: Bool[Array, "row token"]
) -> Float[Array, "row"]:
    """||A||_F of each row over all heads, the mask's pixels (at the attention's resolution) and the tokens."""
    side = round(attention.shape[2] ** 0.5)
    step = mask.shape[1] // side
    pixels = mask[:, ::step, ::step].reshape(len(mask), -1)
    square = jnp.where(pixels[:, None, :, None] & tokens[:, None, None, :], jnp.square(attention), 0.0).sum((1, 2, 3))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


@dataclass(frozen=True)
class MaceObjective(Unconstrained):
    """The loss of stage 2 of all concepts. Models of one shape share its compiled step."""

    unet: UNetConfig
    noise: NoiseConfig
    scaling_factor: float
    dtype: DTypeLike
    mesh: Mesh
    concepts: int
    focal: bool  # importance sampling of the timestep
    weight_decay: float
    clip: float

    def loss(
        self, adapters: Adapters, refined: Params, data: Data, i: Int[Array, ""], share: Share
    ) -> tuple[Array, Metrics]:
        """What the concepts in `share` add to the sum of L_k: one row each."""
        rows, real = share.rows(self.concepts)
        alphas = alphas_cumprod(self.noise)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(data.seed), i), 5)
        image, sentence = (
            jax.random.randint(keys[k], (self.concepts,), 0, count)[rows]
            for k, count in enumerate((data.mean.shape[1], data.contexts.shape[1]))
        )
        chances = jnp.asarray(importance(len(alphas)), jnp.float32) if self.focal else None
        t = jax.random.choice(keys[2], len(alphas), (self.concepts,), p=chances)[rows]
        shape = data.mean.shape[2:]
        spread, noise = (normal_rows(keys[k], rows, shape) for k in (3, 4))
        mean, logvar = data.mean[rows, image], data.logvar[rows, image]
        clean = self.scaling_factor * (mean + jnp.exp(0.5 * logvar) * spread)
        own = {name: leaf[rows] for name, leaf in adapters.items()}
        unet = watched(native_unet(self.unet, self.dtype, platform_of(self.mesh)), own)
        noisy = add_noise(clean, noise, t, alphas)
        maps = unet(refined, noisy, t.astype(jnp.float32), data.contexts[rows, sentence])
        mask, tokens = data.masks[rows, image], data.tokens[rows, sentence]
        each = sum((suppression(found, mask, tokens) for found in maps), jnp.zeros(len(rows)))
        total = jnp.where(real, each, 0.0).sum()
        return total, {"loss": total / self.concepts}

    def factor(self) -> optax.Schedule:
        """The rate is constant."""
        return optax.constant_schedule(1.0)

    def rule(self, rate: Float[Array, ""]) -> optax.GradientTransformation:
        """AdamW on gradients that are clipped concept by concept."""

        def clip(gradient: optax.Updates, _: optax.Params | None) -> optax.Updates:
            squares = [jnp.square(leaf).reshape(len(leaf), -1).sum(axis=1) for leaf in jax.tree.leaves(gradient)]
            factor = jnp.minimum(1.0, self.clip / jnp.maximum(jnp.sqrt(jnp.stack(squares).sum(axis=0)), 1e-12))
            clipped: optax.Updates = jax.tree.map(lambda leaf: leaf * factor[:, None, None], gradient)
            return clipped

        return optax.chain(optax.stateless(clip), optax.adamw(rate, weight_decay=self.weight_decay))


def mace_objective(pipe: Pipeline, config: MaceConfig) -> MaceObjective:
    """The objective of these settings on this model."""
    return MaceObjective(
        unet=pipe.parts.unet_config,
        noise=pipe.scheduler.noise,
        scaling_factor=pipe.parts.vae_config.scaling_factor,
        dtype=pipe.dtype,
        mesh=across(pipe.programs.mesh),
        concepts=len(config.erase),
        focal=config.importance_sampling,
        weight_decay=config.weight_decay,
        clip=config.clip,
    )
