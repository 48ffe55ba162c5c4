"""What is committed of a training directory that is the working copy of one in a bucket."""

from pathlib import Path

from ine_jax.storage import publishing


def publish(checkpoints: Path, step: int) -> None:
    """Commit the logs, then the checkpoint, and remove those that are not kept.

    In this order the logs are never behind the newest checkpoint; lines after it are cut off when the run continues.
    """
    for log in (checkpoints.parent / name for name in ("log.jsonl", "timing.jsonl")):
        if log.is_file():
            publishing.published(log)
    publishing.published(checkpoints / str(step))
    publishing.pruned(checkpoints)
