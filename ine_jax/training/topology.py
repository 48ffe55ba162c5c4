"""topology.jsonl: when a run went on with another number of processes or devices than its checkpoint was made with.

    {"step": 40, "topology_changed": true, "from": {"processes": 2, "devices": 8, "kind": "TPU v5 lite"}, "to": {...}}

A run that never did so has no such file. Its loss and that of one that did differ by rounding.
"""

import json
from pathlib import Path
from typing import TypedDict

import jax

from ine_jax.storage import untrusted
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.untrusted import MAX_RECORDS

NAME = "topology.jsonl"


class Topology(TypedDict):
    """On what a run computes."""

    processes: int
    devices: int
    kind: str


def here() -> Topology:
    """What this run computes on."""
    return {"processes": jax.process_count(), "devices": jax.device_count(), "kind": jax.devices()[0].device_kind}


def record(folder: Path, step: int, before: Topology | None) -> None:
    """Add a line where the run that continues at `step` computes on something else than before."""
    path, now = folder / NAME, here()
    if not before or before == now:
        return
    known = untrusted.read(path, MAX_RECORDS) if path.exists() else b""
    line = {"step": step, "topology_changed": True, "from": before, "to": now}
    write_atomic(path, known + json.dumps(line).encode() + b"\n")
