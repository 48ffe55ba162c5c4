"""A CLIP in memory: images and texts become unit vectors of one space; detectors and CLIP score use their cosines."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt8

from ine_jax.evaluation.detectors.vision import CLIP, Preprocessing, in_batches, read_preprocessing
from ine_jax.models.checkpoints import networks
from ine_jax.models.clip_vision import Clip, ClipConfig
from ine_jax.models.text import Tokenizer
from ine_jax.storage.records import ScorerFacts
from ine_jax.types import Params

_TEXT_PARAMS = ("text_model", "text_projection")
Vectors: TypeAlias = Float32[np.ndarray, "N width"]  # unit length
Features: TypeAlias = Float[jax.Array, "N width"]


@dataclasses.dataclass(frozen=True)
class ClipEncoder:
    """Both towers, or the vision tower alone where `tokenizer` is None; computed in float32 on every device."""

    network: networks.Network[ClipConfig]
    preprocessing: Preprocessing
    tokenizer: Tokenizer | None

    @classmethod
    def load(cls, path: str | Path, revision: str | None = None, *, text: bool = True) -> "ClipEncoder":
        """Read a CLIPModel by folder or hub id; without `text` its text tower is dropped."""
        network = networks.read_clip_network(path, revision)
        preprocessing = read_preprocessing(network.preprocessor, CLIP, network.config.vision.image_size)
        if not text:
            kept = {name: part for name, part in network.params.items() if name not in _TEXT_PARAMS}
            return cls(dataclasses.replace(network, params=kept), preprocessing, None)
        tokenizer = Tokenizer.from_dir(network.folder, network.config.text.max_position_embeddings)
        return cls(network, preprocessing, tokenizer)

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self.network.config.projection_dim

    @property
    def scale(self) -> float:
        """The learned factor of the cosines, exp(logit_scale)."""
        return float(np.exp(np.asarray(self.network.params["logit_scale"])))

    def facts(self) -> ScorerFacts:
        """What the vectors depend on: hashes of every file that was read, and the preprocessing."""
        return {"weights": self.network.hashes, "preprocessing": self.preprocessing.about()}

    def images(self, images: UInt8[np.ndarray, "N H W 3"]) -> Vectors:
        """Unit vectors of images."""
        program = partial(clip_images, self.network.config, self.preprocessing, self.network.params)
        return in_batches(program, lambda rows: self.preprocessing.pixels(images[rows]), len(images))

    def texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts, truncated to the model's context. ValueError without the text tower."""
        if self.tokenizer is None:
            raise ValueError("loaded without its text tower")
        ids = self.tokenizer.ids(texts)
        program = partial(clip_texts, self.network.config, self.network.params)
        return in_batches(program, lambda rows: ids[rows], len(ids))


def cosines(
    images: Float32[np.ndarray, "N width"], texts: Float32[np.ndarray, "K width"]
) -> Float64[np.ndarray, "N K"]:
    """Cosines of unit vectors."""
    # Not a matrix product: its order of summation depends on the number of rows.
    found: np.ndarray = (images[:, None].astype(np.float64) * texts[None]).sum(axis=-1)
    return found


# Functions of configs, not methods: all encoders of one shape share one compiled program.
@partial(jax.jit, static_argnums=(0, 1))
def clip_images(
    config: ClipConfig, preprocessing: Preprocessing, params: Params, pixels: UInt8[jax.Array, "N size size 3"]
) -> Features:
    """Unit vectors of preprocessed pixels."""
    return _unit(config, params, preprocessing.normalise(pixels), "image_features")


@partial(jax.jit, static_argnums=0)
def clip_texts(config: ClipConfig, params: Params, ids: Int[jax.Array, "N token"]) -> Features:
    """Unit vectors of token ids."""
    return _unit(config, params, ids, "text_features")


def _unit(config: ClipConfig, params: Params, inputs: jax.Array, method: str) -> Features:
    # Scores must not depend on the device: by default, GPUs and TPUs round the factors to 10 or 7 bits.
    with jax.default_matmul_precision("highest"):
        features = cast(jax.Array, Clip(config).apply({"params": params}, inputs, method=method))
    unit: jax.Array = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
    return unit
