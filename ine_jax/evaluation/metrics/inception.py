"""Inception-v3 as FID uses it (Szegedy et al. 2015, arXiv 1512.00567; the graph of 2015-12-05), in Flax.

It differs from torchvision's network in its pooling: averages leave padding out, and the last block takes a maximum.
Features are the 2048 means over positions before the classifier. Weights under PyTorch names, as in the published
conversions of that graph (`pt_inception-2015-12-05-6726825d.pth`). Batch normalisation is folded into the convolutions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ine_jax.evaluation.detectors.base import Images, Unscored, Verdict
from ine_jax.evaluation.detectors.vision import in_batches
from ine_jax.evaluation.metrics import fid
from ine_jax.evaluation.metrics.base import measure_checked
from ine_jax.evaluation.metrics.weights import read_weights, weights_hash
from ine_jax.storage.records import About

SIDE = 299
WIDTH = 2048
BATCH = 8
BN_EPSILON = 1e-3
RESIZE = "299 x 299, Pillow bicubic in float32 per channel, clipped to 0...255 (as clean-fid's mode clean)"
PARTS = {"weight": 0, "bias": 1, "running_mean": 2, "running_var": 3}


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution with normalisation and ReLU; stride 2 and `valid` go without padding."""

    name: str
    channels: int
    kernel: tuple[int, int]
    stride: int = 1
    valid: bool = False


Step: TypeAlias = "Conv | str | tuple[Branch, ...]"  # a convolution, a pooling, or branches that are concatenated
Branch: TypeAlias = tuple[Step, ...]


def _c(name: str, channels: int, height: int, width: int | None = None, stride: int = 1) -> Conv:
    return Conv(name, channels, (height, width or height), stride)


def _a(pool: int) -> tuple[Branch, ...]:
    double = (_c("branch3x3dbl_1", 64, 1), _c("branch3x3dbl_2", 96, 3), _c("branch3x3dbl_3", 96, 3))
    five = (_c("branch5x5_1", 48, 1), _c("branch5x5_2", 64, 5))
    return (_c("branch1x1", 64, 1),), five, double, ("average", _c("branch_pool", pool, 1))


def _b() -> tuple[Branch, ...]:
    double = (_c("branch3x3dbl_1", 64, 1), _c("branch3x3dbl_2", 96, 3), _c("branch3x3dbl_3", 96, 3, stride=2))
    return (_c("branch3x3", 384, 3, stride=2),), double, ("halve",)


def _s(width: int) -> tuple[Branch, ...]:
    seven = (_c("branch7x7_1", width, 1), _c("branch7x7_2", width, 1, 7), _c("branch7x7_3", 192, 7, 1))
    double = tuple(
        _c(f"branch7x7dbl_{i}", channels, *kernel)
        for i, channels, kernel in (
            (1, width, (1, 1)),
            (2, width, (7, 1)),
            (3, width, (1, 7)),
            (4, width, (7, 1)),
            (5, 192, (1, 7)),
        )
    )
    return (_c("branch1x1", 192, 1),), seven, double, ("average", _c("branch_pool", 192, 1))


def _d() -> tuple[Branch, ...]:
    three = (_c("branch3x3_1", 192, 1), _c("branch3x3_2", 320, 3, stride=2))
    seven = (_c("branch7x7x3_1", 192, 1), _c("branch7x7x3_2", 192, 1, 7), _c("branch7x7x3_3", 192, 7, 1))
    return three, (*seven, _c("branch7x7x3_4", 192, 3, stride=2)), ("halve",)


def _e(pooling: str) -> tuple[Branch, ...]:
    def split(name: str, *suffixes: str) -> tuple[Branch, ...]:
        return (_c(f"{name}{suffixes[0]}", 384, 1, 3),), (_c(f"{name}{suffixes[1]}", 384, 3, 1),)

    three = (_c("branch3x3_1", 384, 1), split("branch3x3_", "2a", "2b"))
    double = (_c("branch3x3dbl_1", 448, 1), _c("branch3x3dbl_2", 384, 3), split("branch3x3dbl_", "3a", "3b"))
    return (_c("branch1x1", 320, 1),), three, double, (pooling, _c("branch_pool", 192, 1))


STEM: Branch = (
    _c("Conv2d_1a_3x3", 32, 3, stride=2),
    Conv("Conv2d_2a_3x3", 32, (3, 3), valid=True),
    _c("Conv2d_2b_3x3", 64, 3),
    "halve",
    _c("Conv2d_3b_1x1", 80, 1),
    Conv("Conv2d_4a_3x3", 192, (3, 3), valid=True),
    "halve",
)
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _b(),
    "Mixed_6b": _s(128),
    "Mixed_6c": _s(160),
    "Mixed_6d": _s(160),
    "Mixed_6e": _s(192),
    "Mixed_7a": _d(),
    "Mixed_7b": _e("average"),
    "Mixed_7c": _e("maximum"),
}
NETWORK: Branch = (*STEM, *((tuple((name, *branch) for branch in block)) for name, block in BLOCKS.items()))


