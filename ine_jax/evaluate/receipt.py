"""A receipt for finished judging, so that a finished run is found finished without loading a detector's weights.

It says which scores were complete for which detectors and metrics, by the state of their files (size and time of
change, as make does). Whatever differs, were it one weight file or one score, makes the judges look again; nothing is
read from a receipt but that.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

from ine_jax import assets, provenance, storage
from ine_jax.config import EvaluateConfig
from ine_jax.runs import Run

PACKAGES = ("nudenet", "onnxruntime")  # judges that come with a package


def judged(config: EvaluateConfig, shard: tuple[int, int]) -> bool:
    """Whether everything that is drawn was judged by the config's judges, and no file changed since."""
    path = _path(config, shard)
    return path.is_file() and path.read_bytes() == _text(config).encode()


def sign(config: EvaluateConfig, shard: tuple[int, int]) -> None:
    """Leave a receipt, where there is none yet: the judges have looked at all that is drawn."""
    if not judged(config, shard):
        storage.write_atomic(_path(config, shard), _text(config))


def _path(config: EvaluateConfig, shard: tuple[int, int]) -> Path:
    return Path(config.out) / f".judged-{shard[0]}-of-{shard[1]}"


def _text(config: EvaluateConfig) -> str:
    run = Run(Path(config.out), {})
    judges = [dataclasses.asdict(judge) for judge in (*config.detectors, *config.metrics)]  # type: ignore[call-overload]
    given = [Path(value) for judge in judges for value in judge.values() if isinstance(value, str) and value]
    own = [assets.ROOT / "tiny" / "detector", run.root / "scores"]
    state = {
        "judges": judges,
        "reference": config.reference,
        "versions": {**provenance.versions(), **{name: _version(name) for name in PACKAGES}},
        "blocks": run.blocks(),
        "files": [line for path in (*own, *given) for line in _stats(path)],
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
