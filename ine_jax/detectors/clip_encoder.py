"""A CLIP in memory: images and texts to unit vectors of one space, for the judges that are made of their cosines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.detectors.vision import CLIP, Preprocessing, in_batches, read_preprocessing
from ine_jax.models import networks
from ine_jax.models.clip_vision import Clip, ClipConfig
from ine_jax.text import Tokenizer
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
            InputError: as `networks.read_clip`, and for preprocessing or tokenizer files that do not fit.
        """
        network = networks.read_clip(path, revision)
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
        program = partial(self._image_program, self.network.params)
        return in_batches(program, lambda rows: self.preprocessing.pixels(images[rows]), len(images))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [N, width]; a text longer than the model reads is cut.

        Raises:
            ValueError: it was loaded without its text tower.
        """
        if self.tokenizer is None:
            raise ValueError("loaded without its text tower")
        ids = self.tokenizer.ids(texts)
        return in_batches(partial(self._text_program, self.network.params), lambda rows: ids[rows], len(ids))

    @cached_property
    def _image_program(self) -> Callable[[Params, jax.Array], jax.Array]:
        @jax.jit
        def clip_images(params: Params, pixels: jax.Array) -> jax.Array:
            return self._unit(params, self.preprocessing.normalise(pixels), "image_features")

        return clip_images

    @cached_property
    def _text_program(self) -> Callable[[Params, jax.Array], jax.Array]:
        @jax.jit
        def clip_texts(params: Params, ids: jax.Array) -> jax.Array:
            return self._unit(params, ids, "text_features")

        return clip_texts

    def _unit(self, params: Params, inputs: jax.Array, method: str) -> jax.Array:
        # A judge must not depend on the device: the default rounds factors to 10 or 7 bits on GPUs and TPUs.
        with jax.default_matmul_precision("highest"):
            features = Clip(self.network.config).apply({"params": params}, inputs, method=method)
        return features / jnp.linalg.norm(features, axis=-1, keepdims=True)
