"""What a per-image metric is: images, their prompts and maybe reference images in, one verdict per image out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ine_jax.evaluation.detectors.base import Verdict, check_image, judge_checked

Measure = Callable[[np.ndarray, list[str], np.ndarray | None], list[Verdict]]


@runtime_checkable
class Metric(Protocol):
    """Measures uint8 images [N, H, W, 3]. `id` and `version` name the folder its numbers are written to."""

    @property
    def id(self) -> str:
        """Name of the metric: letters, digits, `_ . @ + -`."""
        ...

    @property
    def version(self) -> str:
        """What changes when its numbers would."""
        ...

    @property
    def needs_reference(self) -> bool:
        """Whether `references` must be given: images of another model from the same prompt and noise."""
        ...

    def measure(self, images: np.ndarray, prompts: Sequence[str], references: np.ndarray | None) -> list[Verdict]:
        """One verdict per image, in the order given; `Scored.labels` holds one or more finite numbers."""
        ...

    def about(self) -> dict[str, Any]:
        """What is stored once beside the numbers: kind "metric", labels, hashes of weights, preprocessing."""
        ...


def measure_checked(
    images: Sequence[np.ndarray] | np.ndarray,
    prompts: Sequence[str],
    references: Sequence[np.ndarray] | np.ndarray | None,
    measure: Measure,
) -> list[Verdict]:
    """Measure `images` with `measure`, which sees only images (and references) that can be judged.

    As :func:`detect_checked`: a failing batch is retried image by image, and what cannot be
    measured, a bad reference included, is `Unscored` with the reason. ValueError where the three differ in number.
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

    return judge_checked(reasons, score)
