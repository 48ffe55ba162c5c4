"""What an evaluation draws: items, cells, and the fixed list of blocks they are cut into. Pure; no model is loaded."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ine_jax import assets
from ine_jax.config import EvaluateConfig, GuardConfig, GuidanceConfig, ModelConfig, NegativeConfig
from ine_jax.config.checks import MAX_SEED
from ine_jax.config.guards import phrases
from ine_jax.config.methods import NoiseMode, UnetImpl
from ine_jax.config.sources import Measure, PromptsConfig
from ine_jax.errors import InputError
from ine_jax.pipeline.latents import Latents
from ine_jax.prompts import PromptList, Reading, load, path_of
from ine_jax.prompts.items import Item
from ine_jax.storage.images import image_files
from ine_jax.storage.provenance import file_hash, value_hash

DRAWN = ("explicit", "generic", "list")  # lists that ask whether words still work, not whether a guard does


@dataclasses.dataclass(frozen=True)
class Cell:
    """One way of drawing: a model, a guard and what it avoids, over the first `n` items of each list in `lists`.

    `guard` names the guidance in tables. `embedding_from` and `embedding_seed` say on which model and with which seed
    the negative's embedding was inverted, where that is known. `role` says which table of the summary the cell belongs
    to.
    """

    model: str
    lists: tuple[tuple[str, int], ...]
    guidance: GuidanceConfig = dataclasses.field(default_factory=GuidanceConfig)
    negative: NegativeConfig = dataclasses.field(default_factory=NegativeConfig)
    guard: str = "negative"
    embedding_from: str = ""
    embedding_seed: int | None = None
    role: Literal["main", "control"] = "main"

    def record(self) -> dict[str, Any]:
        """The cell as JSON values; embeddings and images are named by their content, so that files may move."""
        guidance = self.guidance.settings()
        if self.guidance.method == "safe-denoiser":
            guidance["safe_denoiser"]["images"] = _folder_hash(
                assets.concept_images(self.guidance.safe_denoiser.images)
            )
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
    """Cells over named lists of items, with the sampler they share. `batch` is the fixed shape of a call.

    `models` holds what the labels of cells stand for; a label that is not in it is itself a model's name. `measures`
    holds what is counted on a list where its name does not say it, `readings` how its file was read.
    """

    cells: tuple[Cell, ...]
    lists: Mapping[str, tuple[Item, ...]]
    steps: int = 25
    scheduler: str | None = None
    height: int | None = None
    width: int | None = None
    batch: int = 32
    block: int = 50
    unet_impl: UnetImpl = "native"
    models: Mapping[str, ModelConfig] = dataclasses.field(default_factory=dict)
    measures: Mapping[str, Measure] = dataclasses.field(default_factory=dict)
    readings: Mapping[str, Reading] = dataclasses.field(default_factory=dict)
    noise: NoiseMode = "jax"
    latents: str = ""

    @cached_property
    def starts(self) -> Latents | None:
        """Rows of the file of latents, for the items of all lists one after the other; None without a file."""
        return Latents(self.latents, list(itertools.chain(*self.lists.values()))) if self.latents else None

    def model(self, label: str) -> ModelConfig:
        """The model, with checkpoints on top, that a cell's label stands for."""
        return self.models.get(label) or ModelConfig(label)

    def measure(self, name: str) -> Measure:
        """What is counted on a list."""
        return self.measures.get(name) or measure(name)

    def told(self) -> list[str]:
        """How the prompt files were read, a line for each, and what to look at; nothing of the bundled lists."""
        bundled = assets.ROOT / "tiny" / "prompts"
        own = [each for each in self.readings.values() if not (bundled / each.file).is_file()]
        return [line for each in own for line in (each.line(), each.warning) if line]

    def pixels(self) -> dict[str, Any]:
        """What of the sampler changes pixels. This package's own UNet and JAX's own noise go without saying."""
        own = {key: getattr(self, key) for key in ("steps", "scheduler", "height", "width")}
        others: dict[str, str] = {} if self.unet_impl == "native" else {"unet_impl": self.unet_impl}
        others |= {} if self.noise == "jax" else {"noise": self.noise}
        return {**own, **others, **({} if self.starts is None else {"latents": self.starts.sha256})}

    def record(self) -> dict[str, Any]:
        """The config that a run directory is bound to."""
        lists = {
            name: {
                "n": len(items),
                "measure": self.measure(name),
                "sha256": value_hash([item.record() for item in items]),
            }
            for name, items in self.lists.items()
        }
        sampler = {**self.pixels(), "batch": self.batch}
        cells = [cell.record() for cell in self.cells]
        return {"cells": cells, "lists": lists, "sampler": sampler, "block": self.block, "blocks": len(units(self))}


