"""Initial noise from a file of another program, one row per item, in place of the noise of the seeds.

A plan reads these files without JAX, so nothing here imports `ine_jax.types`.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ine_jax.config.methods import LatentsLayout
from ine_jax.errors import InputError
from ine_jax.prompts.items import Item
from ine_jax.storage.npy import map_npy
from ine_jax.storage.provenance import file_hash
from ine_jax.storage.untrusted import open_safetensors

SUFFIXES = (".npy", ".safetensors")
KINDS = "F16", "F32", "F64"
ALLOWED = "one float array [N, c, h, w] or [N, h, w, c], in .npy or .safetensors"


class Latents:
    """The rows of a file, one per item in their order; InputError for an item that occurs twice."""

    def __init__(self, path: str | Path, items: Sequence[Item], layout: LatentsLayout = "NCHW") -> None:
        """Open the file; its rows are read when they are asked for."""
        self.path, self.layout = Path(path), layout
        self.rows = {item: row for row, item in enumerate(items)}
        if len(self.rows) != len(items):
            twice = next(item for row, item in enumerate(items) if self.rows[item] != row)
            raise InputError(f"latents {path}: item {twice.id!r} occurs twice", "items that differ", "name it once")
        self._found = read_latents(path, len(items))

    @cached_property
    def sha256(self) -> str:
        """Hash of the file."""
        return file_hash(self.path)

    @property
    def identity(self) -> str:
        """The hash of the file, and its layout where that is not PyTorch's."""
        return self.sha256 if self.layout == "NCHW" else f"{self.sha256} {self.layout}"

    def __call__(self, items: Sequence[Item]) -> Float[np.ndarray, "batch _ _ _"]:
        """Return the rows of these items, as they are stored."""
        return np.stack([self._found[self.rows[item]] for item in items])


def read_latents(path: str | Path, count: int) -> Float[np.ndarray, "count _ _ _"]:
    """Return the array of the file as it is stored; a .npy file is mapped and not yet read."""
    path = Path(path)
    try:
        found = _safetensors(path) if path.suffix == ".safetensors" else map_npy(path, _wrong)
    except ValueError as error:
        raise _wrong(path, str(error)) from error
    if found.ndim != 4 or found.dtype.kind != "f":
        raise _wrong(path, f"{found.dtype} {found.shape}")
    if len(found) != count:
        given = f"latents {path}: {len(found)} for {count} items"
        raise InputError(given, "one row per item, in their order", "fix it")
    return found


def _safetensors(path: Path) -> np.ndarray:
    with open_safetensors(path, _wrong) as file:
        names = list(file.keys())
        if len(names) != 1:
            raise _wrong(path, f"{len(names)} tensors")
        if (kind := file.get_slice(names[0]).get_dtype()) not in KINDS:
            raise _wrong(path, kind)
        return np.asarray(file.get_tensor(names[0]))


def as_noise(found: np.ndarray, shape: tuple[int, int, int], layout: LatentsLayout) -> Float[np.ndarray, "batch h w c"]:
    """Return rows in NHWC or NCHW layout as float32 noise of `shape`, which is (h, w, c)."""
    height, width, channels = shape
    planes = layout == "NCHW"
    wanted = (channels, height, width) if planes else shape
    if found.shape[1:] != wanted:
        given, allowed = f"latents of shape {list(found.shape[1:])}", f"{list(wanted)}, layout {layout}"
        raise InputError(given, allowed, "change the layout (NCHW or NHWC), or the size of the images")
    noise = np.asarray(found, np.float32)
    if not np.isfinite(noise).all():
        raise InputError("latents with numbers that are not finite", "finite numbers", "sample them again")
    return np.ascontiguousarray(noise.transpose(0, 2, 3, 1)) if planes else noise


def _wrong(path: Path, given: str) -> InputError:
    return InputError(f"latents {path}: {given}", ALLOWED, "write it with numpy.save, or safetensors' save_file")
