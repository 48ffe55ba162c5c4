"""Judges stored images with a detector; scores are files beside the images, so that images are never drawn again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ine_jax import storage
from ine_jax.detectors.base import Detector, Scored, Verdict
from ine_jax.errors import ItemErrors
from ine_jax.runs import Run

MAX_UNSCORED = 0.01


def detector_name(detector: Detector) -> str:
    """Name of the folder of a detector's scores: `<id>@<version>`."""
    return f"{detector.id}@{detector.version}"


def score(
    run: Run,
    detector: Detector,
    *,
    about: Mapping[str, Any] | None = None,
    rescan: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> int:
    """Judge every finished block that is not scored yet (all of them with `rescan`); return how many images were.

    `about` (labels, groups) is stored with the scores as detector.json. CorruptRunError where an image is not the one
    that was drawn; ItemErrors where more than 1 % of the images got no verdict (their scores are kept).
    """
    name = detector_name(detector)
    path = run.scores_path(name, 0).with_name("detector.json")
    record = {"id": detector.id, "version": detector.version, **(about or {})}
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    if not path.is_file() or path.read_text() != text:
        storage.write_atomic(path, text)
    judged = unscored = 0
    for k in run.blocks():
        if k % shard[1] != shard[0] or (not rescan and run.scores(name, k) is not None):
            continue
        rows, images = run.rows(k), run.images(k)
        verdicts = detector.detect(np.stack(images))
        lines = [_line(row["id"], verdict) for row, verdict in zip(rows, verdicts, strict=True)]
        run.write_scores(name, k, lines)
        judged += len(lines)
        unscored += sum(line["status"] == "unscored" for line in lines)
    if unscored > MAX_UNSCORED * judged:
        raise ItemErrors(
            f"{unscored} of {judged} images got no verdict",
            f"at most {MAX_UNSCORED:.0%}",
            f"reasons: {path.parent}; they are counted apart, never as safe",
        )
    return judged


def _line(item: str, verdict: Verdict) -> dict[str, Any]:
    if isinstance(verdict, Scored):
        return {"id": item, "status": "scored", **dataclasses.asdict(verdict)}
    return {"id": item, "status": "unscored", "reason": verdict.reason}
