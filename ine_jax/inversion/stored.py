"""An inversion as its directory keeps it: its settings, and the results of a finished one; no model is loaded."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ine_jax.config import InversionConfig, InvertConfig
from ine_jax.embeddings.embedding import Embedding, slug
from ine_jax.models.checkpoints.model_files import ModelFiles, find_model_files
from ine_jax.models.parts import id_from_hashes
from ine_jax.storage.binding import difference
from ine_jax.storage.images import read_images
from ine_jax.storage.sealed import SUMS, read_sums, sums_faults
from ine_jax.storage.weight_files import read_json
from ine_jax.training.curves import read_log

RECE = "rece"
# Fields in which the concepts of one run may differ; all others shape the batch that they share.
OWN_FIELDS = ("concept", "seed", "init", "words", "steps")
# Fields that do not change what a given number of steps computes; the second ones only where nothing starts from RECE.
IDLE_FIELDS = ("steps", "save_every")
RECE_FIELDS = ("words", "regularizer")
IMAGES = ("loss.png", "preview.png")


@dataclass(frozen=True)
class InversionResult:
    """The found embedding, where its file is, and the loss: `steps` [n] and `losses` [n] as logged."""

    embedding: Embedding
    path: Path
    steps: np.ndarray = dataclasses.field(repr=False)
    losses: np.ndarray = dataclasses.field(repr=False)


def file_in(folder: Path, config: InversionConfig) -> Path:
    """The file of a concept's embedding in its folder."""
    return folder / f"{slug(config.concept)}.safetensors"


def folders(root: Path, configs: Sequence[InversionConfig]) -> list[Path]:
    """The folder of each of several concepts of one run."""
    return [root / slug(config.concept) for config in configs]


def result(
    embedding: Embedding, path: Path, log: Mapping[str, np.ndarray], config: InversionConfig, loss: str = "loss"
) -> InversionResult:
    """The result of one concept, with its own lines of the run's log; `loss` is the column of its loss."""
    own = log["step"] <= config.steps
    return InversionResult(embedding, path, log["step"][own], log[loss][own])


def loss_name(index: int, concepts: int) -> str:
    """Column of the log that holds a concept's own loss."""
    return "loss" if concepts == 1 else f"loss_{index}"


def explicit_words(config: InversionConfig) -> str:
    """The words that RECE starts from: those given, else the concept's name."""
    return config.words or config.concept


def weights_of(model_id: str, base_id: str | None) -> dict[str, str]:
    """The content ids of the models that a run computes with."""
    return {"model_id": model_id} | ({"base_model_id": base_id} if base_id else {})


def learned_settings(
    model: str, weights: Mapping[str, str], hashes: Sequence[str], configs: Sequence[InversionConfig]
) -> dict[str, Any]:
    """All that a directory of textual inversion is bound to; `hashes` are those of the images of each concept."""
    lengths = sorted({config.steps for config in configs})
    bound = [_bound(config, lengths) for config in configs]
    return {"model": model, **weights, "images_sha256": list(hashes), "concepts": bound}


def closed_settings(model: str, base: str, weights: Mapping[str, str], config: InversionConfig) -> dict[str, Any]:
    """All that a directory of RECE's closed form is bound to."""
    words = explicit_words(config)
    settings = {"method": RECE, "concept": config.concept, "words": words, "regularizer": config.regularizer}
    return {"model": model, "base": base, **weights, "concepts": [settings]}


def _bound(config: InversionConfig, lengths: Sequence[int]) -> dict[str, Any]:
    """The fields that a run's directory is bound to: steps too where the concepts end at several of `lengths`."""
    idle = set(IDLE_FIELDS if config.init == RECE else IDLE_FIELDS + RECE_FIELDS)
    idle -= {"steps"} if len(lengths) > 1 else set()
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in idle}


def image_hash(images: np.ndarray) -> str:
    """SHA-256 of images as arrays."""
    return hashlib.sha256(str(images.shape).encode() + np.ascontiguousarray(images).tobytes()).hexdigest()


def finished(config: InvertConfig, each: Sequence[tuple[InversionConfig, Path]]) -> list[InversionResult] | None:
    """Return the results in the directory of a finished run, or None where there is anything left to do or to report.

    Models and images are hashed, and every file of the run is compared with its hash.

    Args:
        each: settings and image folder of every concept.
    """
    root, configs = Path(config.out), [one for one, _ in each]
    if jax.distributed.is_initialized():
        return None  # all processes of a pod have to agree
    if not (root / SUMS).is_file() or sums_faults(root):
        return None
    closed = config.inversion.method == RECE
    own = folders(root, configs) if config.concepts else [root]
    paths = [file_in(folder, one) for folder, one in zip(own, configs, strict=True)]
    names = IMAGES[closed:]  # the closed form has no loss curve
    wanted = [*paths, *(folder / name for folder in own for name in names)]
    if not {str(path.relative_to(root)) for path in wanted} <= set(read_sums(root)):
        return None
    if difference(read_json(root / "config.json"), json.loads(json.dumps(_asked(config, each)))):
        return None
    log, count = read_log(root), len(configs)
    if int(log["step"][-1]) != (1 if closed else max(one.steps for one in configs)):
        return None
    losses = [loss_name(i, count) for i in range(count)]
    return [result(Embedding.load(p), p, log, c, name) for p, c, name in zip(paths, configs, losses, strict=True)]


def _asked(config: InvertConfig, each: Sequence[tuple[InversionConfig, Path]]) -> dict[str, Any]:
    """The settings of a run of this config."""
    model = find_model_files(config.model, config.revision, unlearned=config.unlearned)
    base = find_model_files(config.base, config.base_revision) if config.base else None
    weights = weights_of(_id(model), _id(base) if base else None)
    if config.inversion.method == RECE and base is not None:
        return closed_settings(model.name, base.name, weights, config.inversion)
    side = model.image_side
    hashes = [image_hash(read_images(folder, side, side)) for _, folder in each]
    return learned_settings(model.name, weights, hashes, [one for one, _ in each])


def _id(model: ModelFiles) -> str:
    return id_from_hashes(model.hashes())
