"""Recognizes a finished run without loading a detector, a model or JAX, from the contents of its inputs.

A hidden file in the run directory keeps the names of the scorers and a hash of their config, package versions and all
local weight files. Clock times of files play no part.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ine_jax import assets
from ine_jax.config import EvaluateConfig
from ine_jax.errors import CorruptRunError
from ine_jax.evaluation.scoring import Count, open_tasks
from ine_jax.storage import provenance, schema
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.records import ScoredNote
from ine_jax.storage.runs import open_run
from ine_jax.storage.sealed import seal, unseal

NOTES = ".scored-*.json"
PACKAGES = ("nudenet", "onnxruntime")  # detectors that come with a package


def is_finished(config: EvaluateConfig, shard: tuple[int, int]) -> bool:
    """Whether every finished block of the shard is scored by the config's detectors and metrics as they are now."""
    try:
        stored = schema.record(ScoredNote, unseal(_path(config, shard)), _path(config, shard))
    except CorruptRunError:
        return False
    if stored["inputs"] != _inputs(config):
        return False
    return not open_tasks(open_run(config.out), {name: Count() for name in stored["scorers"]}, False, shard)


def mark(config: EvaluateConfig, shard: tuple[int, int], names: list[str]) -> None:
    """Note that the scorers with these names have scored everything."""
    write_atomic(_path(config, shard), seal({"scorers": names, "inputs": _inputs(config)}))


def recorded_models(config: EvaluateConfig) -> Callable[[str], Mapping[str, str]] | None:
    """The model hashes that a finished run recorded, by label; None where a model is on the hub and must be hashed."""
    names = [name for model in config.models for name in (model.model, *model.unlearned)]
    if not all(assets.resolve(name) or Path(name).exists() for name in names):
        return None
    recorded = open_run(config.out).record["hashes"]["models"]
    return lambda label: recorded.get(label, {})


def detector(config: EvaluateConfig) -> str:
    """The detector that fills the tables of a finished run."""
    return open_run(config.out).config.get("detector", "")


def _path(config: EvaluateConfig, shard: tuple[int, int]) -> Path:
    return Path(config.out) / NOTES.replace("*", f"{shard[0]}-of-{shard[1]}")


def _inputs(config: EvaluateConfig) -> str:
    """Hash of the config of scorers and models, of package versions, and of the contents of every local file."""
    scorers = [dataclasses.asdict(each) for each in config.detectors]
    scorers += [dataclasses.asdict(each) for each in config.metrics]
    models = [dataclasses.asdict(model) for model in config.models]
    texts = [value for each in (*scorers, *models) for value in each.values() if isinstance(value, str) and value]
    texts += [name for model in config.models for name in model.unlearned]
    files = [file for path in (assets.folder(), *map(Path, texts)) for file in _files(path)]
    state = {
        "scorers": scorers,
        "models": models,
        "reference": config.reference,
        "versions": provenance.versions(*PACKAGES),
        "files": {str(file): provenance.file_hash(file) for file in files},
    }
    return provenance.value_hash(state)


def _files(path: Path) -> Iterator[Path]:
    """The file, or all files below a folder; none where the text is no path."""
    yield from [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
