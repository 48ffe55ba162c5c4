"""run.json: read with every check that a stranger's file needs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ine_jax.errors import InputError
from ine_jax.storage import provenance, schema, untrusted
from ine_jax.storage.binding import difference
from ine_jax.storage.records import Binding, RunConfig, RunHashes, RunRecord, Stage
from ine_jax.storage.sealed import corrupt, seal, unseal

SCHEMA = 2


def read(path: Path) -> RunRecord:
    """The record. InputError for another version, CorruptRunError for anything that no run can have."""
    found = unseal(path)
    if found.get("schema") not in (1, SCHEMA):
        given = f"{path} has schema {str(found.get('schema'))[:40]}"
        raise InputError(given, f"1 or {SCHEMA}", "use the matching release")
    record = schema.record(RunRecord, found, path, open_ended=True)
    for stage in record.get("earlier", ()):
        _check(path, stage["config"])
        if not is_extended(stage, record):
            raise corrupt(path, "an earlier stage is not part of it")
    _check(path, record["config"])
    return record


def is_extended(stage: Stage, by: Binding) -> bool:
    """Whether a later config has all cells of a stage, in their order and with all else equal, and further ones."""
    return len(by["config"]["cells"]) > len(stage["config"]["cells"]) and not differences(stage, by)


def differences(stage: Stage, by: Binding) -> list[str]:
    """The fields in which a later config differs from a stage; cells and models that it adds are no difference."""
    return difference({"config": stage["config"], "hashes": stage["hashes"]}, _part(by, stage))


def binding(config: RunConfig, hashes: RunHashes) -> Binding:
    """Config and hashes as JSON gives them back."""
    found: Binding = json.loads(provenance.canonical({"config": config, "hashes": hashes}))
    return found


def started(fixed: Binding, command: Sequence[str], readings: Mapping[str, Mapping[str, object]]) -> RunRecord:
    """The record of a run that starts now."""
    return {
        "schema": SCHEMA,
        "config": fixed["config"],
        "hashes": fixed["hashes"],
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "command": list(command),
        "readings": {name: dict(reading) for name, reading in readings.items()},
    }


def extended(record: RunRecord, by: Stage) -> RunRecord:
    """The record of a run after an extension: what it was started with becomes an earlier stage."""
    earlier = [*record.get("earlier", ()), _stage(record)]
    readings = record.get("readings", {})
    return {**_stage(by), "schema": record["schema"], "readings": readings, "earlier": earlier}


def _stage(record: Stage) -> Stage:
    return {
        "config": record["config"],
        "hashes": record["hashes"],
        "versions": record["versions"],
        "commit": record["commit"],
        "command": record["command"],
    }


def sealed(root: Path, record: RunRecord) -> str:
    """The text of run.json. InputError where it would be larger than a file that is read."""
    text = seal(record)
    if len(text.encode()) > untrusted.MAX_JSON:
        given = f"{root}: run.json of {len(text):,} characters, of {len(record.get('earlier', ())) + 1} stages"
        raise InputError(given, f"at most {untrusted.MAX_JSON:,} bytes", "start another directory with all cells")
    return text


def _part(later: Binding, stage: Stage) -> Binding:
    """The later config without the cells and models that were added since a stage."""
    config, count = later["config"], len(stage["config"]["cells"])
    models = {k: v for k, v in later["hashes"]["models"].items() if k in stage["hashes"]["models"]}
    if len(config["cells"]) > count:
        config = {**config, "cells": config["cells"][:count], "blocks": stage["config"]["blocks"]}
    return {"config": config, "hashes": {"models": models}}


def _check(path: Path, config: RunConfig) -> None:
    """Raise CorruptRunError where cells, prompt sets and number of blocks contradict each other."""
    blocks = 0
    for i, cell in enumerate(config["cells"]):
        for name, n in cell["lists"].items():
            if n > config["lists"].get(name, {"n": -1})["n"]:
                raise corrupt(path, f"cell {i} has {n} items of prompt set {name}")
            blocks += -(-n // config["block"])
    if blocks != config["blocks"]:
        raise corrupt(path, f"{config['blocks']} blocks, where its cells have {blocks}")
