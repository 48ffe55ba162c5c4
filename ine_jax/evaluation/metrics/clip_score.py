"""CLIP score: how well an image fits its prompt (Hessel et al. 2021, arXiv 2104.08718, eq. 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ine_jax.evaluation.detectors.base import Scored, Verdict
from ine_jax.evaluation.detectors.clip_encoder import ClipEncoder
from ine_jax.evaluation.detectors.vision import version_of
from ine_jax.evaluation.metrics.base import measure_checked

WEIGHT = 100.0


@dataclasses.dataclass(frozen=True)
class ClipScore:
    """w max(cos(image, prompt), 0), where w = 100 as evaluations of text-to-image models have it (the paper: w = 2.5).

    The prompt is read as it is, without the paper's "A photo depicts", and cut where it is longer than CLIP reads.
    """

    encoder: ClipEncoder
    id: ClassVar[str] = "clip-score"
    needs_reference: ClassVar[bool] = False

    @classmethod
    def load(cls, path: str | Path, revision: str | None = None) -> ClipScore:
        """Read a CLIPModel by folder or hub id; InputError as `ClipEncoder.load`."""
        return cls(ClipEncoder.load(path, revision))

    @cached_property
    def version(self) -> str:
        """A hash of weights and preprocessing."""
        return version_of({**self.encoder.facts(), "w": WEIGHT})

    def about(self) -> dict[str, Any]:
        """What is stored once beside the numbers."""
        network = self.encoder.network
        return {
            "kind": "metric",
            "labels": ["clip_score"],
            "form": f"{WEIGHT:g} max(cosine, 0)",
            "model": network.name,
            "revision": network.revision,
            **self.encoder.facts(),
        }

    def measure(
        self, images: np.ndarray, prompts: Sequence[str], references: np.ndarray | None = None
    ) -> list[Verdict]:
        """One number per image uint8 [N, H, W, 3] and prompt; what cannot be measured is `Unscored`."""
        return measure_checked(images, prompts, None, self._measure)

    def _measure(self, images: np.ndarray, prompts: list[str], _: np.ndarray | None) -> list[Verdict]:
        pairs = self.encoder.images(images).astype(np.float64) * self.encoder.texts(prompts)
        # np.maximum keeps a NaN, which must not become a zero
        return [Scored({"clip_score": round(float(score), 4)}) for score in WEIGHT * np.maximum(pairs.sum(axis=-1), 0)]
