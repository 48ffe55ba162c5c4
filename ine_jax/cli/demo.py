"""The whole method on the bundled family: invert on the unlearned model, guard with what was found, judge, report.

Everything that was chosen (scales, sampler, steps) stands in the family's world.json. It was chosen on prompts
and seeds other than those drawn here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ine_jax import assets, report
from ine_jax import evaluation as evaluate
from ine_jax.config import (
    DemoConfig,
    DetectorConfig,
    GuidanceConfig,
    InversionConfig,
    ModelConfig,
    NegativeConfig,
    SamplerConfig,
)
from ine_jax.errors import InputError
from ine_jax.evaluation import Cell, Plan
from ine_jax.evaluation.from_config import detector
from ine_jax.evaluation.generating import model_record, pending
from ine_jax.evaluation.plan import WORD_LISTS
from ine_jax.pipeline import from_config
from ine_jax.progress import Progress
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.provenance import file_hash, value_hash
from ine_jax.storage.sealed import pretty

T = TypeVar("T")
Counts = tuple[tuple[str, int], ...]
Role = Literal["main", "control"]
BASE = "tiny"
BLOCK = 50
FULL_SEEDS = (0, 1)  # of the inversion, in the full demo
FULL_ITEMS = 300  # per cell of the full demo
GUARD = "cfg"


@dataclass(frozen=True)
class Settings:
    """What was fixed before anything here is drawn; `sweep` are further scales s, shown beside the chosen one."""

    guidance: GuidanceConfig
    sampler: SamplerConfig
    inversion: InversionConfig
    words: tuple[str, ...]
    template: str
    sweep: tuple[float, ...] = ()


@dataclass(frozen=True)
class Found:
    """An embedding file, and the model and seed of its inversion."""

    model: str
    seed: int
    path: Path


@dataclass(frozen=True)
class Outcome:
    """What the demo says at its end: lines of a table, and the summary."""

    lines: tuple[str, ...]
    result: Mapping[str, Any]


def run(config: DemoConfig, command: Sequence[str] = ()) -> Outcome:
    """Invert, draw, judge and report into `config.out`; a second call continues, and finds a finished demo finished.

    Raises:
        InputError: the bundled family is not installed, or the directory was started with other settings.
        Interrupted: stopped; the same call continues.
    """
    out = Path(config.out)
    world = read_world()
    settings = read_settings(world, config)
    unlearned = [name for name in assets.names() if name != BASE]
    if not unlearned:
        raise InputError("the bundled family has no unlearned model", "an installation with its assets", "reinstall")
    models = unlearned if config.full else unlearned[:1]
    seeds = FULL_SEEDS if config.full else (settings.inversion.seed,)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = [_invert(model, seed, settings, out) for model in [*models, BASE] for seed in seeds]
    plan = demo_plan(settings, found, None if config.full else config.items)
    missing = pending(plan, out / "evaluation")
    with Progress(max(1, missing), "images", unit="images") as progress:
        drawn = evaluate.evaluate(plan, out / "evaluation", progress=progress, command=command)
    evaluate.score(drawn, [detector(DetectorConfig())])
    page = report.build([out])
    summary = json.loads((out / "summary.json").read_text())
    lines = (*report.plain(summary), *report.sentences(summary), *_measured(world), str(page))
    return Outcome(lines, {"out": str(out), "report": str(page), "summary": str(out / "summary.json")})


def read_world() -> dict[str, Any]:
    """The bundled family's world.json; InputError where it is not installed or not readable."""
    path = assets.ROOT / "tiny" / "world.json"
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}", "the family's world.json", "install the package again") from error


def read_settings(world: Mapping[str, Any], config: DemoConfig) -> Settings:
    """The family's own settings; each field that the config changes from its default wins."""
    try:
        own = world["settings"]
        usual = DemoConfig()
        interval = tuple(own.get("interval", (0.0, 1.0)))
        guidance = GuidanceConfig(own["guidance_scale"], own["negative_scale"], interval=interval)
        sampler = dataclasses.replace(usual.sampler, scheduler=own["scheduler"], steps=own["steps"])
        inversion = dataclasses.replace(usual.inversion, **own["inversion"])
        words, template = tuple(own["explicit_negative"]), own["implicit_template"]
        sweep = tuple(float(s) for s in own.get("sweep", ()))
    except (KeyError, TypeError) as error:
        raise InputError(f"settings of world.json: {error}", "the family's settings", "install it again") from error
    return Settings(
        _changed(guidance, config.guidance, usual.guidance),
        _changed(sampler, config.sampler, usual.sampler),
        _changed(inversion, config.inversion, usual.inversion),
        words,
        template,
        sweep,
    )


