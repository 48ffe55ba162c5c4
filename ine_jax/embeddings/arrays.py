"""Plain arrays: ``.npy``, ``.npz`` and a bare torch tensor. They name neither token nor space; an npz may."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from ine_jax.embeddings.base import Format
from ine_jax.embeddings.learned import CLIP_TOKENS, CONTEXT_KEYS, Content, FormatError, Learned, learned, need_one
from ine_jax.embeddings.torchfile import torch_bytes
from ine_jax.errors import InputError

_NPY_VERSION = (1, 0)


def _read_bare(content: Content) -> Learned:
    """One array of unknown space: three axes, or the user's word, tell a context embedding from a token one."""
    found = content.value
    if not isinstance(found, np.ndarray):
        raise FormatError("not one array")
    if not content.space and found.ndim == 2 and len(found) == CLIP_TOKENS:
        raise InputError(
            f"{content.path}: {CLIP_TOKENS} rows may be as many token vectors, or one sequence out of CLIP",
            "--space token or --space context",
            "say which; negative_prompt_embeds are context",
        )
    return learned(content, found, content.by_stem(), "context" if found.ndim == 3 else "")


def _read_npz(content: Content) -> Learned:
    arrays: Mapping[str, np.ndarray] = content.value
    if set(arrays) == {"clip_l", "clip_g"}:
        return learned(content, arrays["clip_l"], content.by_stem(), "token", arrays["clip_g"])
    if len(arrays) != 1:
        raise FormatError(f"{len(arrays)} arrays, neither one nor clip_l and clip_g")
    ((key, array),) = arrays.items()
    if key in CONTEXT_KEYS:
        return learned(content, array, content.by_stem(), "context")
    named = "" if key.startswith("arr_") or key in ("embedding", "emb_params", "vectors") else key
    return learned(content, array, named or content.by_stem())


def _write_npy(item: Learned, _: Path) -> bytes:
    need_one(item, "numpy")
    return _npy(item.vectors)


def _write_npz(item: Learned, _: Path) -> bytes:
    named = {CONTEXT_KEYS[0] if item.embedding.space == "context" else item.name: item.vectors}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in (named if item.second is None else item.parts()).items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _npy(array))  # its date is fixed: equal bytes
    return buffer.getvalue()


def _write_tensor(item: Learned, _: Path) -> bytes:
    need_one(item, "torch")
    return torch_bytes(item.vectors)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, widened(array), version=_NPY_VERSION, allow_pickle=False)
    return buffer.getvalue()


def widened(array: np.ndarray) -> np.ndarray:
    """float32 for bfloat16, which npy has no name for; every value stays itself."""
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def _use_numpy(item: Learned, path: Path) -> tuple[str, str]:
    space = item.embedding.space
    back = f"back: ine convert {path} {item.name}.safetensors --to native --token {item.name} --space {space}"
    if item.second is not None:
        back = f"back: ine convert {path} {item.name}.safetensors --to sdxl"
    return f'numpy: vectors = numpy.load("{path}")', back


def _use_tensor(item: Learned, path: Path) -> tuple[str, str]:
    load = f'torch: vectors = torch.load("{path}", weights_only=True)'
    if item.embedding.space == "context":
        return load, "diffusers: pipe(prompt, negative_prompt_embeds=vectors[None])"
    return load, f'diffusers: pipe.load_textual_inversion(vectors, token="{item.embedding.token}")'


NPY = Format("npy", "one numpy array", (".npy",), lambda c: c.container == "npy", _read_bare, _write_npy, _use_numpy)
NPZ = Format("npz", "named numpy arrays", (".npz",), lambda c: c.container == "npz", _read_npz, _write_npz, _use_numpy)
TENSOR = Format(
    "tensor",
    "one torch tensor",
    (".pt", ".bin", ".pth"),
    lambda c: c.container == "torch" and isinstance(c.value, np.ndarray),
    _read_bare,
    _write_tensor,
    _use_tensor,
)
