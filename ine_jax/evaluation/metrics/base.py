"""The contract of a per-image metric: images, prompts and optional reference images in, one verdict per image out."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from ine_jax.evaluation.detectors.base import Images, Scorer, Verdict, check_image, score_checked

Measure: TypeAlias = Callable[[np.ndarray, list[str], np.ndarray | None], list[Verdict]]


@runtime_checkable
class Metric(Scorer, Protocol):
    """Measures uint8 images [N, H, W, 3]."""

    @property
    def needs_reference(self) -> bool:
        """Whether it needs `references`: images of another model from the same prompt and noise."""

    def measure(self, images: Images, prompts: Sequence[str], references: Images | None) -> list[Verdict]:
        """Return one verdict per image, in order; `Scored.labels` holds one or more finite numbers."""


def measure_checked(
    images: Images, prompts: Sequence[str], references: Images | None, measure: Measure
) -> list[Verdict]:
    """Measure the usable images (and references) with `measure`.

    As in `detect_checked`, a failing batch is retried image by image. What cannot be measured, also because of a bad
    reference, is `Unscored` with the reason. ValueError where the three arguments differ in length.
    """
    images, prompts = list(images), list(prompts)
    others = None if references is None else list(references)
    if len(prompts) != len(images) or (others is not None and len(others) != len(images)):
        given = "no" if others is None else len(others)
        raise ValueError(f"{len(images)} images, {len(prompts)} prompts, {given} references")
    reasons = list(map(check_image, images))
    for i, other in enumerate(others or ()):
        wrong = check_image(other)
        reasons[i] = reasons[i] or (f"reference: {wrong}" if wrong else None)

    def score(rows: list[int]) -> list[Verdict]:
        pairs = None if others is None else np.stack([others[i] for i in rows])
        return measure(np.stack([images[i] for i in rows]), [prompts[i] for i in rows], pairs)

    return score_checked(reasons, score)
