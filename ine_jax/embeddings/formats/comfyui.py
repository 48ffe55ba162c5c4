"""ComfyUI: the vectors by the key of their text encoder, in `.safetensors` or `.pt`.

A prompt uses `embedding:NAME`, where NAME is the file's stem. The tool takes the first of these that it finds: an entry
of `string_to_param`; in a list of mappings, every tensor of the text encoder's width, one after the other; the entry
named by the text encoder (`clip_l`, `clip_h`, `clip_g`); the first entry. We write the third, which is the same for
every model family.
"""

from pathlib import Path

import numpy as np

from ine_jax.embeddings import stored
from ine_jax.embeddings.containers import FormatError, OpenedFile
from ine_jax.embeddings.formats.base import Format
from ine_jax.embeddings.stored import StoredEmbedding
from ine_jax.embeddings.torch_writer import torch_bytes

TOOL = "ComfyUI"


def _claims(file: OpenedFile) -> bool:
    single = file.single_array()
    named = single is not None and single[0] in stored.WIDTHS
    return (file.container in ("safetensors", "torch") and named) or (
        file.container == "torch" and isinstance(file.value, list)
    )


def _read(file: OpenedFile) -> StoredEmbedding:
    vectors = _stacked(file.value) if isinstance(file.value, list) else next(iter(file.entries.values()))
    return stored.embedding_of(file, vectors, stored.stem_name(file), "token")


def _stacked(found: list[object]) -> np.ndarray:
    """Concatenate the rows of a list of mappings."""
    arrays = [array for held in found if isinstance(held, dict) for array in held.values()]
    if not arrays or not all(isinstance(array, np.ndarray) and array.ndim in (1, 2) for array in arrays):
        raise FormatError("a list that is not one of mappings of vectors")
    rows = [np.atleast_2d(array) for array in arrays]
    if len({(row.shape[1], row.dtype) for row in rows}) > 1:
        raise FormatError("a list of vectors of several widths or dtypes")
    return np.concatenate(rows)


def _write(item: StoredEmbedding, path: Path) -> bytes:
    stored.require_token_space(item, TOOL)
    stored.require_one_encoder(item, TOOL)
    tensors = {stored.encoder_of(item.vectors, stored.WIDTHS, TOOL): item.vectors}
    own = item.renamed(stored.require_plain_stem(path, TOOL)).embedding
    return own.file_of(tensors) if path.suffix == ".safetensors" else torch_bytes(tensors)


def _use(_: StoredEmbedding, path: Path) -> tuple[str, str]:
    return (
        f"{TOOL}: copy {path} to ComfyUI/models/embeddings/",
        f"then: write embedding:{path.stem} into the negative CLIP Text Encode",
    )


COMFYUI = Format("comfyui", "embedding of ComfyUI", (".safetensors", ".pt", ".bin"), _claims, _read, _write, _use)
