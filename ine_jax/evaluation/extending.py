"""Runs that grow: a plan with further cells continues a run, whose blocks keep their numbers."""

import dataclasses
import json
from pathlib import Path

from ine_jax.errors import InputError
from ine_jax.evaluation.plan import Plan
from ine_jax.evaluation.reference import reference_cell
from ine_jax.evaluation.units import planned
from ine_jax.storage import provenance
from ine_jax.storage.atomic import remove
from ine_jax.storage.records import CellSpec, RunConfig
from ine_jax.storage.runs import Run, open_run


def continued(plan: Plan, root: str | Path) -> Plan:
    """The plan with the cells of the run in `root` first, in the order of the run; those that it adds come last.

    Without a run, or where a cell of the run was changed, the plan as it is.

    Raises:
        InputError: all cells of the plan are in the run, and others of the run are missing.
    """
    if not (Path(root) / "run.json").is_file():
        return plan
    left = {i: json.loads(provenance.canonical(cell.record())) for i, cell in enumerate(plan.cells)}
    order, gone = [], []
    for spec in open_run(root).config["cells"]:
        same = [i for i, other in left.items() if other == spec]
        if same:
            order.append(same[0])
            del left[same[0]]
        else:
            gone.append(spec)
    if gone and not left:
        raise InputError(
            f"{root} was started with other settings: without {_text(gone[0])}",
            "the settings it was started with, and more models, guards or negatives",
            "restore them, or choose another directory",
        )
    return plan if gone else dataclasses.replace(plan, cells=tuple(plan.cells[i] for i in (*order, *left)))


def _text(spec: CellSpec) -> str:
    negative = spec["negative_name"] or spec["negative"]
    return f"model {spec['model']}, guard {spec['guard']}, negative {negative}"


def forget_changed(run: Run, config: RunConfig) -> None:
    """Remove the numbers of metrics whose reference image is another one under the extended config."""
    for name in run.scorers() if len(config["cells"]) > len(run.config["cells"]) else ():
        model = run.about(name).get("reference")
        for unit in planned(run.config) if model else ():
            place = unit.cell, unit.list, model or ""
            if reference_cell(run.config, *place) != reference_cell(config, *place):
                remove(run.scores_path(name, unit.k))
                remove(run.vectors_path(name, unit.k))
