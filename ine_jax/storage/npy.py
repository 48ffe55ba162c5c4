"""Arrays in .npy files of strangers: the header is checked against the size before anything is allocated."""

import io
import math
import os

import numpy as np

from ine_jax.storage.untrusted import Reject, map_file, unreadable

_MAX_HEADER = 1 << 16  # bytes; NumPy parses no header of more than 10,000


def parse_npy(raw: bytes | np.ndarray) -> np.ndarray:
    """Return the numbers in the bytes of an npy file, not copied where their byte order is the machine's.

    ValueError where the header does not fit the size, or for an array of something else than numbers.
    """
    stream = io.BytesIO(bytes(raw[:_MAX_HEADER]))
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, by_column, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # a header is Python syntax, and its parser raises what Python raises
        raise ValueError(f"a damaged npy header ({str(error)[:100]})") from error
    data = raw[stream.tell() :]
    if dtype.hasobject or dtype.kind not in "fiub" or len(shape) > 8:
        raise ValueError(f"an array of {dtype}, not of numbers")
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {str(list(shape))[:80]} in {len(data)} bytes")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_column else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def map_npy(path: str | os.PathLike[str], reject: Reject = unreadable) -> np.ndarray:
    """Map the array of a file, read-only. ValueError as of `parse_npy`, or what `reject` makes for a file."""
    return parse_npy(np.asarray(map_file(path, reject)))
