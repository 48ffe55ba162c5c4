"""All that an evaluation needs, read and checked before its directory exists: the run and `--dry-run` both call it."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ine_jax.config import EvaluateConfig
from ine_jax.evaluation import finished, generating, packing
from ine_jax.evaluation.extending import continued
from ine_jax.evaluation.plan import Cell, Plan, check, plan_from_config
from ine_jax.storage import runs
from ine_jax.storage.binding import require_free
from ine_jax.storage.records import RunHashes

if TYPE_CHECKING:
    from ine_jax.evaluation.from_config import Scorers

Shard = tuple[int, int]


@dataclass(frozen=True)
class Prepared:
    """A complete plan: nothing that the user gave can stop it any more.

    Attributes:
        missing: images of the shard that are still to be generated.
        models: how the run records each model.
        scorers: loaded detectors and metrics; None where everything is scored.
        generate: the generator with the first model loaded; None where no image is missing.
        rows: the network's rows per image and step, of every cell that was checked.
    """

    plan: Plan
    shard: Shard
    missing: int
    models: Mapping[str, Mapping[str, str]]
    scorers: "Scorers | None" = None
    generate: packing.Batches | None = None
    rows: Mapping[Cell, int] = field(default_factory=dict)


def prepare(config: EvaluateConfig, shard: Shard = (0, 1), absent: Collection[str] = ()) -> Prepared:
    """Read prompts, models, embeddings, images and detectors, check that they fit together and to the directory.

    A finished shard loads neither a model nor a detector nor JAX. `absent` are places on the hub that a dry run must
    not download; what is there is not checked.

    Raises:
        InputError: something cannot be read, does not fit, or is not what the directory was started with.
    """
    plan = plan_from_config(config)
    check(plan)
    require_free(Path(config.out), "run.json", "blocks")
    plan = continued(plan, config.out)
    missing = generating.pending(plan, config.out, shard)
    if not missing and finished.is_finished(config, shard):
        known = finished.recorded_models(config) or (lambda label: generating.model_record(plan.model(label)))
        models = {label: known(label) for label in _labels(plan)}
        plan = dataclasses.replace(plan, detector=finished.detector(config))
        runs.check(config.out, plan.record(), _hashes(models))
        return Prepared(plan, shard, 0, models)
    here = [label for label in _labels(plan) if not {plan.model(label).model, *plan.model(label).unlearned} & {*absent}]
    models = {label: generating.model_record(plan.model(label)) for label in here}
    weights = {text for each in (*config.detectors, *config.metrics) for text in vars(each).values()}
    scorers = None
    if not weights & {*absent}:
        from ine_jax.evaluation import from_config

        scorers = from_config.scorers(config)
        plan = dataclasses.replace(plan, detector=scorers.names[0])
    begun = None
    if scorers and len(here) == len(_labels(plan)):
        begun = runs.check(config.out, plan.record(), _hashes(models))
    cells = plan.cells
    if begun:  # the others were checked when the run began
        left = {unit.cell for unit in generating.missing_units(plan, config.out, shard)}
        cells = tuple(cell for i, cell in enumerate(plan.cells) if i in left)
    ready, rows = _checked(plan, [cell for cell in cells if cell.model in here]) if missing else (None, {})
    return Prepared(plan, shard, missing, models, scorers, ready, rows)


def _labels(plan: Plan) -> list[str]:
    return list(dict.fromkeys(cell.model for cell in plan.cells))


def _hashes(models: Mapping[str, Mapping[str, str]]) -> RunHashes:
    return {"models": {label: dict(record) for label, record in models.items()}}


def _checked(plan: Plan, cells: Sequence[Cell]) -> tuple[packing.Batches, dict[Cell, int]]:
    """Check every cell, model by model; the last first, so that the model of the first is still loaded afterwards."""
    from ine_jax.evaluation.images import ImageGenerator

    generator = ImageGenerator()
    return generator, {cell: generator.check(cell, plan) for cell in reversed(cells)}
