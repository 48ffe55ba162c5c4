"""LPIPS v0.1 on AlexNet (Zhang et al. 2018, arXiv 1801.03924) in Flax, for prior preservation: PP = 1 - LPIPS.

Both images, normalised per channel, pass the five convolutions of torchvision's AlexNet. After each ReLU the features
at every position are scaled to unit length. Their squared differences are weighted by a linear head without bias (one
per layer), summed over channels and averaged over positions. The distance is the sum over the five layers.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, UInt8

from ine_jax.evaluation.detectors.base import Images, Scored, Verdict
from ine_jax.evaluation.detectors.vision import in_batches
from ine_jax.evaluation.metrics.base import measure_checked
from ine_jax.evaluation.metrics.resize import linear_uint8
from ine_jax.evaluation.metrics.weights import read_weights, weights_hash
from ine_jax.storage.records import About
from ine_jax.types import Params

# torchvision's index in `features`, channels, kernel, stride, padding
LAYERS = ((0, 64, 11, 4, 2), (3, 192, 5, 1, 2), (6, 384, 3, 1, 1), (8, 256, 3, 1, 1), (10, 256, 3, 1, 1))
Pixels: TypeAlias = Float[jax.Array, "B H W 3"]
POOLED = (1, 2)  # layers that begin with a 3 x 3 maximum at stride 2
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and deviation for pixels in [-1, 1]
EPSILON = 1e-10
BATCH = 16
PUBLISHED_SIZE = 64
_STORED = re.compile(r"(?:net\.slice\d\.|alexnet\.)?(?:features\.)?(\d+)\.(weight|bias)")
_HEAD = re.compile(r"lin(?:s\.)?(\d)\.model\.\d\.weight")


class Lpips(nn.Module):
    """Two batches of images in [-1, 1] -> distances. Sides of at least 31 pixels."""

    @nn.compact
    def __call__(self, a: Pixels, b: Pixels) -> Float[jax.Array, "B"]:
        """Return one distance per pair."""
        total = jnp.zeros(len(a))
        # one pass for both, so equal images have equal features and a distance of exactly 0
        x = (jnp.concatenate([a, b]) - jnp.asarray(SHIFT).reshape(1, 1, 1, 3)) / jnp.asarray(SCALE).reshape(1, 1, 1, 3)
        for i, (_, channels, kernel, stride, pad) in enumerate(LAYERS):
            if i in POOLED:
                x = nn.max_pool(x, (3, 3), (2, 2))
            conv = nn.Conv(channels, (kernel, kernel), stride, pad, precision="highest", name=f"conv_{i}")
            x = nn.relu(conv(x))
            unit = x / (jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True)) + EPSILON)
            head = self.param(f"head_{i}", nn.initializers.ones, (channels,))
            squares = (unit[: len(a)] - unit[len(a) :]) ** 2
            total = total + jnp.mean(jnp.sum(squares * head.reshape(1, 1, 1, -1), axis=-1), axis=(1, 2))
        return total


@dataclasses.dataclass(frozen=True)
class LpipsMetric:
    """LPIPS to the reference image of the same item, behind the `Metric` protocol.

    `size` resizes both images as in OpenCV (64 in the published values of prior preservation); None keeps their size.
    """

    params: Params
    sha256: str
    size: int | None = PUBLISHED_SIZE
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    needs_reference: bool = True

    @property
    def id(self) -> str:
        """`lpips-64`, or `lpips-full` where images are not resized."""
        return f"lpips-{self.size or 'full'}"

    @property
    def version(self) -> str:
        """LPIPS's version and a short hash of the weights."""
        return f"0.1-{self.sha256[:8]}"

    def about(self) -> About:
        """Return what is stored once beside the values."""
        side = f"{self.size} x {self.size}" if self.size else ""
        resize = f"cv2.resize INTER_LINEAR of uint8 to {side}" if self.size else "none"
        return {
            "kind": "metric",
            "labels": [self.id],
            "network": "AlexNet, LPIPS v0.1",
            "preservation": "1 - value",
            "resize": resize,
            "weights_sha256": self.sha256,
            "files": dict(self.files),
        }

    @cached_property
    def _distances(self) -> Callable[[jax.Array], jax.Array]:
        net = jax.jit(Lpips().apply)
        return lambda pairs: net({"params": self.params}, pairs[:, 0] / 127.5 - 1.0, pairs[:, 1] / 127.5 - 1.0)

    def measure(self, images: Images, prompts: Sequence[str], references: Images | None) -> list[Verdict]:
        """Return one distance per image [B, H, W, 3]; unusable images and references are `Unscored`."""
        if references is None:
            raise ValueError(f"{self.id} compares with references")
        return measure_checked(images, prompts, references, self._measure)

    def _measure(self, images: np.ndarray, prompts: list[str], references: np.ndarray | None) -> list[Verdict]:
        def pairs(rows: slice) -> np.ndarray:
            return np.stack([self._prepared(images[rows]), self._prepared(references[rows])], axis=1)  # type: ignore[index]

        values = in_batches(self._distances, pairs, len(images), BATCH)
        return [Scored({self.id: round(float(value), 7)}) for value in values]

    def _prepared(self, images: UInt8[np.ndarray, "N H W 3"]) -> Float32[np.ndarray, "N h w 3"]:
        if self.size is None:
            return images.astype(np.float32)
        return np.stack([linear_uint8(image, self.size, self.size) for image in images]).astype(np.float32)


def shapes() -> dict[str, tuple[int, ...]]:
    """Tensors of the network in PyTorch's layout: `features.<i>.weight`, `.bias` and `lin<k>.weight`."""
    found: dict[str, tuple[int, ...]] = {}
    before = 3
    for k, (place, channels, kernel, _, _) in enumerate(LAYERS):
        found[f"features.{place}.weight"] = (channels, before, kernel, kernel)
        found[f"features.{place}.bias"] = (channels,)
        found[f"lin{k}.weight"] = (1, channels, 1, 1)
        before = channels
    return found


def _usual(name: str) -> str:
    if head := _HEAD.fullmatch(name):
        return f"lin{head[1]}.weight"
    stored = _STORED.fullmatch(name)
    return f"features.{stored[1]}.{stored[2]}" if stored else name


def load(source: str | Path, size: int | None = PUBLISHED_SIZE) -> LpipsMetric:
    """Read torchvision's AlexNet and the heads of LPIPS v0.1: a folder of the two files, or one file of both.

    Names may be torchvision's (`features.0.weight`), the head file's (`lin0.model.1.weight`) or those of the `lpips`
    package. InputError names what is missing or damaged.
    """
    weights, files = read_weights(source, shapes(), _usual, "LPIPS weights")
    params: dict[str, dict[str, np.ndarray] | np.ndarray] = {}
    for k, (place, *_) in enumerate(LAYERS):
        kernel = weights[f"features.{place}.weight"].transpose(2, 3, 1, 0)
        params[f"conv_{k}"] = {"kernel": kernel, "bias": weights[f"features.{place}.bias"]}
        params[f"head_{k}"] = weights[f"lin{k}.weight"].reshape(-1)
    return LpipsMetric(params, weights_hash(weights), size, files)
