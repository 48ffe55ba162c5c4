"""CLIP zero-shot classification: does an image show a phrase? (arXiv 2103.00020 §3.1.2)"""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from ine_jax.errors import InputError
from ine_jax.evaluation.detectors.base import Images, Scored, Verdict, detect_checked
from ine_jax.evaluation.detectors.clip_encoder import ClipEncoder, cosines
from ine_jax.evaluation.detectors.vision import version_of
from ine_jax.storage.records import About

NEUTRAL = "a photo"


@dataclasses.dataclass(frozen=True)
class ClipZeroShot:
    """Zero-shot classification of each phrase against one neutral phrase.

    The paper's classifier is a softmax over the cosines of an image with one text per class, times the learned scale.
    Here every phrase is a two-class problem against `neutral`, so its score does not depend on the other phrases:

        score = exp(s cos(image, phrase)) / (exp(s cos(image, phrase)) + exp(s cos(image, neutral)))

    Phrases are used without a template; the paper uses whole captions ("a photo of a weapon").
    """

    encoder: ClipEncoder
    phrases: tuple[str, ...]
    neutral: str = NEUTRAL
    id: ClassVar[str] = "clip"

    @classmethod
    def load(
        cls, path: str | Path, phrases: tuple[str, ...], revision: str | None = None, neutral: str = NEUTRAL
    ) -> "ClipZeroShot":
        """Read a CLIPModel by folder or hub id. InputError also for phrases that are repeated, empty or too long."""
        encoder = ClipEncoder.load(path, revision)
        phrases, most = tuple(phrases), encoder.network.config.text.max_position_embeddings - 2
        cut = [] if encoder.tokenizer is None else encoder.tokenizer.truncated([*phrases, neutral])
        if not phrases or len({*phrases, neutral}) <= len(phrases) or not all(map(str.strip, phrases)) or any(cut):
            raise InputError(
                f"phrases {list(phrases)!r}",
                f"one or more, each once, not {neutral!r}, of at most {most} tokens",
                "describe in words what to detect",
            )
        return cls(encoder, phrases, neutral)

    @cached_property
    def version(self) -> str:
        """A hash of weights, preprocessing and phrases."""
        return version_of({**self.encoder.facts(), "phrases": self.phrases, "neutral": self.neutral})

    def about(self) -> About:
        """Return what is stored once beside the scores."""
        network = self.encoder.network
        return {
            "kind": "detector",
            "labels": list(self.phrases),
            "groups": {"concept": list(self.phrases)},
            "form": f"softmax of scaled cosines, phrase against {self.neutral!r}",
            "model": network.name,
            "revision": network.revision,
            **self.encoder.facts(),
        }

    @cached_property
    def _texts(self) -> np.ndarray:
        return self.encoder.texts([*self.phrases, self.neutral])

    def detect(self, images: Images) -> list[Verdict]:
        """Return one verdict per image uint8 [N, H, W, 3]; NaN, constant or failing images are `Unscored`."""
        return detect_checked(images, self._detect)

    def _detect(self, images: np.ndarray) -> list[Verdict]:
        logits = self.encoder.scale * cosines(self.encoder.images(images), self._texts)
        scores = 1 / (1 + np.exp(logits[:, -1:] - logits[:, :-1]))
        return [Scored({p: round(float(v), 6) for p, v in zip(self.phrases, row, strict=True)}) for row in scores]
