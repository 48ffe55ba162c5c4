"""A Hugging Face image classifier (ViTForImageClassification), such as Falconsai/nsfw_image_detection."""

import dataclasses
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, cast

import jax
import numpy as np
from jaxtyping import Float, UInt8

from ine_jax.evaluation.detectors.base import Images, Scored, Verdict, detect_checked
from ine_jax.evaluation.detectors.vision import VIT, Preprocessing, in_batches, read_preprocessing, version_of
from ine_jax.models.checkpoints import networks
from ine_jax.models.vit import Vit, VitConfig
from ine_jax.storage.records import About, ScorerFacts
from ine_jax.types import Params


@dataclasses.dataclass(frozen=True)
class VitClassifier:
    """Scores are the probabilities of the model's own labels: softmax, or sigmoids for a multi-label model."""

    network: networks.Network[VitConfig]
    preprocessing: Preprocessing
    id: ClassVar[str] = "vit"

    @classmethod
    def load(cls, path: str | Path, revision: str | None = None) -> "VitClassifier":
        """Read a ViTForImageClassification by folder or hub id."""
        network = networks.read_vit_network(path, revision)
        return cls(network, read_preprocessing(network.preprocessor, VIT, network.config.image_size))

    @cached_property
    def version(self) -> str:
        """A hash of weights and preprocessing."""
        return version_of(self._facts())

    def _facts(self) -> ScorerFacts:
        return {"weights": self.network.hashes, "preprocessing": self.preprocessing.about()}

    def about(self) -> About:
        """Return what is stored once beside the scores."""
        config = self.network.config
        return {
            "kind": "detector",
            "labels": list(config.labels),
            "groups": {},
            "form": "sigmoid" if config.independent else "softmax",
            "model": self.network.name,
            "revision": self.network.revision,
            **self._facts(),
        }

    def detect(self, images: Images) -> list[Verdict]:
        """Return one verdict per image uint8 [N, H, W, 3]; NaN, constant or failing images are `Unscored`."""
        return detect_checked(images, self._detect)

    def _detect(self, images: np.ndarray) -> list[Verdict]:
        program = partial(vit_scores, self.network.config, self.preprocessing, self.network.params)
        scores = in_batches(program, lambda rows: self.preprocessing.pixels(images[rows]), len(images))
        labels = self.network.config.labels
        return [Scored({k: round(float(v), 6) for k, v in zip(labels, row, strict=True)}) for row in scores]


@partial(jax.jit, static_argnums=(0, 1))
def vit_scores(
    config: VitConfig, preprocessing: Preprocessing, params: Params, pixels: UInt8[jax.Array, "N size size 3"]
) -> Float[jax.Array, "N label"]:
    """Probabilities of the labels."""
    # Scores must not depend on the device: by default, GPUs and TPUs round the factors to 10 or 7 bits.
    with jax.default_matmul_precision("highest"):
        logits = cast(jax.Array, Vit(config).apply({"params": params}, preprocessing.normalise(pixels)))
    return jax.nn.sigmoid(logits) if config.independent else jax.nn.softmax(logits)