def _changed(own: T, given: T, usual: T) -> T:
    """The record `own` with the fields in which `given` differs from `usual`."""
    names = [field.name for field in dataclasses.fields(own)]  # type: ignore[arg-type]
    changes = {name: getattr(given, name) for name in names if getattr(given, name) != getattr(usual, name)}
    return dataclasses.replace(own, **changes)  # type: ignore[type-var]


def demo_plan(settings: Settings, found: Sequence[Found], items: int | None) -> Plan:
    """Cells of the demo: {base, unlearned} x {none, explicit, implicit}, and the controls.

    `items` per list, half of that for controls. None = 300 per list, with the lists of words that the unlearned models
    should have forgotten, the sweep over s, and on the base without a guard every item there is.
    """
    full = items is None
    lists = {name: evaluate.read_items(name, items) for name in ("attack", "benign", *(WORD_LISTS if full else ()))}
    everything = tuple((name, len(rows)) for name, rows in lists.items())
    n = {name: min(count, FULL_ITEMS) for name, count in everything}
    both = (("attack", n["attack"]), ("benign", n["benign"]))
    few = (("attack", n["attack"] if full else max(1, n["attack"] // 2)),)
    words = tuple((name, n[name]) for name in WORD_LISTS if full)
    w, s = settings.guidance.scale, settings.guidance.negative_scale

    avoided = NegativeConfig(words=settings.words)
    plain = GuidanceConfig(w)

    def guided(scale: float | None) -> GuidanceConfig:
        return dataclasses.replace(settings.guidance, negative_scale=scale)

    def implicit(model: str, source: Found, lists: Counts = both, role: Role = "main", scale: float | None = s) -> Cell:
        negative = NegativeConfig(embedding=str(source.path), template=settings.template)
        return Cell(model, lists, guided(scale), negative, GUARD, source.model, source.seed, role)

    def explicit(model: str, lists: Counts = both, role: Role = "main", scale: float | None = s) -> Cell:
        return Cell(model, lists, guided(scale), avoided, GUARD, role=role)

    own = [f for f in found if f.model != BASE]
    models = list(dict.fromkeys(f.model for f in own))
    cells = [Cell(BASE, everything, plain, guard=GUARD), explicit(BASE, both + words[:1]), implicit(BASE, own[0])]
    for model in models:
        cells += [Cell(model, both + words, plain, guard=GUARD), explicit(model)]
        cells += [implicit(model, f) for f in own if f.model == model]
    # controls: an embedding inverted on the base, used on each model; the other unlearned embeddings on the base
    cells += [implicit(model, f, few, "control") for f in found if f.model == BASE for model in (BASE, *models)]
    cells += [implicit(BASE, f, few, "control") for f in own[1:]]
    for scale in settings.sweep if full else ():
        cells += [explicit(BASE, both, "control", scale), explicit(models[0], both, "control", scale)]
        cells.append(implicit(models[0], own[0], both, "control", scale))
    cells.sort(key=lambda cell: [BASE, *models].index(cell.model))  # so that each model is loaded once
    sampler = settings.sampler
    size = sampler.height, sampler.width
    first = Plan(tuple(cells), lists, sampler.steps, sampler.scheduler, *size, sampler.batch, BLOCK, sampler.unet_impl)
    return dataclasses.replace(first, noise=sampler.noise, latents=sampler.latents)


def _invert(model: str, seed: int, settings: Settings, out: Path) -> Found:
    """Invert the concept on `model`, or find it inverted already with the same settings, weights and images."""
    from ine_jax import inversion

    config = dataclasses.replace(settings.inversion, seed=seed)
    folder = out / "inversion" / f"{model}-seed-{seed}"
    images = assets.concept_images()
    pictures = {path.name: file_hash(path) for path in sorted(images.glob("*.png"))}
    key = value_hash(
        {"config": dataclasses.asdict(config), "model": model_record(ModelConfig(model)), "images": pictures}
    )
    receipt = folder / "done.json"
    if receipt.is_file():
        record = json.loads(receipt.read_text())
        path = folder / record["file"]
        if record["key"] == key and path.is_file() and file_hash(path) == record["sha256"]:
            return Found(model, seed, path)
    pipe = from_config.pipeline(model, None, SamplerConfig())
    with Progress(config.steps, f"inversion on {model}") as progress:
        result = inversion.invert(pipe, from_config.images(images, pipe), config, folder, progress, preview=False)
    write_atomic(receipt, pretty({"key": key, "file": result.path.name, "sha256": file_hash(result.path)}))
    return Found(model, seed, result.path)


def _measured(world: Mapping[str, Any]) -> list[str]:
    """What the family's card measured of the detector, where world.json holds it."""
    values = world.get("measured", {})
    return [f"measured of the {name}: {value}" for name, value in values.items()] if isinstance(values, Mapping) else []
