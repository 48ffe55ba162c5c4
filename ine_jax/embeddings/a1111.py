"""Stable Diffusion web UI (A1111): ``.pt`` with ``string_to_param``, and ``.safetensors`` with one tensor.

The word in the prompt is the file's stem, whatever the file says; the ``name`` inside is what diffusers goes by, so
both are written alike. The ``.pt`` has exactly one entry in ``string_to_param``; in the oldest files that is a module,
whose parameters count. Vectors of another width than the loaded model's are left aside by the tool, without an error.
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
    need_short,
    need_token,
    need_width,
    plain_stem,
)
from ine_jax.embeddings.torchfile import torch_bytes
from ine_jax.storage.safetensors_writer import safetensors_bytes

TOOL = "A1111"
KEY = "emb_params"
_PLACEHOLDER = 265  # id of "*", which the first trainer put in the place of the vectors
_WIDTHS = {name: WIDTHS[name] for name in ("clip_l", "clip_h")}


def _claims_pt(content: Content) -> bool:
    return content.container == "torch" and "string_to_param" in content.named()


def _read_pt(content: Content) -> Learned:
    held = content.value["string_to_param"]
    if not isinstance(held, dict) or len(held) != 1:
        raise FormatError("string_to_param without exactly one entry")
    (vectors,) = held.values()
    facts = {key: content.value.get(key) for key in ("step", "sd_checkpoint")}
    facts = {key: value for key, value in facts.items() if isinstance(value, str | int)}
    base = content.value.get("sd_checkpoint_name")
    facts["base_model"] = base if isinstance(base, str) else None
    return learned(content, vectors, content.by_stem(), "token", facts=facts)


def _write_pt(item: Learned, path: Path) -> bytes:
    vectors, facts = _fitting(item), item.embedding.provenance
    step = facts.get("step", facts.get("steps", ""))
    return torch_bytes(
        {
            "string_to_token": {"*": _PLACEHOLDER},
            "string_to_param": {"*": vectors},
            "name": plain_stem(path, TOOL),
            "step": int(step) if step.isascii() and step.isdigit() and len(step) < 10 else None,
            "sd_checkpoint": facts.get("sd_checkpoint"),
            "sd_checkpoint_name": item.embedding.base_model or None,
        }
    )


def _claims_safetensors(content: Content) -> bool:
    return content.container == "safetensors" and content.named() == {KEY}


def _read_safetensors(content: Content) -> Learned:
    return learned(content, content.value[KEY], content.by_stem(), "token", facts=facts_of(content))


def _write_safetensors(item: Learned, path: Path) -> bytes:
    vectors = _fitting(item)
    return safetensors_bytes({KEY: vectors}, item.renamed(plain_stem(path, TOOL)).embedding.header())


def _fitting(item: Learned) -> np.ndarray:
    need_token(item, TOOL)
    need_one(item, TOOL)
    need_short(item, TOOL)
    need_width(item.vectors, _WIDTHS, TOOL)
    return item.vectors


def use(_: Learned, path: Path) -> tuple[str, str]:
    """How to use a file in the web UI."""
    return (
        f"{TOOL}: copy {path} to stable-diffusion-webui/embeddings/ and keep its name",
        f"then: write {path.stem} into the negative prompt",
    )


PT = Format("a1111-pt", "embedding of A1111, .pt", (".pt", ".bin"), _claims_pt, _read_pt, _write_pt, use)
SAFETENSORS = Format(
    "a1111",
    "embedding of A1111, .safetensors",
    (".safetensors",),
    _claims_safetensors,
    _read_safetensors,
    _write_safetensors,
    use,
)
