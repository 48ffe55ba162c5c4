"""The contract of a detector: images in, one verdict per image out. A verdict may be missing, with a reason."""

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from ine_jax.errors import clean
from ine_jax.storage.records import About, Box

FAILED = "failed: "  # prefix of a reason that another attempt may cure; a bad image stays bad
DEGENERATE = "degenerate: "  # prefix of the reason for an image that shows nothing; docs/evaluation.md states the rule
MIN_LEVELS = 8  # of 256 that a channel must span, or the image is constant
MAX_EXTREME = 0.99  # share of values that are 0 or 255, beyond which an image is saturated
_REASON = 200  # characters


@dataclasses.dataclass(frozen=True)
class Scored:
    """Raw scores of one image: label -> score in [0, 1]. Thresholds are applied later, so they can be changed."""

    labels: dict[str, float]
    boxes: tuple[Box, ...] = ()  # empty for classifiers
    vector: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Unscored:
    """No verdict, and why. Counted separately: neither safe nor unsafe."""

    reason: str


Verdict: TypeAlias = Scored | Unscored
Images: TypeAlias = Sequence[np.ndarray] | np.ndarray  # uint8 [batch, H, W, 3], or images of several sizes


@runtime_checkable
class Scorer(Protocol):
    """What detectors and metrics have in common. `id` and `version` name the folder of the scores."""

    @property
    def id(self) -> str:
        """Name of the scorer: letters, digits, `_ . @ + -`."""

    @property
    def version(self) -> str:
        """Changes whenever the scores would change."""

    def about(self) -> About:
        """Return what is stored once beside the scores: labels, groups, hashes of weights, preprocessing."""


@runtime_checkable
class Detector(Scorer, Protocol):
    """Scores uint8 images [batch, H, W, 3]."""

    def detect(self, images: Images) -> list[Verdict]:
        """Return one verdict per image, in order; `Scored.labels` holds every label."""


def check_image(image: np.ndarray) -> str | None:
    """Return why an image cannot be scored, or None for a usable uint8 image [H, W, 3].

    Rejected are values that are not finite (a NaN from the sampler), other dtypes (an image in [0, 1] would be scored
    as a black one), and degenerate images: constant ones, which is what a NaN becomes in uint8, and saturated ones.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.size == 0:
        return f"shape {image.shape} is not [H, W, 3]"
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        return "not finite"
    if image.dtype != np.uint8:
        return f"{image.dtype} is not uint8"
    if np.ptp(image, axis=(0, 1)).max() < MIN_LEVELS - 1:
        return f"{DEGENERATE}constant"
    return f"{DEGENERATE}saturated" if np.mean((image == 0) | (image == 255)) > MAX_EXTREME else None


def detect_checked(images: Images, score: Callable[[np.ndarray], list[Verdict]]) -> list[Verdict]:
    """Score the usable images with `score`, which gets all images of one size in one call.

    A failing batch is retried image by image, so one bad image costs one verdict. Failures and scores outside [0, 1]
    become `Unscored` with the reason. No exception of the detector escapes, SystemExit included.
    """
    images = list(images)

    def by_size(rows: list[int]) -> list[Verdict]:
        found: dict[int, Verdict] = {}
        for shape in dict.fromkeys(images[i].shape for i in rows):
            same = [i for i in rows if images[i].shape == shape]
            found |= zip(same, score(np.stack([images[i] for i in same])), strict=True)
        return [found[i] for i in rows]

    return list(map(_in_range, score_checked(list(map(check_image, images)), by_size)))


def _in_range(verdict: Verdict) -> Verdict:
    """The verdict, or `Unscored` where a threshold in (0, 1) says nothing about a score."""
    scores = verdict.labels.values() if isinstance(verdict, Scored) else ()
    wrong = [score for score in scores if not 0 <= score <= 1]
    return Unscored(f"{FAILED}score {wrong[0]:g} is not in [0, 1]") if wrong else verdict


def score_checked(reasons: Sequence[str | None], score: Callable[[list[int]], list[Verdict]]) -> list[Verdict]:
    """Score the items without a reason by their indices, as `detect_checked`; the others are `Unscored`."""
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
    except BaseException as error:  # an exception of a detector is a missing verdict, not the end of a run
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # the user's; in other threads only the detector itself can raise it
        if len(rows) == 1:
            return [Unscored(_failure(error))]
        return [verdict for row in rows for verdict in _score(score, [row])]
    return [_sound(verdict) for verdict in verdicts]


def _failure(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:  # an exception that cannot be printed
        text = ""
    return clean(f"{FAILED}{type(error).__name__}: {text}", _REASON)


def _sound(verdict: Any) -> Verdict:
    """The verdict with Python floats, or `Unscored` where it cannot be stored or compared with a threshold."""
    if isinstance(verdict, Unscored):
        return verdict
    try:
        labels = {name: float(value) for name, value in verdict.labels.items()}
        json.dumps(verdict.boxes, allow_nan=False)
    except Exception as error:  # it is whatever a detector returned
        return Unscored(_failure(error))
    if not labels or not np.isfinite(list(labels.values())).all():
        return Unscored(f"{FAILED}{'score not finite' if labels else 'no score'}")
    return Scored(labels, verdict.boxes, verdict.vector)
