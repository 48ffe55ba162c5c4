"""Stable Diffusion XL: `clip_l` [k, 768] and `clip_g` [k, 1280] in one file, for its two text encoders.

A1111 needs both keys, ComfyUI picks each by its name. diffusers loads each tensor with its own text encoder.
"""

from pathlib import Path

from ine_jax.embeddings import stored
from ine_jax.embeddings.containers import OpenedFile
from ine_jax.embeddings.formats.base import Format
from ine_jax.embeddings.stored import StoredEmbedding
from ine_jax.embeddings.torch_writer import torch_bytes
from ine_jax.errors import InputError

TOOL = "SDXL"
KEYS = {"clip_l", "clip_g"}


def _claims(file: OpenedFile) -> bool:
    return file.container in ("safetensors", "torch") and set(file.entries) == KEYS


def _read(file: OpenedFile) -> StoredEmbedding:
    return stored.embedding_of(file, file.entries["clip_l"], stored.stem_name(file), "token", file.entries["clip_g"])


def _write(item: StoredEmbedding, path: Path) -> bytes:
    stored.require_token_space(item, TOOL)
    if item.clip_g is None:
        given = f"vectors for one text encoder, {item.vectors.shape[1]} wide, and {TOOL} has two"
        allowed = "a pair: clip_l 768 and clip_g 1280 wide, the same number of vectors"
        raise InputError(given, allowed, "name the second one: --clip-g FILE")
    stored.require_one_prompt(item, TOOL)
    for name, array in item.arrays().items():
        stored.encoder_of(array, {name: stored.WIDTHS[name]}, TOOL)
    own = item.renamed(stored.require_plain_stem(path, TOOL)).embedding
    return own.file_of(item.arrays()) if path.suffix == ".safetensors" else torch_bytes(item.arrays())


def _use(item: StoredEmbedding, path: Path) -> tuple[str, ...]:
    token = item.embedding.token
    load = f'pipe.load_textual_inversion(t["clip_{{}}"], token="{token}", text_encoder=pipe.{{}}, tokenizer=pipe.{{}})'
    return (
        f'diffusers: t = safetensors.torch.load_file("{path}"); {load.format("l", "text_encoder", "tokenizer")}',
        f"then: {load.format('g', 'text_encoder_2', 'tokenizer_2')}",
        f"A1111, ComfyUI: copy {path} to embeddings/ of the tool; write {path.stem}, embedding:{path.stem}",
    )


SDXL = Format("sdxl", "clip_l and clip_g of Stable Diffusion XL", (".safetensors", ".pt"), _claims, _read, _write, _use)
