"""Shared by detectors and metrics: preprocessing of vision transformers, batches of one shape, version hashes."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ine_jax.errors import InputError

BATCH = 8
FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as preprocessor_config.json has them


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation as in transformers' CLIPImageProcessor and ViTImageProcessor.

    Resizing is Pillow's own, so the pixels equal those of the processors' Pillow backend bit for bit; torchvision's
    resize differs by a level in places. With `square` both sides become `size`. Otherwise the short side does, and the
    long one is cropped; an odd pixel is cut at the end (OpenAI's code cuts every other such pixel at the start).
    """

    size: int
    square: bool
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixels(self, images: UInt8[np.ndarray, "N H W 3"]) -> UInt8[np.ndarray, "N size size 3"]:
        """Resize and crop."""
        return np.stack([self._one(image) for image in images])

    def _one(self, image: np.ndarray) -> np.ndarray:
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

    def normalise(self, pixels: UInt8[jax.Array, "N size size 3"]) -> Float[jax.Array, "N size size 3"]:
        """Return (p / 255 - mean) / std in float32."""
        mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3) for values in (self.mean, self.std))
        return (pixels.astype(jnp.float32) / 255 - mean) / std

    def about(self) -> dict[str, object]:
        """Return what is stored beside the scores."""
        return {**dataclasses.asdict(self), "resample": f"Pillow {FILTERS[self.resample]}"}


# The values of every published CLIP, and of ViTImageProcessor.
CLIP = Preprocessing(224, False, 3, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
VIT = Preprocessing(224, True, 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def read_preprocessing(values: Mapping[str, object], default: Preprocessing, image_size: int) -> Preprocessing:
    """The preprocessing in a `preprocessor_config.json`; missing keys take the values of `default`.

    InputError where a step is switched off, the filter is unknown, or the network takes another `image_size`.
    """
    size = values.get("size", image_size)
    square = "shortest_edge" not in size if isinstance(size, dict) else default.square
    side, crops = _side(size), bool(values.get("do_center_crop", not square))
    crop = _side(values.get("crop_size", side)) if crops else side
    given = [values.get(f"image_{key}") or getattr(default, key) for key in ("mean", "std")]
    mean, std = map(_three, given)
    resample = values.get("resample", default.resample)
    scale = values.get("rescale_factor", 1 / 255)
    steps = ("do_resize", "do_rescale", "do_normalize")
    rejected: dict[str, object] = {step: False for step in steps if values.get(step) is False}
    if side != image_size or crop != side or not (square or crops):
        rejected["size"] = [values.get("size"), values.get("crop_size")]
    known = isinstance(resample, int) and resample in FILTERS
    if not known or not (isinstance(scale, float) and math.isclose(scale, 1 / 255, rel_tol=1e-6)):
        rejected |= {"resample": resample, "rescale_factor": scale}
    if not (mean and std and min(std) > 0):
        rejected |= {"image_mean": given[0], "image_std": given[1]}
    if rejected or not (mean and std and isinstance(resample, int)):
        raise InputError(
            f"preprocessor_config.json: {', '.join(f'{key} {value}' for key, value in rejected.items())}",
            f"every step, to {image_size} pixels, resample 2 or 3, factor 1/255, three means and deviations",
            "use the file that was published with the model",
        )
    return Preprocessing(image_size, square, resample, mean, std)


def _side(size: object) -> object:
    """The single number of a size; None for two different ones."""
    if not isinstance(size, dict):
        return size
    sides = [size[key] for key in ("height", "width", "shortest_edge") if key in size]
    return sides[0] if sides and all(side == sides[0] for side in sides) else None


def _three(values: object) -> tuple[float, ...] | None:
    """Three numbers, one per channel; None for anything else."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        return None
    return tuple(values) if all(isinstance(x, int | float) and -1e3 < x < 1e3 for x in values) else None


def in_batches(
    program: Callable[[jax.Array], jax.Array], rows: Callable[[slice], np.ndarray], count: int, size: int = BATCH
) -> np.ndarray:
    """Run `program` on `count` rows, `size` at a time; returns host arrays [count, ...].

    All batches have one shape (the last is padded with its first row): there is one compiled program, and the results
    do not depend on the caller's batch. The host prepares a batch while the device computes the one before.
    """
    results = []
    for start in range(0, count, size):
        batch = rows(slice(start, min(start + size, count)))
        filled = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), axis=0)])
        results.append(program(jnp.asarray(filled)))
    return np.concatenate([np.asarray(result) for result in results])[:count]


def version_of(facts: Mapping[str, object]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