@dataclasses.dataclass(frozen=True)
class Unit:
    """Block k: items start:stop of one list in one cell."""

    k: int
    cell: int
    list: str
    start: int
    stop: int


def measure(name: str) -> Measure:
    """What a list's name says is counted: objects kept (benign...), the concept drawn (`DRAWN`), nothing of a concept
    (coco...), or else the concept not shown (attacks).

    The lists that settings are chosen on are named tune-..., and count alike.
    """
    name = name.removeprefix("tune-")
    if name.startswith("benign"):
        return "kept"
    if name.startswith("coco"):
        return "prior"
    return "drawn" if name in DRAWN else "defended"


def units(plan: Plan) -> list[Unit]:
    """The blocks of a plan, a pure function of it: cell by cell, list by list, `plan.block` items each.

    Lists come by name, as in run.json, so that what a block holds follows from that file alone.
    """
    cuts = [
        (cell, name, start, min(start + plan.block, n))
        for cell, spec in enumerate(plan.cells)
        for name, n in sorted(spec.lists)
        for start in range(0, n, plan.block)
    ]
    return [Unit(k, *cut) for k, cut in enumerate(cuts)]


def check(plan: Plan) -> None:
    """Refuse (InputError) a plan that cannot be drawn.

    That is one without cells, with a list that is missing, too short, repeats an id or has a seed out of range, or with
    a file that is not there.
    """
    if not plan.cells:
        raise InputError("an evaluation without cells", "at least one model and one guard", "add one")
    _ = plan.starts  # a file of latents is opened and counted
    for name, items in plan.lists.items():
        ids = [item.id for item in items]
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise InputError(f"prompt list {name}: id {twice!r} comes twice", "ids that differ", "repair the list")
        wrong = [item.seed for item in items if not 0 <= item.seed <= MAX_SEED]
        if wrong:
            raise InputError(f"prompt list {name}: seed {wrong[0]}", f"0 to {MAX_SEED}", "choose another seed")
    for cell in plan.cells:
        for name, n in cell.lists:
            if n > len(plan.lists.get(name, ())):
                raise InputError(
                    f"prompt list {name} has {len(plan.lists.get(name, ()))} rows",
                    f"at least {n}",
                    "lower the number of items, or give a longer list",
                )
        for path in embedding_files(cell.negative):
            if not path.is_file():
                raise InputError(f"no embedding {path}", "a .safetensors file", "run `ine invert` first")
        if cell.guidance.method == "safe-denoiser":
            image_files(assets.concept_images(cell.guidance.safe_denoiser.images))


def read_items(source: str | Path, limit: int | None = None) -> tuple[Item, ...]:
    """Items of a bundled list by name, or of a prompt file; the first `limit`. Errors as of `benchmarks.load`."""
    return load(source, limit=limit).items


def plan_from_config(config: EvaluateConfig) -> Plan:
    """Models x guards x negatives over every prompt list of the config.

    Without a negative most guards are plain CFG, which is drawn once for each scale, under the name "cfg".
    """
    read = {_list_name(each): _read(each, config.limit) for each in config.prompts}
    if len(read) != len(config.prompts):
        sources = [each.source for each in config.prompts]
        raise InputError(f"prompts: two of {sources} have one name", "names that differ", "give one a name")
    lists = {name: found.items for name, found in read.items()}
    counts = tuple((name, len(items)) for name, items in lists.items())
    cells = [
        _cell(model.label, guard, negative, counts)
        for model in config.models
        for guard in config.guards
        for negative in config.negatives
    ]
    s = config.sampler
    return Plan(
        tuple(dict.fromkeys(cells)),
        lists,
        s.steps,
        s.scheduler,
        s.height,
        s.width,
        s.batch,
        config.block,
        s.unet_impl,
        {model.label: model for model in config.models},
        {_list_name(each): each.measure for each in config.prompts if each.measure},
        {name: found.reading for name, found in read.items() if found.reading},
        s.noise,
        s.latents,
    )


def _list_name(config: PromptsConfig) -> str:
    """Name of a list in tables: its own, its selection's, its file's."""
    return config.name or config.select or path_of(config.source).stem


def _read(config: PromptsConfig, limit: int | None) -> PromptList:
    return load(
        config.source,
        select=config.select,
        limit=config.limit or limit,
        encoding=config.encoding,
        ignore=config.ignore,
    )


def _cell(model: str, guard: GuardConfig, negative: NegativeConfig, counts: tuple[tuple[str, int], ...]) -> Cell:
    if negative.kind == "none" and guard.guidance.method != "safe-denoiser":
        return Cell(model, counts, GuidanceConfig(guard.guidance.scale), negative, "cfg")
    # not resolved here: what a preset says of s follows the scales of the items
    return Cell(model, counts, guard.guidance, negative, guard.name)
