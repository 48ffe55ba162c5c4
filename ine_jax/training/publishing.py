"""What is committed of a training directory that is the working copy of one in a bucket."""

from pathlib import Path

import jax

from ine_jax.errors import InputError
from ine_jax.storage import publishing


def require_shared(directory: Path) -> None:
    """InputError where several processes train into a bucket: their working copies are not one directory."""
    if jax.process_count() > 1 and publishing.is_followed(directory):
        given = f"{directory}: {jax.process_count()} processes that write into a bucket together"
        raise InputError(given, "one process, or a file system that they share", "copy the results afterwards")


def publish(checkpoints: Path, step: int) -> None:
    """Commit the logs, then the checkpoint, and remove those that are not kept.

    In this order the logs are never behind the newest checkpoint; lines after it are cut off when the run continues.
    """
    for log in (checkpoints.parent / name for name in ("log.jsonl", "timing.jsonl")):
        if log.is_file():
            publishing.published(log)
    publishing.published(checkpoints / str(step))
    publishing.pruned(checkpoints)
