"""diffusers' own: ``learned_embeds.safetensors``, which is also the native format here, and ``learned_embeds.bin``.

One tensor ``[d]`` or ``[k, d]`` under its token; ``load_textual_inversion`` gives k > 1 vectors the tokens ``<name>``,
``<name>_1``, ... A context embedding, which ``negative_prompt_embeds`` takes, has no file format of diffusers' own; the
native one holds a second tensor, so that no reader of token embeddings takes it for one (docs/formats.md).
"""

from __future__ import annotations

from pathlib import Path

from ine_jax.embeddings.base import Format
from ine_jax.embeddings.embedding import slug
from ine_jax.embeddings.learned import CONTEXT_KEYS, WIDTHS, Content, FormatError, Learned, facts_of, learned, need_one
from ine_jax.embeddings.torchfile import torch_bytes


def _claims_native(content: Content) -> bool:
    named = isinstance(content.value, dict) and any(key in content.value for key in CONTEXT_KEYS)
    return content.container == "safetensors" and (named or content.only() is not None)


def _claims_bin(content: Content) -> bool:
    return content.container == "torch" and content.only() is not None


def _read(content: Content) -> Learned:
    """One tensor, named by its token or as a context embedding; the metadata of the native file where it has them."""
    arrays = {key: value for key, value in content.value.items() if key != "schema"}
    if len(arrays) != 1:
        raise FormatError(f"{len(arrays)} tensors, not one")
    ((key, vectors),) = arrays.items()
    said = content.metadata.get("space", "")
    if said not in ("", "token", "context"):
        raise FormatError(f"space {said[:40]!r} in its header")
    space = "context" if key in CONTEXT_KEYS else said
    concept = content.by_stem() if key in CONTEXT_KEYS else key.strip("<>")
    told = content.metadata.get("concept", "")
    if told and (space == "context" or slug(told) == concept):
        concept = told
    return learned(content, vectors, concept, space, facts=facts_of(content))


def _write_native(item: Learned, _: Path) -> bytes:
    need_one(item, "diffusers")
    return item.embedding.to_bytes()


def _write_bin(item: Learned, _: Path) -> bytes:
    need_one(item, "diffusers")
    key = item.embedding.token if item.embedding.space == "token" else CONTEXT_KEYS[0]
    return torch_bytes({key: item.vectors})


def _use_native(item: Learned, path: Path) -> tuple[str, str]:
    if item.embedding.space == "context":
        load = f'safetensors.torch.load_file("{path}")["{CONTEXT_KEYS[0]}"][None]'
        return f"diffusers: embeds = {load}", "then: pipe(prompt, negative_prompt_embeds=embeds)"
    return _use_token(item, path)


def _use_bin(item: Learned, path: Path) -> tuple[str, str]:
    if item.embedding.space == "context":
        load = f'torch.load("{path}", weights_only=True)["{CONTEXT_KEYS[0]}"][None]'
        return f"diffusers: embeds = {load}", "then: pipe(prompt, negative_prompt_embeds=embeds)"
    return _use_token(item, path)


def _use_token(item: Learned, path: Path) -> tuple[str, str]:
    token, second = item.embedding.token, item.vectors.shape[1] == WIDTHS["clip_g"]
    encoder = ", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2" if second else ""
    return (
        f'diffusers: pipe.load_textual_inversion("{path}"{encoder})',
        f'then: pipe(prompt, negative_prompt="{token}")',
    )


NATIVE = Format(
    "native",
    "learned_embeds.safetensors of diffusers, with metadata",
    (".safetensors",),
    _claims_native,
    _read,
    _write_native,
    _use_native,
)
BIN = Format(
    "diffusers-bin", "learned_embeds.bin of diffusers", (".bin", ".pt"), _claims_bin, _read, _write_bin, _use_bin
)
