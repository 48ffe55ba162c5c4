"""What an evaluation generates: items, cells, and the fixed blocks they are cut into. Pure; no model is loaded."""

import dataclasses
import itertools
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import cast

from ine_jax import assets
from ine_jax.config import EvaluateConfig, GuardConfig, GuidanceConfig, ModelConfig, NegativeConfig, SamplerConfig
from ine_jax.config.checks import MAX_SEED
from ine_jax.config.guards import phrases
from ine_jax.config.methods import LatentsLayout, NoiseMode, UnetImpl
from ine_jax.config.sources import PromptsConfig
from ine_jax.errors import InputError
from ine_jax.evaluation.units import Unit, units
from ine_jax.pipeline.latents import Latents
from ine_jax.prompts import PromptSet, Reading, load, path_of
from ine_jax.prompts.items import Item
from ine_jax.storage.images import image_files
from ine_jax.storage.provenance import file_hash, value_hash
from ine_jax.storage.records import CellSpec, GuidanceSpec, ListEntry, Measure, Role, RunConfig, SamplerSpec

OWN = "own"  # of a negative's embeddings: the one that the model names
# prompt sets that ask whether words still work on an unlearned model, not whether a guard does
WORD_LISTS = ("explicit", "generic", "list")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of the grid: a model, a guard and what it avoids."""

    model: str
    lists: tuple[tuple[str, int], ...]  # prompt set, and how many of its first items
    guidance: GuidanceConfig = dataclasses.field(default_factory=GuidanceConfig)
    negative: NegativeConfig = dataclasses.field(default_factory=NegativeConfig)
    guard: str = "negative"  # name of the guidance in tables
    embedding_from: str = ""  # model of the embedding's inversion, where known
    embedding_seed: int | None = None
    role: Role = "main"

    def record(self) -> CellSpec:
        """The cell as JSON values; embeddings and images are named by their content, so that files may move."""
        guidance = cast(GuidanceSpec, self.guidance.settings())
        if self.guidance.method == "safe-denoiser":
            images = _folder_hash(assets.concept_images(self.guidance.safe_denoiser.images))
            guidance["safe_denoiser"]["images"] = images
        return {
            "model": self.model,
            "guard": self.guard,
            "role": self.role,
            "lists": dict(self.lists),
            "guidance": guidance,
            "negative": self.negative.kind,
            "negative_name": self.negative.name,
            "words": list(phrases(self.negative.words)),
            "embeddings": [file_hash(path) for path in embedding_files(self.negative)],
            "template": self.negative.template,
            "blend": self.negative.blend,
            "embedding_from": self.embedding_from,
            "embedding_seed": self.embedding_seed,
        }


def embedding_files(negative: NegativeConfig) -> list[Path]:
    """Files of a negative's embeddings; a name without a suffix is a bundled one."""
    return [assets.embedding(name) for name in phrases(negative.embedding)]


def _folder_hash(folder: Path) -> str:
    return value_hash({path.name: file_hash(path) for path in sorted(image_files(folder))})


@dataclasses.dataclass(frozen=True)
class Plan:
    """Cells over named prompt sets, with the sampler they share."""

    cells: tuple[Cell, ...]
    lists: Mapping[str, tuple[Item, ...]]
    steps: int = SamplerConfig.steps
    scheduler: str | None = None
    height: int | None = None
    width: int | None = None
    batch: int = 32  # the fixed shape of a call
    block: int = 50  # items that are stored at once
    unet_impl: UnetImpl = "native"
    models: Mapping[str, ModelConfig] = dataclasses.field(default_factory=dict)  # by label; other labels are names
    measures: Mapping[str, Measure] = dataclasses.field(default_factory=dict)  # where a set's name does not decide it
    readings: Mapping[str, Reading] = dataclasses.field(default_factory=dict)  # how files were read
    noise: NoiseMode = "jax"
    latents: str = ""  # file of initial noise
    latents_layout: LatentsLayout = "NCHW"
    detector: str = ""  # `<id>@<version>` of the one that fills the tables of a report

    @cached_property
    def starts(self) -> Latents | None:
        """Rows of the file of latents, for the items of all sets one after the other; None without a file."""
        return (
            Latents(self.latents, list(itertools.chain(*self.lists.values())), self.latents_layout)
            if self.latents
            else None
        )

    def units(self) -> list[Unit]:
        """The blocks of the plan."""
        return units([dict(cell.lists) for cell in self.cells], self.block)

    def model(self, label: str) -> ModelConfig:
        """The model, with checkpoints on top, of a cell's label."""
        return self.models.get(label) or ModelConfig(label)

    def measure(self, name: str) -> Measure:
        """What is counted on a prompt set."""
        return self.measures.get(name) or measure(name)

    def notes(self) -> list[str]:
        """How the user's prompt files were read, a line for each, and their warnings."""
        bundled = assets.ROOT / "tiny" / "prompts"
        own = [each for each in self.readings.values() if not (bundled / each.file).is_file()]
        return [line for each in own for line in (each.line(), each.warning) if line]

    def pixels(self) -> SamplerSpec:
        """What of the sampler changes pixels; this package's own UNet and JAX's own noise are left out."""
        found: SamplerSpec = {
            "steps": self.steps,
            "scheduler": self.scheduler,
            "height": self.height,
            "width": self.width,
        }
        if self.unet_impl != "native":
            found["unet_impl"] = self.unet_impl
        if self.noise != "jax":
            found["noise"] = self.noise
        if self.starts is not None:
            found["latents"] = self.starts.identity
        return found

    def record(self) -> RunConfig:
        """The config that a run directory is bound to."""
        found: RunConfig = {
            "cells": [cell.record() for cell in self.cells],
            "lists": {name: self._entry(name) for name in self.lists},
            "sampler": {**self.pixels(), "batch": self.batch},
            "block": self.block,
            "blocks": len(self.units()),
        }
        if self.detector:
            found["detector"] = self.detector
        return found

    def _entry(self, name: str) -> ListEntry:
        items = self.lists[name]
        digest = value_hash([item.record() for item in items])
        return {"n": len(items), "measure": self.measure(name), "sha256": digest}


