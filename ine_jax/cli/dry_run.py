"""The plan of a command: what it would read, do and write. Nothing is written, no model is loaded."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ine_jax import assets
from ine_jax.cli.commands import Outcome, concepts
from ine_jax.config import EvaluateConfig, GenerateConfig, InvertConfig, UnlearnConfig
from ine_jax.errors import InputError
from ine_jax.storage.images import image_files


def plan(name: str, config: Any, shard: tuple[int, int] = (0, 1)) -> Outcome:
    """Check the inputs of a command and tell what it would do.

    Raises:
        InputError: a model, folder or file that the command would refuse for being absent.
    """
    work: dict[str, Any] = {}
    match config:
        case InvertConfig():
            work = _sources(filter(None, (config.model, config.base)), config.unlearned)
            if config.inversion.method == "inversion":
                work["steps"] = config.inversion.steps
                work["images"] = {setting.concept: len(image_files(folder)) for setting, folder in concepts(config)}
        case UnlearnConfig():
            work = _sources([config.model])
            if not config.esd.erase:
                raise InputError("esd.erase: empty", "at least one prompt", "name what is to be erased")
            work |= {"steps": config.esd.steps, "method": config.esd.method}
        case GenerateConfig():
            from ine_jax.pipeline.generation import wanted_items

            work = _sources([config.model], config.unlearned)
            work["images"] = len(wanted_items(config))
        case EvaluateConfig():
            from ine_jax.evaluation.generating import pending
            from ine_jax.evaluation.plan import check, plan_from_config

            judges = [file for each in config.detectors for file in (each.weights, each.prompts)]
            judges += [file for each in config.metrics for file in (each.weights, each.images)]
            checkpoints = [place for model in config.models for place in model.unlearned]
            work = _sources([*(model.model for model in config.models), *filter(None, judges)], checkpoints)
            whole = plan_from_config(config)
            check(whole)
            work |= {"read": "; ".join(whole.notes())} if whole.notes() else {}
            work |= {"cells": len(whole.cells), "images to draw": pending(whole, config.out, shard)}
    settings = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else {}  # type: ignore[arg-type]
    lines = [f"plan of ine {name} (nothing is written)"]
    lines += yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True, width=110).splitlines()
    lines += [f"{key}: {value}" for key, value in work.items()]
    out = settings.get("out")
    if out:
        lines.append(f"writes: {out} ({'exists: continues' if Path(str(out)).exists() else 'new'})")
    return Outcome(tuple(lines), {"config": _plain(settings), **work, "out": out})


def _sources(places: Iterable[str], checkpoints: Iterable[str] = ()) -> dict[str, Any]:
    """Open the checkpoints that are here; name what would come from the hub.

    Refused: a checkpoint that is none, a bundled name without its files, a path that leads nowhere.
    """
    far = []
    for name in places:
        if assets.resolve(name) is None and not Path(name).exists():
            if name.startswith((".", "/")) or name.count("/") > 1 or ("/" in name and Path(name).parent.is_dir()):
                allowed = "a bundled name, a path, or a hub id (owner/name)"
                raise InputError(f"{name}: no such folder or file", allowed, "check the path")
            far.append(name)
    for given in checkpoints:
        from ine_jax.models.checkpoints import hub

        if hub.elsewhere(given):
            far.append(given)
        else:
            hub.open_checkpoints([given])
    return {"from the hub": list(dict.fromkeys(far))} if far else {}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
