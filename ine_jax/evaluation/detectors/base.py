"""What a detector is: images in, one verdict per image out, and a verdict may honestly be missing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ine_jax.errors import clean

FAILED = "failed: "  # begins the reason of a verdict that another attempt may give; a bad image stays one
_REASON = 200  # characters


@dataclasses.dataclass(frozen=True)
class Scored:
    """Raw scores of one image: label -> score in [0, 1]. Thresholds are applied later, so that they can be moved.

    `boxes` holds one mapping per detection for detectors that localise; empty for classifiers. `vector` float32 [d] is
    the image's features, for a metric that compares sets of images.
    """

    labels: dict[str, float]
    boxes: tuple[dict[str, Any], ...] = ()
    vector: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Unscored:
    """No verdict, and why. Counted apart; never safe, never unsafe."""

    reason: str


Verdict = Scored | Unscored


@runtime_checkable
class Detector(Protocol):
    """Scores uint8 images [batch, H, W, 3]. `id` and `version` name the folder its scores are written to."""

    @property
    def id(self) -> str:
        """Name of the detector: letters, digits, `_ . @ + -`."""
        ...

    @property
    def version(self) -> str:
        """What changes when its scores would."""
        ...

    def detect(self, images: np.ndarray) -> list[Scored | Unscored]:
        """One verdict per image, in the order given; `Scored.labels` holds every label."""
        ...

    def about(self) -> dict[str, Any]:
        """What is stored once beside the scores: kind "detector", labels, groups, hashes of weights, preprocessing."""
        ...


def check_image(image: np.ndarray) -> str | None:
    """Say why an image uint8 [H, W, 3] cannot be judged, or None where it can.

    Not finite (a NaN from the sampler), one constant colour (what a NaN becomes once it is cast to uint8), or not
    uint8: an image in [0, 1] would be judged as a black one.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.size == 0:
        return f"shape {image.shape} is not [H, W, 3]"
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        return "not finite"
    if (image == image[:1, :1]).all():
        return "constant image"
    return None if image.dtype == np.uint8 else f"{image.dtype} is not uint8"


def detect_checked(
    images: Sequence[np.ndarray] | np.ndarray, score: Callable[[np.ndarray], list[Verdict]]
) -> list[Verdict]:
    """Judge `images` with `score`, which sees only images that can be judged, those of one size in one call.

    A failing batch is retried image by image, so that one bad image costs one verdict. Scores that are no finite
    numbers and failures come back as `Unscored` with the reason; nothing raised by the detector escapes.
    """
    images = list(images)

    def by_size(rows: list[int]) -> list[Verdict]:
        found: dict[int, Verdict] = {}
        for shape in dict.fromkeys(images[i].shape for i in rows):
            same = [i for i in rows if images[i].shape == shape]
            found |= zip(same, score(np.stack([images[i] for i in same])), strict=True)
        return [found[i] for i in rows]

    return judge_checked(list(map(check_image, images)), by_size)


def judge_checked(reasons: Sequence[str | None], score: Callable[[list[int]], list[Verdict]]) -> list[Verdict]:
    """One verdict per item: those with a reason are `Unscored`, `score` judges the others by their numbers.

    Failures as in :func:`detect_checked`.
    """
    verdicts: list[Verdict] = [Unscored(reason or "") for reason in reasons]
    good = [i for i, reason in enumerate(reasons) if reason is None]
    for i, verdict in zip(good, _score(score, good), strict=True):
        verdicts[i] = verdict
    return verdicts


def _score(score: Callable[[list[int]], list[Verdict]], rows: list[int]) -> list[Verdict]:
    if not rows:
        return []
    try:
        verdicts = list(score(rows))
        if len(verdicts) != len(rows):
            raise ValueError(f"{len(verdicts)} verdicts for {len(rows)} images")
    except Exception as error:  # whatever a detector throws is a missing verdict, not the end of a run
        if len(rows) == 1:
            return [Unscored(clean(f"{FAILED}{type(error).__name__}: {error}", _REASON))]
        return [verdict for row in rows for verdict in _score(score, [row])]
    return [_sound(verdict) for verdict in verdicts]


def _sound(verdict: Verdict) -> Verdict:
    """The verdict, with Python's numbers, if it can be stored and compared with a threshold."""
    if isinstance(verdict, Unscored):
        return verdict
    try:
        labels = {name: float(value) for name, value in verdict.labels.items()}
        json.dumps(verdict.boxes, allow_nan=False)
    except (AttributeError, TypeError, ValueError) as error:
        return Unscored(clean(f"{FAILED}no verdict: {error}", _REASON))
    if not labels or not np.isfinite(list(labels.values())).all():
        return Unscored(f"{FAILED}{'score not finite' if labels else 'no score'}")
    return Scored(labels, verdict.boxes, verdict.vector)
