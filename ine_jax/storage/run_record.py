"""run.json: read with every check that a stranger's file needs."""

from pathlib import Path

from ine_jax.errors import InputError
from ine_jax.storage import schema
from ine_jax.storage.records import RunRecord
from ine_jax.storage.sealed import corrupt, unseal

SCHEMA = 2


def read(path: Path) -> RunRecord:
    """The record. InputError for another version, CorruptRunError for anything that no run can have."""
    found = unseal(path)
    if found.get("schema") not in (1, SCHEMA):
        given = f"{path} has schema {str(found.get('schema'))[:40]}"
        raise InputError(given, f"1 or {SCHEMA}", "use the matching release")
    record = schema.record(RunRecord, found, path, open_ended=True)
    config = record["config"]
    blocks = 0
    for i, cell in enumerate(config["cells"]):
        for name, n in cell["lists"].items():
            if n > config["lists"].get(name, {"n": -1})["n"]:
                raise corrupt(path, f"cell {i} has {n} items of prompt set {name}")
            blocks += -(-n // config["block"])
    if blocks != config["blocks"]:
        raise corrupt(path, f"{config['blocks']} blocks, where its cells have {blocks}")
    return record
