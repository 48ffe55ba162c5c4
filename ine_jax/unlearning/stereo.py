"""STEREO (arXiv 2408.16807, CVPR 2025): search what inversion still recovers, then erase all of it once.

Stage 1, *search thoroughly enough*. Round k erases with ESD's loss, the prompts in round 0 and the last found embedding
in every other, starting from the model of the round before; then concept inversion on the erased model finds the next
embedding, on images of its own (`ine_jax.inversion`).

Stage 2, *robustly erase once*. The original model is trained to answer every erased context, prompts and embeddings,
with compositional guidance towards an anchor a away from all N of them,

    ε_θ(x_t, c)  ←  ε_0(x_t, ∅) + (s - 1) (ε_0(x_t, a) - ε_0(x_t, ∅)) - (s + 1) / N Σ_n (ε_0(x_t, c_n) - ε_0(x_t, ∅))

with s = 2 (the authors' `normalized_compositional_guidance`, whose projection has no effect at its default). Anchors
are prompts of the concept in scenes that are to stay. Erased contexts and anchors are dealt out evenly.

As in this project's ESD, x_t lies on trajectories of the model before the stage, computed once; the authors run the
model that is being trained, and they add AdamW's weight decay (0.01), which changes a weight by 4e-5 of itself here.
The bundled world uses its own images and captions; nothing else is replaced.

Written into the directory: as by ESD, with the second stage's log; search-<k>/erase and search-<k>/invert are runs of
their own, and a finished one is not repeated.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ine_jax import assets
from ine_jax.config import EsdConfig, InversionConfig, StereoConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.inversion import InversionResult, invert
from ine_jax.pipeline import from_config
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.training import loop
from ine_jax.training.checkpoint import content_hash
from ine_jax.unlearning import esd
from ine_jax.unlearning.esd_data import Pool, visit
from ine_jax.unlearning.prompts import with_prompts
from ine_jax.unlearning.result import Result, origin_of
from ine_jax.unlearning.run import binding

IDLE_FIELDS = ("save_every", "anchors_file", "images")


def unlearn(
    pipe: Pipeline, config: StereoConfig, directory: Path | str, progress: loop.Progress | None = None
) -> Result:
    """Run both stages, write the changed weights and return the result; `pipe` itself stays as it is.

    Raises:
        InputError: no prompt, no anchor, images that cannot be read, or another run's directory.
        NumericalError: a loss stayed non-finite.
        Interrupted: asked to stop; calling again continues.
    """
    folder, config = Path(directory), with_prompts(config)
    if not config.erase or not config.anchors:
        raise InputError("erase or anchors: empty", "at least one prompt each", "name the concept and its scenes")
    images = from_config.images(assets.concept_images(config.images), pipe)
    found = search(pipe, config, images, folder, progress)
    embeddings = [each.embedding for each in found]
    prompts = [*config.erase, *(config.template.format(each.token) for each in embeddings)]
    contexts = pipe.encode(prompts, embeddings)
    settings = erasure(config, config.learning_rate, 0.0, config.erase)
    bound = {**origin_of(pipe), "stereo": binding(config, IDLE_FIELDS), "found": [_digest(each) for each in embeddings]}
    notes = {"method": "stereo", "config": dataclasses.asdict(config), **origin_of(pipe)}

    def data() -> esd.Data:
        erased = jnp.asarray(contexts)
        return esd.with_kept(pipe, settings, anchored_pool(pipe, config, contexts), erased)

    later = _Later.after(progress, config.rounds * (config.erase_steps + config.inversion_steps))
    return esd.train(pipe, settings, data, folder, bound, notes, later, [each.path for each in found])


def search(
    pipe: Pipeline, config: StereoConfig, images: np.ndarray, folder: Path, progress: loop.Progress | None
) -> list[InversionResult]:
    """Stage 1: the embeddings of all rounds, each inverted on the model that forgot the one before."""
    model, found, done = pipe, list[InversionResult](), 0
    for k in range(config.rounds):
        place, embeddings = folder / f"search-{k}", [each.embedding for each in found]
        prompts = (config.template.format(embeddings[-1].token),) if k else config.erase
        settings = erasure(config, config.search_learning_rate, config.search_eta, prompts)
        later = _Later.after(progress, done)
        result = esd.erase(model, settings, place / "erase", later, embeddings=embeddings[-1:])
        model = pipe.with_unet(result.params, f"{pipe.name}-search-{k}")
        later = _Later.after(progress, done + config.erase_steps)
        own = share(images, k, config.rounds)
        found.append(invert(model, own, inversion(config, k), place / "invert", later, preview=False))
        done += config.erase_steps + config.inversion_steps
    return found


def share(images: np.ndarray, k: int, rounds: int) -> np.ndarray:
    """The images of round k: an equal part of its own; where there are fewer than rounds, they go round."""
    count = max(1, len(images) // rounds)
    part: np.ndarray = images[(k * count + np.arange(count)) % len(images)]
    return part


def anchored_pool(pipe: Pipeline, config: StereoConfig, contexts: np.ndarray) -> Pool:
    """Trajectories of the original model for the erased contexts [N, T, D], each with an anchor, and their targets."""
    rng = np.random.default_rng(config.seed)
    prompt, anchor = dealt(rng, len(contexts), config.pool), dealt(rng, len(config.anchors), config.pool)
    anchors = pipe.encode(list(config.anchors))[anchor]
    erased = np.broadcast_to(contexts, (config.pool, *contexts.shape))
    others, empty = np.concatenate([anchors[:, None], erased], 1), jnp.asarray(pipe.encode([""]))
    weights = anchored_weights(config.scale, len(contexts))
    latents, targets, timesteps = visit(pipe, config, contexts[prompt], empty, others, weights)
    return Pool(latents, targets[:, 0], timesteps, jnp.asarray(prompt))


def anchored_weights(scale: float, count: int) -> np.ndarray:
    """The weights of stage 2's target: of ∅, the prompt, the anchor and `count` erased contexts."""
    away = scale + 1.0
    return np.asarray([[1.0 - (scale - 1.0) + away, 0.0, scale - 1.0, *[-away / count] * count]], np.float32)


