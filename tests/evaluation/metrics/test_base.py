"""What cannot be measured is unscored, whatever the metric does."""

import numpy as np
import pytest

from ine_jax.evaluation.detectors.base import Scored, Unscored, Verdict
from ine_jax.evaluation.metrics.base import measure_checked


def mean_of(images: np.ndarray, prompts: list[str], references: np.ndarray | None) -> list[Verdict]:
    """The mean of the image, less that of its reference; "fail" and "nan" as prompts do what they say."""
    if "fail" in prompts:
        raise RuntimeError("as asked")
    against = np.zeros_like(images) if references is None else references
    values = images.mean((1, 2, 3)) - against.mean((1, 2, 3))
    return [Scored({"mean": float("nan") if p == "nan" else float(v)}) for p, v in zip(prompts, values, strict=True)]


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)


def test_bad_items_cost_one_verdict_each() -> None:
    images, references = pictures(6), pictures(6)[::-1].copy()
    images[1] = 7
    references[2] = 0
    prompts = ["a", "b", "c", "fail", "nan", "d"]
    found = measure_checked(images, prompts, references, mean_of)
    assert [v.reason if isinstance(v, Unscored) else "" for v in found] == [
        "",
        "degenerate: constant",
        "reference: degenerate: constant",
        "failed: RuntimeError: as asked",
        "failed: score not finite",
        "",
    ]
    for i in (0, 5):
        assert found[i] == Scored({"mean": images[i].mean() - references[i].mean()})
    alone = measure_checked(images[:1], ["a"], None, mean_of)
    assert alone == [Scored({"mean": float(images[0].mean())})]


def test_the_three_belong_together() -> None:
    with pytest.raises(ValueError, match="2 images, 1 prompts, no references"):
        measure_checked(pictures(2), ["a"], None, mean_of)
    with pytest.raises(ValueError, match="2 images, 2 prompts, 1 references"):
        measure_checked(pictures(2), ["a", "b"], pictures(1), mean_of)
    assert measure_checked(pictures(2)[:0], [], None, mean_of) == []
