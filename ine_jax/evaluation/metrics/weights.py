"""Published weights of a metric's network under PyTorch names, from one file or a folder of several."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ine_jax.errors import InputError
from ine_jax.models.checkpoints.tensors import read_weight_file
from ine_jax.storage.provenance import file_hash

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def read_weights(
    source: str | Path, shapes: Mapping[str, tuple[int, ...]], rename: Callable[[str], str], what: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the tensors named in `shapes` as float32; returns them, and the sha256 of every file that was read.

    Args:
        source: a safetensors file, a file of `torch.save`, or a folder of such files. Other tensors in it are skipped.
        rename: maps a stored name to a name in `shapes`.
        what: what the error message calls the weights.
    """
    folder = Path(source)
    listed = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES) if folder.is_dir() else [folder]
    found: dict[str, np.ndarray] = {}
    faults: list[str] = []
    for path in listed:
        for stored, tensor in read_weight_file(path).tensors.items():
            name = rename(stored)
            if name not in shapes:
                continue
            if tuple(tensor.shape) != shapes[name]:
                faults.append(f"{name} {tuple(tensor.shape)}")
                continue
            values = np.asarray(tensor.read()).astype(np.float32)
            if not np.isfinite(values).all() or (name in found and not np.array_equal(found[name], values)):
                faults.append(f"{name} (not finite, or twice)")
            found[name] = values
    faults += [f"{name} (missing)" for name in shapes if name not in found]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise InputError(
            f"{what} {source}: {', '.join(faults[:3])}{more}",
            f"the {len(shapes)} tensors of the published weights, in one file or one folder",
            "download the file again, or put the files of both parts into one folder",
        )
    return found, {path.name: file_hash(path) for path in listed}


def weights_hash(weights: Mapping[str, ArrayLike]) -> str:
    """sha256 over names, shapes and float32 bytes: independent of the file that holds them."""
    digest = hashlib.sha256()
    for name, values in sorted(weights.items()):
        array = np.ascontiguousarray(values, np.float32)
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
