"""ComfyUI: the vectors by the key of their text encoder, in ``.safetensors`` or ``.pt``.

In the prompt stands ``embedding:NAME``, NAME being the file's stem. The tool takes the first that it finds of: an entry
of ``string_to_param``; in a list of mappings every tensor of the text encoder's width, one after the other; the entry
named by the text encoder (``clip_l``, ``clip_h``, ``clip_g``); the first entry. Written is the third, which is the same
for every model family.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ine_jax.embeddings.base import Format
from ine_jax.embeddings.learned import (
    WIDTHS,
    Content,
    FormatError,
    Learned,
    facts_of,
    learned,
    need_one,
    need_token,
    need_width,
    plain_stem,
)
from ine_jax.embeddings.torchfile import torch_bytes
from ine_jax.storage.safetensors_writer import safetensors_bytes

TOOL = "ComfyUI"


def _claims(content: Content) -> bool:
    only = content.only()
    named = only is not None and only[0] in WIDTHS
    return (content.container in ("safetensors", "torch") and named) or (
        content.container == "torch" and isinstance(content.value, list)
    )


def _read(content: Content) -> Learned:
    vectors = _stacked(content.value) if isinstance(content.value, list) else next(iter(content.value.values()))
    return learned(content, vectors, content.by_stem(), "token", facts=facts_of(content))


def _stacked(found: list[object]) -> np.ndarray:
    """Rows of a list of mappings, one below the other."""
    arrays = [array for held in found if isinstance(held, dict) for array in held.values()]
    if not arrays or not all(isinstance(array, np.ndarray) and array.ndim in (1, 2) for array in arrays):
        raise FormatError("a list that is not one of mappings of vectors")
    rows = [np.atleast_2d(array) for array in arrays]
    if len({(row.shape[1], row.dtype) for row in rows}) > 1:
        raise FormatError("a list of vectors of several widths or dtypes")
    return np.concatenate(rows)


def _write(item: Learned, path: Path) -> bytes:
    need_token(item, TOOL)
    need_one(item, TOOL)
    tensors = {need_width(item.vectors, WIDTHS, TOOL): item.vectors}
    named = item.renamed(plain_stem(path, TOOL))
    return (
        safetensors_bytes(tensors, named.embedding.header()) if path.suffix == ".safetensors" else torch_bytes(tensors)
    )


def use(_: Learned, path: Path) -> tuple[str, str]:
    """How to use a file in ComfyUI."""
    return (
        f"{TOOL}: copy {path} to ComfyUI/models/embeddings/",
        f"then: write embedding:{path.stem} into the negative CLIP Text Encode",
    )


COMFY = Format("comfyui", "embedding of ComfyUI", (".safetensors", ".pt", ".bin"), _claims, _read, _write, use)
