"""Running an inversion: from images of a concept, or in closed form, to its embedding file; resumable at any moment.

Written into the directory: <name>.safetensors, loss.png, preview.png, log.jsonl, timing.jsonl, config.json,
checkpoints/ and the hashes of all; where several concepts are learned together, each has a folder of its own for the
first three. The closed form has no loss curve.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.config import InversionConfig
from ine_jax.embeddings.embedding import Embedding, slug
from ine_jax.errors import InputError
from ine_jax.inversion import objective, rece, stored
from ine_jax.inversion.preview import grid, plot_losses, preview_images
from ine_jax.inversion.start import first_vectors
from ine_jax.inversion.step import Frozen, inversion_objective
from ine_jax.inversion.stored import IMAGES, OWN_FIELDS, RECE, InversionResult, explicit_words
from ine_jax.inversion.templates import template_ids, usable
from ine_jax.pipeline.mesh import everywhere, first_decides
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.images import png
from ine_jax.storage.provenance import canonical
from ine_jax.training import loop
from ine_jax.training.curves import read_log
from ine_jax.training.finished import write_hashes
from ine_jax.training.step import compiled_step, first_state

PREVIEWS = 8  # images per row of the preview


def paper_setting(concept: str, **changes: Any) -> InversionConfig:
    """The setting of arXiv 2511.04834: Adam 5e-3, batch 1, 3000 steps, one vector; `changes` replace single fields."""
    paper: dict[str, Any] = {"vectors": 1, "steps": 3000, "batch": 1, "learning_rate": 5e-3, "log_every": 10}
    return InversionConfig(concept=concept, **{**paper, **changes})


def invert(
    pipe: Pipeline,
    images: np.ndarray,
    config: InversionConfig,
    directory: Path | str,
    progress: loop.Progress | None = None,
    preview: bool = True,
    base: Pipeline | None = None,
) -> InversionResult:
    """Find the embedding of what `images` (uint8 [N, H, W, 3]) show, in the frozen model; see `invert_many`."""
    return invert_many(pipe, [images], [config], directory, progress, preview, base, [Path(directory)])[0]


def invert_many(
    pipe: Pipeline,
    images: Sequence[np.ndarray],
    configs: Sequence[InversionConfig],
    directory: Path | str,
    progress: loop.Progress | None = None,
    preview: bool = True,
    base: Pipeline | None = None,
    folders: Sequence[Path] | None = None,
) -> list[InversionResult]:
    """Invert several concepts in one run, all in one batch of the network; each comes out as it would alone.

    Args:
        images: for each concept, uint8 [N, H, W, 3]; the numbers may differ.
        configs: for each concept; they may differ in concept, seed, init, words and steps. A concept that has done its
            steps stays as it is while the others go on.
        directory: continued where it already holds a part of this very run.
        preview: also generate images from the embeddings.
        base: the original of an unlearned model, for those that start from RECE.
        folders: of each concept's own files, by default one below `directory` of the concept's name.

    Raises:
        InputError: images, configs or the directory do not fit together.
        NumericalError: the loss stayed non-finite.
        Interrupted: asked to stop; calling again continues.
    """
    _check(images, configs)
    folder = Path(directory)
    own = folders or stored.folders(folder, configs)
    shared = configs[0]
    vectors = first_decides(np.stack(first_vectors(pipe, configs, base)))
    problem = inversion_objective(pipe, shared, len(configs))
    data = everywhere(training_data(pipe, images, configs, vectors[0]), problem.mesh)
    lengths = sorted({config.steps for config in configs})
    starts = base is not None and any(config.init == RECE for config in configs)
    weights = stored.weights_of(pipe.model_id, base.model_id if base is not None and starts else None)
    hashes = [stored.image_hash(each) for each in images]
    frozen = everywhere(Frozen(pipe.parts.text_params, pipe.parts.unet_params), problem.mesh)
    step = compiled_step(problem)
    with loop.owned(folder):
        final = loop.run(
            lambda state, i: step(frozen, data, state, i),
            first_state(problem, vectors, shared.learning_rate),
            steps=lengths[-1],
            directory=folder,
            save_every=shared.save_every,
            config=stored.learned_settings(pipe.name, weights, hashes, configs),
            log_every=shared.log_every,
            lines_at=lengths,
            progress=progress,
        )
        found, log, results = np.asarray(final.trained), read_log(folder), []
        for i, (config, place) in enumerate(zip(configs, own, strict=True)):
            curve = log[stored.loss_name(i, len(configs))][log["step"] <= config.steps]
            notes = {
                **weights,
                "images_sha256": hashes[i],
                "config": canonical(dataclasses.asdict(config)),
                "final_loss": f"{np.nanmean(curve[-max(1, len(curve) // 10) :]):.6f}",
            }
            learned = _embedding(pipe, config, found[i], notes)
            result = stored.result(
                learned, stored.file_in(place, config), log, config, stored.loss_name(i, len(configs))
            )
            if jax.process_index() == 0:
                title = f"inversion of {config.concept} in {pipe.name}"
                plot_losses(place / "loss.png", result.steps, result.losses, title)
            _write(pipe, result, ("images of the concept", images[i][:PREVIEWS]) if preview else None)
            results.append(result)
        _finish(folder, results)
        return results


def derive(
    pipe: Pipeline,
    base: Pipeline,
    config: InversionConfig,
    directory: Path | str,
    progress: loop.Progress | None = None,
    preview: bool = True,
) -> InversionResult:
    """RECE's closed form as the concept's embedding, without images: context space, a run of one step.

    The logged loss is the residual of keys and values (`rece.residual`), with that of the explicit words beside it. Of
    the config, only concept, words and regularizer matter. In the preview, the upper row is the original model's images
    of the explicit words, the lower row the unlearned model's images of the embedding. A finished run of the same
    config is left as it is.
    """
    folder, words = Path(directory), explicit_words(config)
    shape = (pipe.tokenizer.max_length, pipe.parts.text_config.hidden_size)
    origin = stored.weights_of(pipe.model_id, base.model_id)
    settings = stored.closed_settings(pipe.name, base.name, origin, config)

    solved = rece.solve(pipe, base, words, config.regularizer)  # raises before anything is written

    def step(_: np.ndarray, i: int) -> tuple[np.ndarray, dict[str, float]]:
        return solved.context, {"loss": solved.residual, "explicit": solved.explicit}

    with loop.owned(folder):
        found = loop.run(
            step,
            np.zeros(shape, np.float32),
            steps=1,
            directory=folder,
            save_every=1,
            config=settings,
            progress=progress,
        )
        log = read_log(folder)
        notes = {
            **origin,
            "base": base.name,
            "config": canonical(settings["concepts"][0]),
            "residual": f"{log['loss'][-1]:.6f}",
        }
        embedding = Embedding(found, "context", config.concept, pipe.name, notes)
        result = stored.result(embedding, stored.file_in(folder, config), log, config)
        explicit = Embedding(base.encode([words])[0], "context", config.concept)
        above = f"generated by {Path(base.name).name} from the words {words}"
        _write(pipe, result, (above, preview_images(base, explicit, PREVIEWS)) if preview else None)
        _finish(folder, [result])
    return result


def _finish(folder: Path, results: Sequence[InversionResult]) -> None:
    """Record the hashes of all files."""
    if jax.process_index() == 0:
        made = [place for one in results for place in (one.path, *(one.path.with_name(name) for name in IMAGES))]
        write_hashes(folder, made)


def _embedding(
    pipe: Pipeline, config: InversionConfig, vectors: np.ndarray, notes: Mapping[str, str] | None = None
) -> Embedding:
    return Embedding(vectors, config.space, config.concept, pipe.name, notes or {})


def _write(pipe: Pipeline, result: InversionResult, above: tuple[str, np.ndarray] | None) -> None:
    """Write the preview, generated images below the row `above`, then the embedding: its file marks the end."""
    folder, found = result.path.parent, result.embedding
    source = found.token if found.space == "token" else "the embedding"
    below = f"generated by {Path(pipe.name).name} from {source}"
    preview = None if above is None else grid([above, (below, preview_images(pipe, found, PREVIEWS))])
    if jax.process_index() != 0:
        return
    if preview is not None:
        write_atomic(folder / "preview.png", png(preview))
    found.save(result.path)


def training_data(
    pipe: Pipeline, images: Sequence[np.ndarray], configs: Sequence[InversionConfig], vectors: np.ndarray
) -> objective.Data:
    """Return what the steps of these concepts sample from; `vectors` are those of one concept, for their shape."""
    probe = _embedding(pipe, configs[0], vectors)
    mean, logvar = pipe.encode_images(np.concatenate(list(images)))
    counts = np.array([len(each) for each in images], np.int32)
    if probe.space == "token":
        ids = template_ids(usable(configs[0].templates, probe, pipe.tokenizer), probe, pipe.tokenizer)
    else:
        ids = np.zeros((1, 1), np.int32)
    data = objective.Data(
        mean=jnp.asarray(mean),
        logvar=jnp.asarray(logvar),
        start=jnp.asarray(np.cumsum(counts) - counts, jnp.int32),
        images=jnp.asarray(counts),
        seed=jnp.asarray([c.seed for c in configs], jnp.uint32),
        steps=jnp.asarray([c.steps for c in configs], jnp.int32),
        ids=jnp.asarray(ids),
        norm=None if configs[0].norm is None else jnp.float32(configs[0].norm),
    )
    return first_decides(data)


def _check(images: Sequence[np.ndarray], configs: Sequence[InversionConfig]) -> None:
    if not configs or len(images) != len(configs):
        given = f"{len(images)} image sets for {len(configs)} concepts"
        raise InputError(given, "one set per concept", "give as many image sets as concepts")
    if configs[0].method == RECE:
        raise InputError("method rece with images", "method inversion, or no images", "call derive, or change method")
    for each, config in zip(images, configs, strict=True):
        if each.dtype != np.uint8 or each.ndim != 4 or not len(each) or each.shape[1:] != images[0].shape[1:]:
            given = f"images of {config.concept}: {each.dtype} {each.shape}"
            raise InputError(given, "uint8 [N, H, W, 3], N at least 1, one size for all", "convert them")
    names = [slug(config.concept) for config in configs]
    if len(set(names)) != len(names):
        raise InputError(f"concepts {', '.join(names)}", "names that differ", "rename one of them")
    for config in configs[1:]:
        for field in dataclasses.fields(config):
            here, there = getattr(configs[0], field.name), getattr(config, field.name)
            if field.name not in OWN_FIELDS and here != there:
                given = f"{field.name}: {here} for {configs[0].concept}, {there} for {config.concept}"
                raise InputError(given, f"one value; only {', '.join(OWN_FIELDS)} may differ", "use separate runs")
