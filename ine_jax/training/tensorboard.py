"""The logs of training runs as TensorBoard's event files: scalars over steps, and the images beside the log.

They are made from stored files, so a run needs no further library, and a run that has not ended can be looked at too.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ine_jax.errors import InputError
from ine_jax.storage import untrusted
from ine_jax.storage.atomic import atomic_folder, write_durable
from ine_jax.storage.images import MAX_BYTES, decode
from ine_jax.storage.sealed import corrupt, read_log

LOG, TIMING = "log.jsonl", "timing.jsonl"
CURVE = "loss.png"  # which the scalars show
MAX_IMAGES = 16  # of one folder
VERSION = "brain.Event:2"  # which every event file begins with


@dataclass(frozen=True)
class Exported:
    """One folder of event files: how many scalars and images it holds."""

    folder: Path
    scalars: int
    images: int


def export(directories: Sequence[Path], target: Path) -> list[Exported]:
    """Write the logs below the directories as event files below `target`, a new folder: one folder per log.

    Tags of scalars are the names of the log, with the speed as `steps_per_second`; wall times are those of the run.
    Images (`preview`, say) have the last step.

    Raises:
        InputError: a directory without a log, `target` exists, or the package tensorboard is missing.
        CorruptRunError: a log or an image cannot be read.
    """
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise InputError(f"{target} exists", "a new folder", "name another, or remove it")
    found: list[tuple[Path, Path]] = []
    for directory in directories:
        logs = sorted(directory.rglob(LOG))
        if not logs:
            raise InputError(f"{directory}: no {LOG} in it", "the directory of a training run", "check the path")
        found += [(log.parent, Path(directory.resolve().name) / log.parent.relative_to(directory)) for log in logs]
    if len({name for _, name in found}) < len(found):
        raise InputError("two directories of one name", "different names", "export them into folders of their own")
    with atomic_folder(target, 0o755) as temporary:
        counts = [_write(run, temporary / name) for run, name in found]
    return [Exported(target / name, *count) for (_, name), count in zip(found, counts, strict=True)]


def _write(run: Path, folder: Path) -> tuple[int, int]:
    """Write one folder with one event file; return the numbers of scalars and images."""
    event_pb2, summary_pb2, record_writer = _library()
    lines = read_log(run / LOG)
    timing = {line["step"]: line for line in read_log(run / TIMING)} if (run / TIMING).exists() else {}
    start = (run / LOG).stat().st_mtime
    data = io.BytesIO()  # TensorBoard's own writer of files works in a thread, which loses the errors of the disk
    writer, scalars, images, last, wall = record_writer(data), 0, 0, 0, start
    writer.write(event_pb2.Event(wall_time=start, file_version=VERSION).SerializeToString())

    def add(values: list[Any]) -> None:
        summary = summary_pb2.Summary(value=values)
        writer.write(event_pb2.Event(wall_time=wall, step=last, summary=summary).SerializeToString())

    for line in lines:
        clock = timing.get(line["step"], {})
        last, wall = _whole(line["step"]), _number(clock.get("time"), start)
        speed = {"steps_per_second": clock.get("steps_per_second")}
        values = {name: value for name, value in {**line, **speed}.items() if name != "step" and value is not None}
        add([summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        scalars += len(values)
    for tag, png, (width, height) in _images(run):
        image = summary_pb2.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        add([summary_pb2.Summary.Value(tag=tag, image=image)])
        images += 1
    folder.mkdir(parents=True, exist_ok=True)
    write_durable(folder / f"events.out.tfevents.{int(start)}.ine", data.getvalue())
    return scalars, images


def _images(run: Path) -> Iterator[tuple[str, bytes, tuple[int, int]]]:
    """Yield name, bytes and size of the PNGs beside a log."""
    for path in sorted(path for path in run.glob("*.png") if path.name != CURVE)[:MAX_IMAGES]:
        data = untrusted.read(path, MAX_BYTES, corrupt)
        try:
            yield path.stem, data, decode(data, ("PNG",)).size
        except ValueError as error:
            raise corrupt(path, error) from error


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default


def _library() -> tuple[Any, Any, Any]:
    """Return TensorBoard's event and summary messages, and its writer of records."""
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        given = "ine tensorboard without the package tensorboard"
        raise InputError(given, "the extra tensorboard", "pip install 'ine_jax[tensorboard]'") from error
    return event_pb2, summary_pb2, RecordWriter
