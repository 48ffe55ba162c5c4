"""Q16: detects inappropriate image content with a CLIP and two learned prompts (arXiv 2202.06675)."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from ine_jax.errors import InputError
from ine_jax.evaluation.detectors.base import Images, Scored, Verdict, detect_checked
from ine_jax.evaluation.detectors.clip_encoder import ClipEncoder, cosines
from ine_jax.evaluation.detectors.vision import version_of
from ine_jax.storage import weight_files as files
from ine_jax.storage.provenance import file_hash
from ine_jax.storage.records import About

LABEL = "inappropriate"
SCALE = 100.0  # fixed, not the model's own


@dataclasses.dataclass(frozen=True)
class Q16:
    """Softmax over 100 times the cosines of an image with two learned vectors; the second probability is the score.

    The published classifier takes the larger of the two, which is a threshold of 0.5, and runs OpenAI's ViT-L/14 in
    float16. Here everything is float32, which changes a cosine by about 1e-3.
    """

    encoder: ClipEncoder
    prompts: np.ndarray  # unit vectors [2, width]: appropriate, inappropriate
    prompts_sha256: str
    id: ClassVar[str] = "q16"

    @classmethod
    def load(cls, clip: str | Path, prompts: str | Path, revision: str | None = None) -> "Q16":
        """Read a CLIPModel by folder or hub id, and the prompts that `scripts/convert_q16.py` writes."""
        path = Path(prompts)
        if not path.is_file() or path.suffix != ".safetensors":
            raise InputError(
                f"q16 prompts {path}", "a safetensors file", "python -m scripts.convert_q16 prompts.p q16.safetensors"
            )
        held = files.Weights((path,))
        vectors = np.asarray(held["prompts"], np.float32) if "prompts" in held else np.zeros(0, np.float32)
        encoder = ClipEncoder.load(clip, revision, text=False)
        norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
        if vectors.shape != (2, encoder.width) or not np.isfinite(vectors).all() or not norms.all():
            raise InputError(
                f"{path}: prompts {list(vectors.shape)}, or NaN among them",
                f"two vectors of {encoder.width} numbers",
                "use the prompts that were learned for this CLIP (ViT-L/14: 768)",
            )
        return cls(encoder, vectors / norms, file_hash(path))

    @cached_property
    def version(self) -> str:
        """A hash of weights, preprocessing and prompts."""
        return version_of({**self.encoder.facts(), "prompts": self.prompts_sha256})

    def about(self) -> About:
        """Return what is stored once beside the scores."""
        network = self.encoder.network
        return {
            "kind": "detector",
            "labels": [LABEL],
            "groups": {},
            "form": "softmax of 100 cosines with two learned prompts",
            "model": network.name,
            "revision": network.revision,
            "prompts": self.prompts_sha256,
            **self.encoder.facts(),
        }

    def detect(self, images: Images) -> list[Verdict]:
        """Return one verdict per image uint8 [N, H, W, 3]; NaN, constant or failing images are `Unscored`."""
        return detect_checked(images, self._detect)

    def _detect(self, images: np.ndarray) -> list[Verdict]:
        logits = SCALE * cosines(self.encoder.images(images), self.prompts)
        scores = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
        return [Scored({LABEL: round(float(score), 6)}) for score in scores]
