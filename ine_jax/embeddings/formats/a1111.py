"""Stable Diffusion web UI (A1111): `.pt` with `string_to_param`, and `.safetensors` with one tensor.

The word in the prompt is the file's stem. diffusers uses the `name` inside instead, so both are written alike. The
`.pt` has exactly one entry in `string_to_param`; in the oldest files it is a module with parameters. The tool ignores
vectors of another width than the loaded model's, without an error.
"""

from pathlib import Path

import numpy as np

from ine_jax.embeddings import stored
from ine_jax.embeddings.containers import FormatError, OpenedFile
from ine_jax.embeddings.formats.base import Format
from ine_jax.embeddings.stored import StoredEmbedding
from ine_jax.embeddings.torch_writer import torch_bytes

TOOL = "A1111"
KEY = "emb_params"
_PLACEHOLDER = 265  # id of "*", the token that the first trainer replaced by the vectors
_WIDTHS = {name: stored.WIDTHS[name] for name in ("clip_l", "clip_h")}


def _claims_pt(file: OpenedFile) -> bool:
    return file.container == "torch" and "string_to_param" in file.entries


def _read_pt(file: OpenedFile) -> StoredEmbedding:
    held = file.entries["string_to_param"]
    if not isinstance(held, dict) or len(held) != 1:
        raise FormatError("string_to_param without exactly one entry")
    (vectors,) = held.values()
    facts = {key: str(file.entries[key]) for key in ("step", "sd_checkpoint") if _plain(file.entries.get(key))}
    base = file.entries.get("sd_checkpoint_name")
    base_model = base[:2000] if isinstance(base, str) else ""
    return stored.embedding_of(file, vectors, stored.stem_name(file), "token", provenance=facts, base_model=base_model)


def _plain(value: object) -> bool:
    return isinstance(value, str | int)


def _write_pt(item: StoredEmbedding, path: Path) -> bytes:
    vectors, facts = _fitting(item), item.embedding.provenance
    step = facts.get("step", facts.get("steps", ""))
    return torch_bytes(
        {
            "string_to_token": {"*": _PLACEHOLDER},
            "string_to_param": {"*": vectors},
            "name": stored.require_plain_stem(path, TOOL),
            "step": int(step) if step.isascii() and step.isdigit() and len(step) < 10 else None,
            "sd_checkpoint": facts.get("sd_checkpoint"),
            "sd_checkpoint_name": item.embedding.base_model or None,
        }
    )


def _claims(file: OpenedFile) -> bool:
    return file.container == "safetensors" and set(file.entries) == {KEY}


def _read(file: OpenedFile) -> StoredEmbedding:
    return stored.embedding_of(file, file.entries[KEY], stored.stem_name(file), "token")


def _write(item: StoredEmbedding, path: Path) -> bytes:
    vectors = _fitting(item)
    return item.renamed(stored.require_plain_stem(path, TOOL)).embedding.file_of({KEY: vectors})


def _fitting(item: StoredEmbedding) -> np.ndarray:
    stored.require_token_space(item, TOOL)
    stored.require_one_encoder(item, TOOL)
    stored.require_one_prompt(item, TOOL)
    stored.encoder_of(item.vectors, _WIDTHS, TOOL)
    return item.vectors


def _use(_: StoredEmbedding, path: Path) -> tuple[str, str]:
    return (
        f"{TOOL}: copy {path} to stable-diffusion-webui/embeddings/ and keep its name",
        f"then: write {path.stem} into the negative prompt",
    )


_PT, _SAFETENSORS = "embedding of A1111, .pt", "embedding of A1111, .safetensors"
PT = Format("a1111-pt", _PT, (".pt", ".bin"), _claims_pt, _read_pt, _write_pt, _use)
SAFETENSORS = Format("a1111", _SAFETENSORS, (".safetensors",), _claims, _read, _write, _use)
