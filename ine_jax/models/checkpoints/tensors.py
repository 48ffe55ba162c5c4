"""Named tensors of any weight file, read when asked for: safetensors, PyTorch pickles, legacy Flax msgpack.

What a file is follows from its first bytes, not from its name. A PyTorch pickle is read by
`pickles`, which executes nothing. Every file becomes one flat mapping of PyTorch names
(`names.py`): nested dictionaries are joined by dots, and Flax paths get their PyTorch name and layout.
"""

import dataclasses
import mmap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import flax_msgpack, names
from ine_jax.storage import untrusted
from ine_jax.storage import weight_files as files
from ine_jax.storage.pickles import read_pickle

_KINDS = "safetensors, a PyTorch pickle (.pt, .bin, .ckpt) or Flax msgpack"
_DEPTH = 8  # nested dictionaries of a pickle; published ones have three


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An array of a file: shape and dtype are known, the values are read when asked for."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The values, so that NumPy takes a tensor for an array."""
        values = self.read()
        return values if dtype is None else values.astype(dtype)

    def then(self, shape: tuple[int, ...], change: Callable[[np.ndarray], np.ndarray]) -> "Tensor":
        """What `change` makes of the values, of `shape`; computed when it is read."""
        return Tensor(shape, self.dtype, lambda: change(self.read()))


State = Mapping[str, Tensor]


class NotWeights(InputError):  # noqa: N818  says what the file is, as the base class's name does not
    """A file of something else than weights of a model, such as an embedding."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensors of one component or file, the files that they came from, and the metadata of their headers."""

    tensors: State
    files: tuple[Path, ...]
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


def from_array(array: np.ndarray) -> Tensor:
    """A tensor over an array in memory or mapped from a file; of a mapped one, no page stays in memory once it is read.

    Pages of a mapped file count as this process's memory until they are given back: without that, reading a checkpoint
    would seem to take its size twice.
    """
    owner: Any = array
    while not isinstance(owner, mmap.mmap) and getattr(owner, "base", None) is not None:
        owner = owner.base
    if not isinstance(owner, mmap.mmap):
        return Tensor(array.shape, str(array.dtype), lambda: array)

    def read() -> np.ndarray:
        values = np.array(array)
        owner.madvise(mmap.MADV_DONTNEED)
        return values

    return Tensor(array.shape, str(array.dtype), read)


def read_weight_file(path: Path) -> Source:
    """Tensors of one file; `NotWeights` where it is of another kind or holds no tensor."""
    with untrusted.open_regular(path, untrusted.MAX_WEIGHTS, _unreadable) as file:
        head = file.read(16)
    if head[:4] == b"PK\x03\x04" or (
        head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and head[8:9] != b"{"
    ):
        source = Source(dict(_flat(read_pickle(path))), (path,))
    elif head[8:9] == b"{":
        source = _safetensors(files.Weights((path,)))
    elif head[:1] and (0x80 < head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        source = Source(_flax(path), (path,))
    else:
        raise NotWeights(f"{path}: not a kind of weight file that is known here", _KINDS, "take an undamaged copy")
    if not source.tensors:
        raise NotWeights(f"{path} holds no tensor", _KINDS, "take another file")
    return source


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: {reason}", _KINDS, "check the path")


def read_component_weights(folder: Path, component: str, stem: str, variant: str | None = None) -> Source:
    """Tensors of a component's folder: `<stem>.safetensors` or its shards; else `.bin`, whole or sharded; else
    Flax's `.msgpack`.

    `component` is a folder in `folder`, or `"."`. Raises `InputError` where there is none of them.
    """
    legacy = _legacy_files(folder, component, stem)
    try:
        return _safetensors(files.weight_files(folder, component, stem, variant))
    except InputError:
        if variant or not legacy or has_safetensors(folder / component, stem):
            raise
    sources = [read_weight_file(files.inside(folder, f"{component}/{name}")) for name in legacy]
    tensors: dict[str, Tensor] = {}
    for source in sources:
        tensors |= source.tensors
    return Source(tensors, tuple(file for source in sources for file in source.files))


def has_safetensors(folder: Path, stem: str) -> bool:
    """Whether the folder holds `stem` as safetensors, in one file or sharded, plain or fp16."""
    tagged = [(f"{stem}{tag}.safetensors", f"{stem}.safetensors.index{tag}.json") for tag in ("", ".fp16")]
    return any((folder / name).is_file() for names_ in tagged for name in names_)


def has_weights(folder: Path, stem: str) -> bool:
    """Whether `read_component_weights` finds something in `folder`."""
    return has_safetensors(folder, stem) or bool(_legacy_files(folder.parent, folder.name, stem))


def _legacy_files(folder: Path, component: str, stem: str) -> list[str]:
    torch_stem = "pytorch_model" if stem == "model" else stem
    place = folder / component
    index = place / f"{torch_stem}.bin.index.json"
    if (place / f"{torch_stem}.bin").is_file():
        return [f"{torch_stem}.bin"]
    if index.is_file():
        return sorted(set(files.shards(files.inside(folder, f"{component}/{index.name}"), ".bin").values()))
    return [flax_name(stem)] if (place / flax_name(stem)).is_file() else []


def flax_name(stem: str) -> str:
    """File of a component's Flax weights, by the stem of its safetensors."""
    return "flax_model.msgpack" if stem == "model" else "diffusion_flax_model.msgpack"


def _safetensors(weights: files.Weights) -> Source:
    def tensor(name: str) -> Tensor:
        return Tensor(*weights.headers[name], lambda: weights[name])

    return Source({name: tensor(name) for name in weights}, weights.files, weights.metadata)


def _flax(path: Path) -> dict[str, Tensor]:
    """Flax parameters under PyTorch names, in PyTorch's layout (views, nothing is copied)."""
    found: dict[str, Tensor] = {}
    for where, array in flax_msgpack.read_msgpack_leaves(path):
        where = where[1:] if where[0] == "params" and len(where) > 1 else where
        if where[-1] in names.LEAVES:
            found[names.torch_name(where)] = from_array(names.to_torch_layout(where, array))
        elif where[-1] != "position_ids":
            found[".".join(where)] = from_array(array)
    return found


def _flat(values: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Arrays of nested dictionaries with joined keys; numbers, texts and other notes beside them are passed over."""
    if isinstance(values, np.ndarray):
        yield prefix, from_array(values)
    elif isinstance(values, Mapping) and depth < _DEPTH:
        # A training checkpoint holds its optimizer beside the weights.
        chosen = {"state_dict": values["state_dict"]} if isinstance(values.get("state_dict"), Mapping) else values
        for key, value in chosen.items():
            if isinstance(key, str):
                yield from _flat(value, f"{prefix}.{key}" if prefix else key, depth + 1)