def dealt(rng: np.random.Generator, kinds: int, count: int) -> np.ndarray:
    """`count` indices below `kinds`, each equally often to within one, in random order."""
    indices: np.ndarray = rng.permutation(np.arange(count, dtype=np.int32) % kinds)
    return indices


def erasure(config: StereoConfig, rate: float, eta: float, prompts: Sequence[str]) -> EsdConfig:
    """The settings of one erasure, as ESD's."""
    names = {field.name for field in dataclasses.fields(EsdConfig)} - {"erase", "learning_rate", "prompts_file"}
    shared = {name: value for name, value in dataclasses.asdict(config).items() if name in names}
    return EsdConfig(**shared, erase=tuple(prompts), steps=config.erase_steps, learning_rate=rate, eta=eta)


def inversion(config: StereoConfig, k: int) -> InversionConfig:
    """The settings of round k's inversion."""
    return InversionConfig(
        concept=f"found-{k}",
        steps=config.inversion_steps,
        batch=config.inversion_batch,
        learning_rate=config.inversion_learning_rate,
        init=config.init,
        seed=config.seed,
        save_every=config.save_every,
        log_every=config.log_every,
    )


def _digest(embedding: Embedding) -> str:
    return content_hash({"vectors": np.asarray(embedding.vectors)})


@dataclass(frozen=True)
class _Later:
    """Shows the steps of a part of the run after those that went before it."""

    progress: loop.Progress
    done: int

    @classmethod
    def after(cls, progress: loop.Progress | None, done: int) -> "_Later | None":
        return None if progress is None else cls(progress, done)

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        self.progress.update(self.done + step, metrics)
