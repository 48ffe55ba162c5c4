"""CLIP score: how well an image fits its prompt (Hessel et al. 2021, arXiv 2104.08718, eq. 1)."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from ine_jax.evaluation.detectors.base import Images, Scored, Verdict
from ine_jax.evaluation.detectors.clip_encoder import ClipEncoder
from ine_jax.evaluation.detectors.vision import version_of
from ine_jax.evaluation.metrics.base import measure_checked
from ine_jax.storage.records import About

WEIGHT = 100.0


@dataclasses.dataclass(frozen=True)
class ClipScore:
    """w max(cos(image, prompt), 0) with w = 100, as in evaluations of text-to-image models (the paper: w = 2.5).

    The prompt is used without the paper's prefix "A photo depicts", and truncated to CLIP's context.
    """

    encoder: ClipEncoder
    id: ClassVar[str] = "clip-score"
    needs_reference: ClassVar[bool] = False

    @classmethod
    def load(cls, path: str | Path, revision: str | None = None) -> "ClipScore":
        """Read a CLIPModel by folder or hub id; InputError as `ClipEncoder.load`."""
        return cls(ClipEncoder.load(path, revision))

    @cached_property
    def version(self) -> str:
        """A hash of weights and preprocessing."""
        return version_of({**self.encoder.facts(), "w": WEIGHT})

    def about(self) -> About:
        """Return what is stored once beside the values."""
        network = self.encoder.network
        return {
            "kind": "metric",
            "labels": ["clip_score"],
            "form": f"{WEIGHT:g} max(cosine, 0)",
            "model": network.name,
            "revision": network.revision,
            **self.encoder.facts(),
        }

    def measure(self, images: Images, prompts: Sequence[str], references: Images | None = None) -> list[Verdict]:
        """Return one value per image uint8 [N, H, W, 3] and prompt; what cannot be measured is `Unscored`."""
        return measure_checked(images, prompts, None, self._measure)

    def _measure(self, images: np.ndarray, prompts: list[str], _: np.ndarray | None) -> list[Verdict]:
        pairs = self.encoder.images(images).astype(np.float64) * self.encoder.texts(prompts)
        # np.maximum keeps a NaN, which must not become a zero
        return [Scored({"clip_score": round(float(score), 4)}) for score in WEIGHT * np.maximum(pairs.sum(axis=-1), 0)]
