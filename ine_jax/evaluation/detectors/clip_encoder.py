"""A CLIP in memory: images and texts to unit vectors of one space, for the judges that are made of their cosines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.evaluation.detectors.vision import CLIP, Preprocessing, in_batches, read_preprocessing
from ine_jax.models.checkpoints import networks
from ine_jax.models.clip_vision import Clip, ClipConfig
from ine_jax.models.text import Tokenizer
from ine_jax.types import Params

_TEXT_PARAMS = ("text_model", "text_projection")


@dataclasses.dataclass(frozen=True)
class ClipEncoder:
    """Both towers, or the vision tower alone where `tokenizer` is None; computed in float32 on every device."""

    network: networks.Network[ClipConfig]
    preprocessing: Preprocessing
    tokenizer: Tokenizer | None

    @classmethod
    def load(cls, path: str | Path, revision: str | None = None, *, text: bool = True) -> ClipEncoder:
        """Read a CLIPModel by folder or hub id; without `text` its text tower is dropped.

        Raises:
            InputError: as `networks.read_clip_network`, and for preprocessing or tokenizer files that do not fit.
        """
        network = networks.read_clip_network(path, revision)
        preprocessing = read_preprocessing(network.preprocessor, CLIP, network.config.vision.image_size)
        if not text:
            kept = {name: part for name, part in network.params.items() if name not in _TEXT_PARAMS}
            return cls(dataclasses.replace(network, params=kept), preprocessing, None)
        tokenizer = Tokenizer.from_dir(network.folder, network.config.text.max_position_embeddings)
        return cls(network, preprocessing, tokenizer)

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.network.config.projection_dim

    @property
    def words(self) -> int:
        """Tokens that a text may have."""
        return self.network.config.text.max_position_embeddings - 2

    @property
    def scale(self) -> float:
        """The learned factor of the cosines, exp(logit_scale)."""
        return float(np.exp(np.asarray(self.network.params["logit_scale"])))

    def facts(self) -> dict[str, Any]:
        """What the vectors are computed with: hashes of every file that was read, preprocessing."""
        return {"weights": self.network.hashes, "preprocessing": self.preprocessing.about()}

    def images(self, images: np.ndarray) -> np.ndarray:
        """Unit vectors float32 [N, width] of images uint8 [N, H, W, 3]."""
        program = partial(clip_images, self.network.config, self.preprocessing, self.network.params)
        return in_batches(program, lambda rows: self.preprocessing.pixels(images[rows]), len(images))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [N, width]; a text longer than the model reads is cut.

        Raises:
            ValueError: it was loaded without its text tower.
        """
        if self.tokenizer is None:
            raise ValueError("loaded without its text tower")
        ids = self.tokenizer.ids(texts)
        program = partial(clip_texts, self.network.config, self.network.params)
        return in_batches(program, lambda rows: ids[rows], len(ids))


def cosines(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Cosines float64 [N, K] of unit vectors [N, width] and [K, width]."""
    # Not as a matrix product, which sums in another order for another number of rows.
    return (images[:, None].astype(np.float64) * texts[None]).sum(axis=-1)


# Functions of configs, not of an encoder: judges on CLIPs of one shape share their programs.
@partial(jax.jit, static_argnums=(0, 1))
def clip_images(config: ClipConfig, preprocessing: Preprocessing, params: Params, pixels: jax.Array) -> jax.Array:
    """Unit vectors of pixels uint8 [N, size, size, 3]."""
    return _unit(config, params, preprocessing.normalise(pixels), "image_features")


@partial(jax.jit, static_argnums=0)
def clip_texts(config: ClipConfig, params: Params, ids: jax.Array) -> jax.Array:
    """Unit vectors of token ids [N, T]."""
    return _unit(config, params, ids, "text_features")


def _unit(config: ClipConfig, params: Params, inputs: jax.Array, method: str) -> jax.Array:
    # A judge must not depend on the device: the default rounds factors to 10 or 7 bits on GPUs and TPUs.
    with jax.default_matmul_precision("highest"):
        features = Clip(config).apply({"params": params}, inputs, method=method)
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)
