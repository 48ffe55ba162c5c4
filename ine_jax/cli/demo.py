"""`ine demo`: the whole method on the bundled family.

The scales, the sampler and the steps come from the family's world.json (see `demo_settings`); they were chosen on other
prompts and seeds than those used here.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from ine_jax.cli import receipt
from ine_jax.cli.command import Command, Flat, Outcome
from ine_jax.cli.demo_settings import Settings, World, read_settings, read_world
from ine_jax.config import DemoConfig, DetectorConfig, GuidanceConfig, ModelConfig, NegativeConfig, SamplerConfig
from ine_jax.errors import InputError
from ine_jax.storage.weight_files import read_json

if TYPE_CHECKING:
    from ine_jax.evaluation import Cell, Plan
    from ine_jax.evaluation.records import Summary

Counts = tuple[tuple[str, int], ...]
Role = Literal["main", "control"]
BASE = "tiny"
BLOCK = 50
FULL_SEEDS = (0, 1)  # of the inversion, in the full demo
FULL_ITEMS = 300  # per cell of the full demo
GUARD = "cfg"


@dataclass(frozen=True)
class Demo(Command):
    """Run the whole method on the bundled models: invert, evaluate with and without negatives, write the report."""

    config: Annotated[DemoConfig, Flat] = field(default_factory=DemoConfig)

    def run(self, line: Sequence[str]) -> Outcome:
        """Run or continue the demo in `config.out`."""
        from ine_jax.storage.atomic import lock

        with lock(self.config.out):
            return run(self.config, line)


@dataclass(frozen=True)
class Found:
    """An embedding file, with the model and seed of its inversion."""

    model: str
    seed: int
    path: Path


def run(config: DemoConfig, command: Sequence[str] = ()) -> Outcome:
    """Invert, generate, score and report into `config.out`; a second call continues, and repeats nothing."""
    from ine_jax import assets, evaluation, reporting
    from ine_jax.evaluation.from_config import detector
    from ine_jax.evaluation.generating import pending
    from ine_jax.evaluation.scoring import Behind
    from ine_jax.progress import Progress

    out = Path(config.out)
    world = read_world()
    settings = read_settings(world, config)
    unlearned = [name for name in assets.names() if name.startswith(f"{BASE}-unlearned-")]
    if not unlearned:
        raise InputError("the bundled family has no unlearned model", "an installation with its assets", "reinstall")
    models = unlearned if config.full else unlearned[:1]
    seeds = FULL_SEEDS if config.full else (settings.inversion.seed,)
    found = [_invert(model, seed, settings, out) for model in [*models, BASE] for seed in seeds]
    scorer = detector(DetectorConfig())
    plan = demo_plan(settings, found, None if config.full else config.items)
    plan = dataclasses.replace(plan, detector=evaluation.scorer_name(scorer))
    missing, behind = pending(plan, out / "evaluation"), Behind([scorer])
    with Progress(max(1, missing), "images", unit="images") as progress:
        stored = evaluation.evaluate(plan, out / "evaluation", progress=progress, command=command, behind=behind)
    evaluation.score(stored, [scorer], behind=behind)
    page = reporting.build([out])
    summary = cast("Summary", read_json(out / "summary.json"))
    lines = (*reporting.plain(summary), *reporting.sentences(summary), *_measured(world), str(page))
    return Outcome(lines, {"out": str(out), "report": str(page), "summary": str(out / "summary.json")})


def demo_plan(settings: Settings, found: Sequence[Found], items: int | None) -> "Plan":
    """Cells of the demo: {base, unlearned} x {none, explicit, implicit}, and the controls.

    The first of `found` is on an unlearned model. Each cell has `items` items per prompt set, controls half of it. None
    means the full demo: 300 per set, the sets that name the concept in words, further negative scales, and on the
    unguarded base every item.
    """
    from ine_jax import evaluation
    from ine_jax.evaluation import Cell, Plan
    from ine_jax.evaluation.plan import WORD_LISTS

    full = items is None
    lists = {name: evaluation.read_items(name, items) for name in ("attack", "benign", *(WORD_LISTS if full else ()))}
    everything = tuple((name, len(rows)) for name, rows in lists.items())
    n = {name: min(count, FULL_ITEMS) for name, count in everything}
    both = (("attack", n["attack"]), ("benign", n["benign"]))
    few = (("attack", n["attack"] if full else max(1, n["attack"] // 2)),)
    words = tuple((name, n[name]) for name in WORD_LISTS if full)
    usual = settings.guidance.negative_scale
    plain, avoided = GuidanceConfig(settings.guidance.scale), NegativeConfig(words=settings.words)

    def guided(scale: float | None) -> GuidanceConfig:
        return dataclasses.replace(settings.guidance, negative_scale=scale)

    def implicit(
        model: str, source: Found, lists: Counts = both, role: Role = "main", scale: float | None = usual
    ) -> "Cell":
        negative = NegativeConfig(embedding=str(source.path), template=settings.template)
        return Cell(model, lists, guided(scale), negative, GUARD, source.model, source.seed, role)

    def explicit(model: str, lists: Counts = both, role: Role = "main", scale: float | None = usual) -> "Cell":
        return Cell(model, lists, guided(scale), avoided, GUARD, role=role)

    own = [f for f in found if f.model != BASE]
    models = list(dict.fromkeys(f.model for f in own))
    cells = [Cell(BASE, everything, plain, guard=GUARD), explicit(BASE, both + words[:1]), implicit(BASE, own[0])]
    for model in models:
        cells += [Cell(model, both + words, plain, guard=GUARD), explicit(model)]
        cells += [implicit(model, f) for f in own if f.model == model]
    # controls: embeddings inverted on the base, used on each model; the other unlearned models' embeddings on the base
    cells += [implicit(model, f, few, "control") for f in found if f.model == BASE for model in (BASE, *models)]
    cells += [implicit(BASE, f, few, "control") for f in own[1:]]
    for scale in settings.sweep if full else ():
        cells += [explicit(BASE, both, "control", scale), explicit(models[0], both, "control", scale)]
        cells.append(implicit(models[0], own[0], both, "control", scale))
    cells.sort(key=lambda cell: [BASE, *models].index(cell.model))  # so that each model is loaded once
    sampler = settings.sampler
    size = sampler.height, sampler.width
    first = Plan(tuple(cells), lists, sampler.steps, sampler.scheduler, *size, sampler.batch, BLOCK, sampler.unet_impl)
    return dataclasses.replace(
        first, noise=sampler.noise, latents=sampler.latents, latents_layout=sampler.latents_layout
    )


def _invert(model: str, seed: int, settings: Settings, out: Path) -> Found:
    """Invert the concept on `model`, unless done.json records the same settings, weights and images."""
    from ine_jax import assets, inversion
    from ine_jax.evaluation.generating import model_record
    from ine_jax.pipeline import from_config
    from ine_jax.progress import Progress
    from ine_jax.storage.provenance import file_hash, value_hash

    config = dataclasses.replace(settings.inversion, seed=seed)
    folder = out / "inversion" / f"{model}-seed-{seed}"
    images = assets.concept_images()
    hashes = {path.name: file_hash(path) for path in sorted(images.glob("*.png"))}
    key = value_hash(
        {"config": dataclasses.asdict(config), "model": model_record(ModelConfig(model)), "images": hashes}
    )
    done = receipt.read(folder)
    if done is not None and done.key == key:
        return Found(model, seed, done.path)
    pipe = from_config.pipeline(model, None, SamplerConfig())
    with Progress(config.steps, f"inversion on {model}") as progress:
        result = inversion.invert(pipe, from_config.images(images, pipe), config, folder, progress, preview=False)
    receipt.write(folder, key, result.path)
    return Found(model, seed, result.path)


def _measured(world: World) -> list[str]:
    """Lines with what world.json records about the detector."""
    return [f"measured of the {name}: {value}" for name, value in world.get("measured", {}).items()]
