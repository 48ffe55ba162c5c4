"""Plain arrays: `.npy`, `.npz` and a bare torch tensor. They record neither token nor space, except in an npz."""

import io
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np

from ine_jax.embeddings import stored
from ine_jax.embeddings.containers import FormatError, OpenedFile
from ine_jax.embeddings.formats.base import Format
from ine_jax.embeddings.stored import StoredEmbedding
from ine_jax.embeddings.torch_writer import torch_bytes
from ine_jax.errors import InputError


def _read_bare(file: OpenedFile) -> StoredEmbedding:
    """Read one array: three axes, or the user's choice, make it a context embedding."""
    found = file.value
    if not isinstance(found, np.ndarray):
        raise FormatError("not one array")
    if not file.space and found.ndim == 2 and len(found) == stored.CLIP_TOKENS:
        given = f"{file.path}: {stored.CLIP_TOKENS} rows may be as many token vectors, or one sequence out of CLIP"
        raise InputError(given, "--space token or --space context", "choose one; negative_prompt_embeds are context")
    return stored.embedding_of(file, found, stored.stem_name(file), "context" if found.ndim == 3 else "")


def _read_npz(file: OpenedFile) -> StoredEmbedding:
    if set(file.entries) == {"clip_l", "clip_g"}:
        return stored.embedding_of(
            file, file.entries["clip_l"], stored.stem_name(file), "token", file.entries["clip_g"]
        )
    single = file.single_array()
    if single is None:
        raise FormatError(f"{len(file.entries)} arrays, neither one nor clip_l and clip_g")
    key, array = single
    if key in stored.CONTEXT_KEYS:
        return stored.embedding_of(file, array, stored.stem_name(file), "context")
    named = "" if key.startswith("arr_") or key in stored.UNNAMED else key
    return stored.embedding_of(file, array, named or stored.stem_name(file))


def _write_npy(item: StoredEmbedding, _: Path) -> bytes:
    stored.require_one_encoder(item, "numpy")
    return _npy(item.vectors)


def _write_npz(item: StoredEmbedding, _: Path) -> bytes:
    named = {stored.CONTEXT_KEYS[0] if item.embedding.space == "context" else item.name: item.vectors}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in (named if item.clip_g is None else item.arrays()).items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _npy(array))  # its date is fixed: equal bytes
    return buffer.getvalue()


def _write_tensor(item: StoredEmbedding, _: Path) -> bytes:
    stored.require_one_encoder(item, "torch")
    return torch_bytes(item.vectors)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, widened(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def widened(array: np.ndarray) -> np.ndarray:
    """Return float32 of the same values for bfloat16, which npy cannot name; other arrays unchanged."""
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def _use_numpy(item: StoredEmbedding, path: Path) -> tuple[str, str]:
    space = item.embedding.space
    back = f"back: ine convert {path} {item.name}.safetensors --to native --token {item.name} --space {space}"
    if item.clip_g is not None:
        back = f"back: ine convert {path} {item.name}.safetensors --to sdxl"
    return f'numpy: vectors = numpy.load("{path}")', back


def _use_tensor(item: StoredEmbedding, path: Path) -> tuple[str, str]:
    load = f'torch: vectors = torch.load("{path}", weights_only=True)'
    if item.embedding.space == "context":
        return load, "diffusers: pipe(prompt, negative_prompt_embeds=vectors[None])"
    return load, f'diffusers: pipe.load_textual_inversion(vectors, token="{item.embedding.token}")'


def _claims_tensor(file: OpenedFile) -> bool:
    return file.container == "torch" and isinstance(file.value, np.ndarray)


NPY = Format("npy", "one numpy array", (".npy",), lambda f: f.container == "npy", _read_bare, _write_npy, _use_numpy)
NPZ = Format("npz", "named numpy arrays", (".npz",), lambda f: f.container == "npz", _read_npz, _write_npz, _use_numpy)
TENSOR = Format(
    "tensor", "one torch tensor", (".pt", ".bin", ".pth"), _claims_tensor, _read_bare, _write_tensor, _use_tensor
)
