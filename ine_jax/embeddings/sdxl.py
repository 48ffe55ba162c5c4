"""Stable Diffusion XL: ``clip_l`` [k, 768] and ``clip_g`` [k, 1280] in one file, for its two text encoders.

A1111 asks for both keys, ComfyUI picks each by its name; diffusers must be given each tensor with its own text encoder.
"""

from __future__ import annotations

from pathlib import Path

from ine_jax.embeddings.base import Format
from ine_jax.embeddings.learned import (
    WIDTHS,
    Content,
    Learned,
    facts_of,
    learned,
    need_short,
    need_token,
    need_width,
    plain_stem,
)
from ine_jax.embeddings.torchfile import torch_bytes
from ine_jax.errors import InputError
from ine_jax.storage.safetensors_writer import safetensors_bytes

TOOL = "SDXL"
KEYS = {"clip_l", "clip_g"}


def _claims(content: Content) -> bool:
    return content.container in ("safetensors", "torch") and content.named() == KEYS


def _read(content: Content) -> Learned:
    first, second = content.value["clip_l"], content.value["clip_g"]
    return learned(content, first, content.by_stem(), "token", second, facts_of(content))


def _write(item: Learned, path: Path) -> bytes:
    need_token(item, TOOL)
    if item.second is None:
        raise InputError(
            f"vectors for one text encoder, {item.vectors.shape[1]} wide, and {TOOL} has two",
            "a pair: clip_l 768 and clip_g 1280 wide, the same number of vectors",
            "name the second one: --clip-g FILE",
        )
    need_short(item, TOOL)
    need_width(item.vectors, {"clip_l": WIDTHS["clip_l"]}, TOOL)
    need_width(item.second, {"clip_g": WIDTHS["clip_g"]}, TOOL)
    named = item.renamed(plain_stem(path, TOOL)).embedding
    return (
        safetensors_bytes(item.parts(), named.header()) if path.suffix == ".safetensors" else torch_bytes(item.parts())
    )


def _use(item: Learned, path: Path) -> tuple[str, ...]:
    token = item.embedding.token
    load = f'pipe.load_textual_inversion(t["clip_{{}}"], token="{token}", text_encoder=pipe.{{}}, tokenizer=pipe.{{}})'
    return (
        f'diffusers: t = safetensors.torch.load_file("{path}"); {load.format("l", "text_encoder", "tokenizer")}',
        f"then: {load.format('g', 'text_encoder_2', 'tokenizer_2')}",
        f"A1111, ComfyUI: copy {path} to embeddings/ of the tool; write {path.stem}, embedding:{path.stem}",
    )


SDXL = Format("sdxl", "clip_l and clip_g of Stable Diffusion XL", (".safetensors", ".pt"), _claims, _read, _write, _use)
