"""A receipt for finished judging: a finished run is found finished without loading a detector or hashing a model.

It says which scores were complete, for which detectors and metrics, of images of which models, by the state of all
these files (size and time of change, as make does). Whatever differs, were it one weight file or one score, makes the
judges look again and models be hashed again; nothing is read from a receipt but that. What stands on the hub has no
state here: detectors named so are taken to be the same, models are hashed.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ine_jax import assets
from ine_jax.config import EvaluateConfig
from ine_jax.storage import provenance
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.runs import Run, open_run

PACKAGES = ("nudenet", "onnxruntime")  # judges that come with a package


def judged(config: EvaluateConfig, shard: tuple[int, int]) -> bool:
    """Whether everything that is drawn was judged by the config's judges, and no file changed since."""
    path = _path(config, shard)
    return path.is_file() and path.read_bytes() == _text(config).encode()


def sign(config: EvaluateConfig, shard: tuple[int, int]) -> None:
    """Leave a receipt, where there is none yet: the judges have looked at all that is drawn."""
    if not judged(config, shard):
        write_atomic(_path(config, shard), _text(config))


def model_hashes(config: EvaluateConfig) -> Callable[[str], Mapping[str, str]] | None:
    """What the run recorded of each model's files, by its label; None where some are not local files.

    Only for a config whose receipt is good: it vouches that the files are those that were hashed.
    """
    names = [name for model in config.models for name in (model.model, *model.unlearned)]
    if not all(assets.resolve(name) or Path(name).exists() for name in names):
        return None
    recorded = open_run(config.out).record["hashes"]["models"]
    return lambda label: recorded.get(label, {})


def _path(config: EvaluateConfig, shard: tuple[int, int]) -> Path:
    return Path(config.out) / f".judged-{shard[0]}-of-{shard[1]}"


def _text(config: EvaluateConfig) -> str:
    run = Run(Path(config.out), {})
    judges = [dataclasses.asdict(judge) for judge in (*config.detectors, *config.metrics)]  # type: ignore[call-overload]
    models = [dataclasses.asdict(model) for model in config.models]
    values = [value for record in (*judges, *models) for value in record.values()]
    given = [value for value in values if isinstance(value, str) and value]
    given += [name for model in config.models for name in model.unlearned]
    own = [assets.ROOT / "tiny", run.root / "run.json", run.root / "scores"]
    state = {
        "judges": judges,
        "models": models,
        "reference": config.reference,
        "versions": {**provenance.versions(), **{name: _version(name) for name in PACKAGES}},
        "blocks": run.blocks(),
        "files": [line for path in (*own, *map(Path, given)) for line in _stats(path)],
    }
    return provenance.value_hash(state) + "\n"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _stats(path: Path) -> Iterator[list[str | int]]:
    """Name, size and time of change of a file, or of all files below a folder; nothing of what is not there."""
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    for file in files:
        stat = file.stat()
        yield [str(file), stat.st_size, stat.st_mtime_ns]