class Inception(nn.Module):
    """Images [B, H, W, 3] in 0...255, 299 pixels wide in FID -> features [B, 2048]."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Return the features."""

        def run(x: jax.Array, branch: Branch, prefix: str = "") -> jax.Array:
            for step in branch:
                match step:
                    case Conv():
                        padding = "VALID" if step.valid or step.stride > 1 else "SAME"
                        name = (prefix + step.name).replace(".", "_")
                        conv = nn.Conv(step.channels, step.kernel, step.stride, padding, precision="highest", name=name)
                        x = nn.relu(conv(x))
                    case "halve":
                        x = nn.max_pool(x, (3, 3), (2, 2))
                    case "maximum":
                        x = nn.max_pool(x, (3, 3), padding="SAME")
                    case "average":
                        x = nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
                    case str():
                        prefix = f"{step}."
                    case _:
                        x = jnp.concatenate([run(x, each, prefix) for each in step], axis=-1)
            return x

        return run((images - 128.0) / 128.0, NETWORK).mean(axis=(1, 2))


def convolutions(channels: int = 3) -> dict[str, tuple[Conv, int]]:
    """Every convolution by its PyTorch name, with the number of channels that enter it."""

    def walk(branch: Branch, before: int, prefix: str) -> Iterator[tuple[str, Conv, int] | int]:
        for step in branch:
            match step:
                case Conv():
                    yield prefix + step.name, step, before
                    before = step.channels
                case "halve" | "maximum" | "average":
                    continue
                case str():
                    prefix = f"{step}."
                case _:
                    after = 0
                    for each in step:
                        for found in walk(each, before, prefix):
                            if isinstance(found, int):
                                after += found
                            else:
                                yield found
                    before = after
        yield before

    return {found[0]: found[1:] for found in walk(NETWORK, channels, "") if not isinstance(found, int)}


def shapes() -> dict[str, tuple[int, ...]]:
    """Tensors of the network in PyTorch's layout: `<convolution>.conv.weight` and the four of its `.bn`."""
    found: dict[str, tuple[int, ...]] = {}
    for name, (conv, before) in convolutions().items():
        found[f"{name}.conv.weight"] = (conv.channels, before, *conv.kernel)
        found |= {f"{name}.bn.{part}": (conv.channels,) for part in PARTS}
    return found


def folded(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters of `Inception`: each convolution with its normalisation as one kernel and bias, folded in float64."""
    params: dict[str, Any] = {}
    for name in convolutions():
        kernel = weights[f"{name}.conv.weight"].astype(np.float64).transpose(2, 3, 1, 0)
        scale, bias, mean, variance = (weights[f"{name}.bn.{part}"].astype(np.float64) for part in PARTS)
        factor = scale / np.sqrt(variance + BN_EPSILON)
        params[name.replace(".", "_")] = {
            "kernel": (kernel * factor).astype(np.float32),
            "bias": (bias - mean * factor).astype(np.float32),
        }
    return params


def resized(image: np.ndarray) -> np.ndarray:
    """A uint8 image [H, W, 3] as float32 [299, 299, 3]: each channel by itself, not rounded (see `RESIZE`)."""
    channels = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    small = [np.asarray(c.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 255) for c in channels]
    return np.stack(small, axis=-1)


@dataclasses.dataclass(frozen=True)
class FidMetric:
    """Inception features of images, behind the `Metric` protocol; FID itself is of whole sets (`metrics.fid`)."""

    params: Mapping[str, Any]
    sha256: str
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    id: str = "fid"
    needs_reference: bool = False

    @property
    def version(self) -> str:
        """The network and a short hash of the weights."""
        return f"inception-{self.sha256[:8]}"

    def about(self) -> About:
        """What is stored once beside the features, and printed beside FID."""
        return {
            "kind": "metric",
            "labels": [fid.NORM],
            "features": WIDTH,
            "network": "Inception-v3, FID variant of 2015-12-05, own port to Flax",
            "resize": RESIZE,
            "weights_sha256": self.sha256,
            "files": dict(self.files),
        }

    @cached_property
    def _features(self) -> Callable[[jax.Array], jax.Array]:
        net = jax.jit(Inception().apply)  # weights as an argument: as constants they would be folded at length
        return lambda images: net({"params": self.params}, images)

    def measure(self, images: Images, prompts: Sequence[str], references: Images | None = None) -> list[Verdict]:
        """The features of each image [B, H, W, 3]; constant, not finite or failing ones are `Unscored`."""
        return measure_checked(images, prompts, None, self._measure)

    def _measure(self, images: np.ndarray, prompts: list[str], references: np.ndarray | None) -> list[Verdict]:
        def prepared(rows: slice) -> np.ndarray:
            return np.stack([resized(image) for image in images[rows]])

        vectors = in_batches(self._features, prepared, len(images), BATCH)
        return [fid.verdict(v) if np.isfinite(v).all() else Unscored("features not finite") for v in vectors]


def load(source: str | Path) -> FidMetric:
    """Read the weights from a safetensors or `.pth` file. InputError names what is missing or damaged."""
    weights, files = read_weights(source, shapes(), str, "Inception weights")
    return FidMetric(folded(weights), weights_hash(weights), files)
