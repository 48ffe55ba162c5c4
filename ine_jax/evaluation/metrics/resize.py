"""Resizing exactly as in the code of published evaluations, in NumPy on the host."""

import numpy as np
from jaxtyping import UInt8

_BITS = 11  # OpenCV keeps the weights of 8-bit images as integers of this many binary places


def linear_uint8(image: UInt8[np.ndarray, "H W C"], height: int, width: int) -> UInt8[np.ndarray, "{height} {width} C"]:
    """`cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)` bit for bit.

    Bilinear between pixel centres without anti-aliasing, in OpenCV's fixed-point arithmetic (weights in 1/2048, two
    roundings down and one to nearest; modules/imgproc/src/resize.cpp). Halving is the mean of 2 x 2 pixels in both.
    """
    top, bottom, down = _taps(image.shape[0], height)
    left, right, across = _taps(image.shape[1], width)
    pixels = image.astype(np.int64)
    one, across, down = 1 << _BITS, across[None, :, None], down[:, None, None]
    rows = (pixels[:, left] * (one - across) + pixels[:, right] * across) >> 4
    mixed = ((rows[top] * (one - down)) >> 16) + ((rows[bottom] * down) >> 16)
    resized: np.ndarray = (mixed + 2) >> 2
    return resized.astype(np.uint8)


def _taps(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each target position: the two source positions and the weight of the second, in 1/2048."""
    place = (np.arange(wanted) + 0.5) * (size / wanted) - 0.5
    first = np.floor(place).astype(np.int64)
    weight = np.rint((place - first) * (1 << _BITS)).astype(np.int64)
    return np.clip(first, 0, size - 1), np.clip(first + 1, 0, size - 1), weight
