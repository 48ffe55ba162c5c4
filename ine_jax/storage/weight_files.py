"""Reading of untrusted model folders: names that stay inside, JSON with limits, safetensors single or sharded."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from ine_jax.errors import InputError
from ine_jax.storage import untrusted
from ine_jax.storage.dtypes import NAME_OF_CODE, WEIGHT_DTYPES

_SUFFIX = ".safetensors"
_SHARD = re.compile(r"[\w\-][\w.\-]*(\.safetensors|\.bin)")


def allowed_root(folder: Path) -> Path:
    """The folder, or its repository (of snapshots that link to blobs) in the hub's cache: files may resolve into it."""
    real = folder.resolve()
    return real.parents[1] if real.parent.name == "snapshots" else real


def inside(folder: Path, name: str) -> Path:
    """Path of the file `name` of `folder`; `InputError` for absolute names, `..` and links leading out."""
    parts = Path(name).parts
    plain = bool(parts) and not Path(name).is_absolute() and ".." not in parts and "\\" not in name and "\0" not in name
    if plain and (folder / name).resolve().is_relative_to(allowed_root(folder)):
        return folder / name
    raise InputError(
        f"{folder}: file name {name!r} leads out of the folder", "names of files in it", "do not use this folder"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of at most 8 MiB; `InputError` for anything else."""
    data = untrusted.read(path, untrusted.MAX_JSON, _unreadable)
    try:
        values = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}", "a JSON object", "take an undamaged copy")
    return values


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: {reason}", "a file of a model folder", "check the path, or take an undamaged copy")


class Weights(Mapping[str, np.ndarray]):
    """Tensors of one or several safetensors files, each read when it is asked for."""

    def __init__(self, files: tuple[Path, ...], index: Mapping[str, str] | None = None) -> None:
        """`index` (tensor → file name), where given, must name exactly the tensors that the files hold."""
        self.files = files
        self.headers: dict[str, tuple[tuple[int, ...], str]] = {}
        self.metadata: dict[str, str] = {}
        self._owner: dict[str, Path] = {}
        for file in files:
            headers, notes = _headers(file)
            self.headers |= headers
            self.metadata |= notes
            for name in headers:
                if name in self._owner:
                    raise InputError(
                        f"{name} is in {self._owner[name].name} and in {file.name}", "one file each", "check the index"
                    )
                self._owner[name] = file
        for name, owner in (index or {}).items():
            if name not in self._owner or self._owner[name].name != Path(owner).name:
                raise InputError(
                    f"the index puts {name} in {owner}, which lacks it", "a matching index", "copy the files anew"
                )

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor `name` as a host array in its stored dtype."""
        with untrusted.open_safetensors(self._owner[name], _unreadable) as file:
            tensor: np.ndarray = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        """Names in file order."""
        return iter(self._owner)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._owner)


def _headers(file: Path) -> tuple[dict[str, tuple[tuple[int, ...], str]], dict[str, str]]:
    try:
        with untrusted.open_safetensors(file, _unreadable) as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  not a mapping
            found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
            metadata = dict(opened.metadata() or {})
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _unreadable(file, str(error)) from error
    for name, (_, dtype) in found.items():
        if NAME_OF_CODE.get(dtype) not in WEIGHT_DTYPES:
            raise InputError(f"{file}: {name} is {dtype}", "F32, F16 or BF16", "convert the file first")
    return {name: (shape, NAME_OF_CODE[dtype]) for name, (shape, dtype) in found.items()}, metadata


def weight_files(folder: Path, component: str, stem: str, variant: str | None) -> Weights:
    """Weights of a component: `<stem>.safetensors`, or the shards that `<stem>.safetensors.index.json` names.

    With `variant` (say `"fp16"`) only files of that variant; without, the plain files, else the fp16 ones.
    Raises `InputError` where none is there or a name leads out of the folder.
    """
    for choice in (variant,) if variant else (None, "fp16"):
        tag = f".{choice}" if choice else ""
        single, index = f"{stem}{tag}{_SUFFIX}", f"{stem}{_SUFFIX}.index{tag}.json"
        if (folder / component / single).is_file():
            return Weights((inside(folder, f"{component}/{single}"),))
        if (folder / component / index).is_file():
            return _sharded(folder, component, index)
    wanted = f"{stem}.{variant}{_SUFFIX}" if variant else f"{stem}{_SUFFIX}"
    raise InputError(
        f"{folder / component} has no {wanted}",
        "safetensors, one file or shards with an index",
        "check the folder, or name another variant",
    )


def _sharded(folder: Path, component: str, index: str) -> Weights:
    table = shards(inside(folder, f"{component}/{index}"), _SUFFIX)
    return Weights(tuple(inside(folder, f"{component}/{name}") for name in sorted(set(table.values()))), table)


def shards(index: Path, suffix: str) -> dict[str, str]:
    """Tensor → file name of an index; `InputError` unless all are plain names of files with `suffix`."""
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
        raise InputError(f"{index} has no weight_map", "tensor name → file name", "take an undamaged copy")
    wrong = [name for name in table.values() if not _SHARD.fullmatch(name) or not name.endswith(suffix)]
    if wrong:
        raise InputError(
            f"{index} names {wrong[0]!r}", f"{suffix[1:]} files beside the index", "do not use this folder"
        )
    return table
