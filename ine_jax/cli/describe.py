"""Facts of a file or folder for `ine inspect`: embeddings, weights, models, and run, demo or training directories.

Nothing is trusted and nothing large is loaded: weights are described from the headers of their files.
"""

import contextlib
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np

from ine_jax.config.checks import EMBEDDING_SUFFIXES
from ine_jax.embeddings import read_embedding
from ine_jax.embeddings.nearest_words import nearest_words
from ine_jax.embeddings.stored import WIDTHS
from ine_jax.errors import InputError
from ine_jax.models.checkpoints.describe import checkpoint_facts
from ine_jax.models.checkpoints.model_files import model_id
from ine_jax.models.checkpoints.tensors import NotWeights
from ine_jax.storage import untrusted
from ine_jax.storage.provenance import file_hash
from ine_jax.storage.records import CellSpec
from ine_jax.storage.runs import Run, open_run
from ine_jax.storage.weight_files import read_json

Facts = dict[str, object]

KINDS = "an embedding, a checkpoint of weights, a model folder, a run, demo or training directory"
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".msgpack")
_TAIL_BYTES = 64 * 1024
_STEP = re.compile("[0-9]{1,18}")
_FAMILIES = {"clip_l": "Stable Diffusion 1.x", "clip_h": "Stable Diffusion 2.x", "clip_g": "SDXL, second text encoder"}


def describe(path: str | Path, base: str = "") -> Facts:
    """Return the `kind` of `path` and its main facts as JSON values.

    With the model `base` also the words of its vocabulary that are nearest to an embedding in token space, and the
    tensors that a checkpoint changes.

    Raises:
        InputError: the path does not exist, or this package does not read it.
        CorruptRunError: the record of a run directory does not verify.
    """
    path = Path(path)
    if path.is_dir():
        return {"path": str(path), **_folder(path, base)}
    if not path.exists():
        raise InputError(f"{path}: no such file or folder", KINDS, "check the path")
    if path.suffix in _WEIGHTS and path.is_file():
        try:
            return {"path": str(path), **checkpoint_facts(path, base)}
        except NotWeights:
            if path.suffix not in EMBEDDING_SUFFIXES:
                raise
    if path.suffix in EMBEDDING_SUFFIXES and path.is_file():
        return {"path": str(path), **_embedding(path, base)}
    raise InputError(f"{path}: unknown kind of file", KINDS, "check the path")


def _folder(path: Path, base: str) -> Facts:
    if (path / "model_index.json").is_file():
        return _model(path, base)
    if (path / "run.json").is_file():
        return _run(path)
    if (path / "checkpoints").is_dir() and (path / "config.json").is_file():
        return _training(path)
    if (path / "evaluation" / "run.json").is_file() or any(path.glob("inversion/*/config.json")):
        return _demo(path)
    return checkpoint_facts(path, base)


def _model(path: Path, base: str) -> Facts:
    index = read_json(path / "model_index.json")
    facts: Facts = {"kind": "model folder", "class": str(index.get("_class_name", "unknown"))}
    with contextlib.suppress(InputError):  # a folder with only some of the components has no id
        facts["model_id"] = model_id(path)
    facts |= {key: value for key, value in checkpoint_facts(path, base).items() if key != "kind"}
    scheduler = path / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        values = read_json(scheduler)
        facts["scheduler"] = f"{values.get('_class_name', 'unknown')}, {values.get('prediction_type', 'epsilon')}"
    return facts


def _run(path: Path) -> Facts:
    run = open_run(path)
    facts: Facts = {"kind": "run directory", "blocks": len(run.blocks()), "detectors": run.scorers()}
    facts["finished"] = _is_finished(run)
    facts["models"] = {label: model.get("model_id", "") for label, model in run.record["hashes"]["models"].items()}
    facts["commit"] = run.record.get("commit") or "unknown"
    facts["versions"] = dict(run.record.get("versions", {}))
    facts["report"] = (path / "report.html").is_file()
    return facts


def _is_finished(run: Run) -> bool:
    """Whether every block is stored and has the scores of every detector of the run, which has at least one."""
    blocks, detectors = run.blocks(), run.scorers()
    scored = all(run.scores_path(detector, k).is_file() for detector in detectors for k in blocks)
    return len(blocks) == run.config["blocks"] and bool(detectors) and scored


def _demo(path: Path) -> Facts:
    """State of the inversions, number of images of each cell, and whether the demo is finished."""
    begun = sorted(folder.parent for folder in path.glob("inversion/*/config.json"))
    facts: Facts = {"kind": "demo directory"}
    facts["inversions"] = {p.name: "finished" if (p / "done.json").is_file() else "not finished" for p in begun}
    report = (path / "report.html").is_file()
    if not (path / "evaluation" / "run.json").is_file():
        return facts | {"cells": "none yet", "finished": False, "report": report}
    run = open_run(path / "evaluation")
    stored = Counter(row["cell"] for k in run.blocks() for row in run.rows(k))
    cells = [_cell_text(spec, stored[i]) for i, spec in enumerate(run.config["cells"])]
    facts |= {"cells": cells, "detectors": run.scorers()}
    return facts | {"finished": report and _is_finished(run), "report": report}


def _cell_text(spec: CellSpec, done: int) -> str:
    total = sum(spec["lists"].values())
    kind = f"{spec['negative']} from {spec['embedding_from']}" if spec["embedding_from"] else spec["negative"]
    role = ", control" if spec["role"] == "control" else ""
    return f"{spec['model']}, {kind}{role}: {'finished' if done == total else 'not finished'}, {done} of {total} images"


def _training(path: Path) -> Facts:
    steps = sorted(int(entry.name) for entry in (path / "checkpoints").iterdir() if _STEP.fullmatch(entry.name))
    facts: Facts = {"kind": "training directory", "checkpoints": steps, "config": read_json(path / "config.json")}
    log = path / "log.jsonl"
    if log.is_file() and (last := _last_line(log)):
        facts["last"] = last
    return facts


def _last_line(path: Path) -> Facts:
    with untrusted.open_regular(path, untrusted.MAX_RECORDS) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        lines = file.read().splitlines()
    try:
        last = json.loads(lines[-1]) if lines else {}
    except (ValueError, RecursionError):
        return {}
    return last if isinstance(last, dict) else {}


def _embedding(path: Path, base: str = "") -> Facts:
    """Format, token, space, norms and provenance of an embedding, and the words of `base` nearest to it."""
    found, form = read_embedding(path)
    item, vectors = found.embedding, np.asarray(found.vectors, np.float32)
    count, width = vectors.shape
    family = next((_FAMILIES[name] for name, size in WIDTHS.items() if size == width), "unknown")
    facts: Facts = {"kind": "embedding", "format": form.name, "space": item.space, "concept": item.concept}
    facts |= {"token": item.token, "vectors": count, "width": width, "dtype": str(found.vectors.dtype)}
    facts["family"] = family if found.clip_g is None else "SDXL"
    facts["norms"] = [round(float(norm), 4) for norm in np.linalg.norm(vectors, axis=1)[:8]]
    if base and item.space == "token":
        facts["nearest"], median = nearest_words(vectors, base)
        facts["vocabulary_norm"] = round(median, 4)
    facts |= {"base_model": item.base_model or "unknown", "provenance": dict(item.provenance)}
    return facts | {"sha256": file_hash(path)}
