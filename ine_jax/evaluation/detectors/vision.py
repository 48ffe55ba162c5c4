"""What the judges on vision transformers share: preprocessing, fixed batches, a version from what they compute with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ine_jax.errors import InputError

BATCH = 8
FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as preprocessor_config.json has them


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation as transformers' CLIPImageProcessor and ViTImageProcessor do them.

    Resizing is Pillow's own, so the pixels are those of the processors' Pillow backend to the bit; torchvision's resize
    differs by a level here and there. `square`: both sides become `size`, else the short side does and the long one is
    cropped, the odd pixel being cut at the end (OpenAI's code cuts every other such pixel at the start).
    """

    size: int
    square: bool
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixels(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [N, H, W, 3] -> uint8 [N, size, size, 3]."""
        return np.stack([self._one(image) for image in images])

    def _one(self, image: np.ndarray) -> np.ndarray:
        if image.dtype != np.uint8:
            raise TypeError(f"an image of {image.dtype}, not uint8")
        height, width = image.shape[:2]
        if not self.square:
            short, long = sorted((height, width))
            long = int(self.size * long / short)
            height, width = (self.size, long) if height <= width else (long, self.size)
        else:
            height = width = self.size
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling(self.resample)))
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return resized[top : top + self.size, left : left + self.size]

    def normalise(self, pixels: jax.Array) -> jax.Array:
        """Pixels uint8 [N, size, size, 3] -> float32 (p / 255 - mean) / std."""
        mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3) for values in (self.mean, self.std))
        return (pixels.astype(jnp.float32) / 255 - mean) / std

    def about(self) -> dict[str, Any]:
        """What is recorded beside the scores."""
        return {**dataclasses.asdict(self), "resample": f"Pillow {FILTERS[self.resample]}"}


# Of every published CLIP, and of ViTImageProcessor.
CLIP = Preprocessing(224, False, 3, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
VIT = Preprocessing(224, True, 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def read_preprocessing(values: Mapping[str, Any], default: Preprocessing, image_size: int) -> Preprocessing:
    """The preprocessing that a `preprocessor_config.json` asks for, for a network of `image_size`.

    Keys left out are those of `default`.

    Raises:
        InputError: a step switched off, an unknown filter, or pixels that the network does not take.
    """
    size, square, crops = values.get("size", image_size), default.square, values.get("do_center_crop")
    if isinstance(size, dict):
        square, size = "shortest_edge" not in size, _side(size)
    crops = not square if crops is None else bool(crops)
    crop = _side(values.get("crop_size", size)) if crops else size
    mean, std = (values.get(f"image_{key}") or getattr(default, key) for key in ("mean", "std"))
    resample = values.get("resample", default.resample)
    scale = values.get("rescale_factor", 1 / 255)
    refused: dict[str, Any] = {
        step: False for step in ("do_resize", "do_rescale", "do_normalize") if values.get(step) is False
    }
    if size != image_size or crop != size or not (square or crops):
        refused["size"] = [values.get("size"), values.get("crop_size")]
    if not isinstance(resample, int) or resample not in FILTERS or not _close(scale, 1 / 255):
        refused |= {"resample": resample, "rescale_factor": scale}
    if not (_numbers(mean) and _numbers(std) and min(std) > 0):
        refused |= {"image_mean": mean, "image_std": std}
    if refused:
        raise InputError(
            f"preprocessor_config.json: {', '.join(f'{key} {value}' for key, value in refused.items())}",
            f"every step, to {image_size} pixels, resample 2 or 3, factor 1/255, three means and deviations",
            "use the file that was published with the model",
        )
    return Preprocessing(image_size, square, resample, tuple(mean), tuple(std))


def _side(size: Any) -> Any:
    """The one number that a size stands for; None where there are two."""
    if not isinstance(size, dict):
        return size
    sides = [size[key] for key in ("height", "width", "shortest_edge") if key in size]
    return sides[0] if sides and all(side == sides[0] for side in sides) else None


def _numbers(values: Any) -> bool:
    three = isinstance(values, list | tuple) and len(values) == 3
    return three and all(isinstance(x, int | float) and -1e3 < x < 1e3 for x in values)


def _close(value: Any, wanted: float) -> bool:
    return isinstance(value, float) and math.isclose(value, wanted, rel_tol=1e-6)


def in_batches(
    program: Callable[[jax.Array], jax.Array], rows: Callable[[slice], np.ndarray], count: int
) -> np.ndarray:
    """`program` over `count` rows, `BATCH` at a time, as host numbers [count, ...].

    Every batch has one shape (the last is filled up with its first row): one program, and the same numbers whatever
    the caller's batch is. Batches are dispatched as they are made, so that the host prepares one while the device
    works on the one before.
    """
    results = []
    for start in range(0, count, BATCH):
        batch = rows(slice(start, min(start + BATCH, count)))
        filled = np.concatenate([batch, np.repeat(batch[:1], BATCH - len(batch), axis=0)])
        results.append(program(jnp.asarray(filled)))
    return np.concatenate([np.asarray(result) for result in results])[:count]


def version_of(facts: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of facts that JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