def measure(name: str) -> Measure:
    """What is counted on a prompt set of this name.

    On benign...: the objects asked for are shown; on coco...: no concept; on `WORD_LISTS`: the concept is shown; on all
    others (attacks): it is not shown. The sets that settings are chosen on are named tune-..., and count alike.
    """
    name = name.removeprefix("tune-")
    if name.startswith("benign"):
        return "kept"
    if name.startswith("coco"):
        return "prior"
    return "drawn" if name in WORD_LISTS else "defended"


def check(plan: Plan) -> None:
    """Raise InputError for a plan that cannot be generated, before anything is loaded."""
    if not plan.cells:
        raise InputError("an evaluation without cells", "at least one model and one guard", "add one")
    _ = plan.starts  # a file of latents is opened and counted
    for name, items in plan.lists.items():
        ids = [item.id for item in items]
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise InputError(f"prompt set {name}: id {twice!r} comes twice", "ids that differ", "correct the file")
        wrong = [item.seed for item in items if not 0 <= item.seed <= MAX_SEED]
        if wrong:
            raise InputError(f"prompt set {name}: seed {wrong[0]}", f"0 to {MAX_SEED}", "choose another seed")
    for cell in plan.cells:
        for name, n in cell.lists:
            if n > len(plan.lists.get(name, ())):
                raise InputError(
                    f"prompt set {name} has {len(plan.lists.get(name, ()))} rows",
                    f"at least {n}",
                    "lower the number of items, or give a longer prompt set",
                )
        for path in embedding_files(cell.negative):
            if not path.is_file():
                raise InputError(f"no embedding {path}", "a .safetensors file", "run `ine invert` first")
        if cell.guidance.method == "safe-denoiser":
            image_files(assets.concept_images(cell.guidance.safe_denoiser.images))


def read_items(source: str | Path, limit: int | None = None) -> tuple[Item, ...]:
    """The first `limit` items of a bundled prompt set by name, or of a prompt file. Errors as of `prompts.load`."""
    return load(source, limit=limit).items


def plan_from_config(config: EvaluateConfig) -> Plan:
    """Models x guards x negatives over every prompt set; without a negative most guards are "cfg", once per scale."""
    read = {_list_name(each): _read(each, config.limit) for each in config.prompts}
    if len(read) != len(config.prompts):
        sources = [each.source for each in config.prompts]
        raise InputError(f"prompts: two of {sources} have one name", "names that differ", "give one a name")
    lists = {name: found.items for name, found in read.items()}
    counts = tuple((name, len(items)) for name, items in lists.items())
    origins = {assets.embedding(model.embedding): model.label for model in config.models if model.embedding}
    cells = [
        _cell(model, guard, negative, counts, origins)
        for model in config.models
        for guard in config.guards
        for negative in config.negatives
    ]
    return Plan(
        tuple(dict.fromkeys(cells)),
        lists,
        block=config.block,
        models={model.label: model for model in config.models},
        measures={_list_name(each): each.measure for each in config.prompts if each.measure},
        readings={name: found.reading for name, found in read.items() if found.reading},
        **dataclasses.asdict(config.sampler),
    )


def _list_name(config: PromptsConfig) -> str:
    """Name of a prompt set in tables: its own, its selection's, or its file's."""
    return config.name or config.select or path_of(config.source).stem


def _read(config: PromptsConfig, limit: int | None) -> PromptSet:
    return load(
        config.source, select=config.select, limit=config.limit or limit, encoding=config.encoding, ignore=config.ignore
    )


def _cell(
    model: ModelConfig,
    guard: GuardConfig,
    negative: NegativeConfig,
    counts: tuple[tuple[str, int], ...],
    origins: Mapping[Path, str],
) -> Cell:
    if negative.kind == "none" and guard.guidance.method != "safe-denoiser":
        return Cell(model.label, counts, GuidanceConfig(guard.guidance.scale), negative, "cfg")
    names = phrases(negative.embedding)
    if OWN in names:
        if not model.embedding:
            given = f"embedding: {OWN}, and model {model.label} names none"
            raise InputError(given, "an `embedding` of every model", "run `ine invert` on it, and name the file")
        own = tuple(model.embedding if name == OWN else name for name in names)
        negative = dataclasses.replace(negative, embedding=own)
    files = embedding_files(negative) if origins else []
    source = origins.get(files[0], "") if len(files) == 1 else ""
    # not resolved here: the negative scale of a preset follows the scales of the items
    return Cell(model.label, counts, guard.guidance, negative, guard.name, source)
