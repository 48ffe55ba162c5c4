"""diffusers: `learned_embeds.safetensors`, which is also the native format here, and `learned_embeds.bin`.

One tensor `[d]` or `[k, d]` under its token; `load_textual_inversion` gives k > 1 vectors the tokens `<name>`,
`<name>_1`, ... diffusers has no file format for a context embedding (`negative_prompt_embeds`). The native one has a
second tensor, so that no reader of token embeddings accepts it (docs/formats.md).
"""

from pathlib import Path

from ine_jax.embeddings import stored
from ine_jax.embeddings.containers import FormatError, OpenedFile
from ine_jax.embeddings.embedding import slug
from ine_jax.embeddings.formats.base import Format
from ine_jax.embeddings.stored import StoredEmbedding
from ine_jax.embeddings.torch_writer import torch_bytes


def _claims_native(file: OpenedFile) -> bool:
    context = any(key in file.entries for key in stored.CONTEXT_KEYS)
    return file.container == "safetensors" and (context or file.single_array() is not None)


def _claims_bin(file: OpenedFile) -> bool:
    return file.container == "torch" and file.single_array() is not None


def _read(file: OpenedFile) -> StoredEmbedding:
    """Read one tensor, named by its token or as a context embedding, with the metadata of the native format."""
    arrays = {key: value for key, value in file.entries.items() if key != "schema"}
    if len(arrays) != 1:
        raise FormatError(f"{len(arrays)} tensors, not one")
    ((key, vectors),) = arrays.items()
    space = file.metadata.get("space", "")
    if space not in ("", "token", "context"):
        raise FormatError(f"space {space[:40]!r} in its header")
    if key in stored.CONTEXT_KEYS:
        space, concept = "context", stored.stem_name(file)
    else:
        concept = stored.stem_name(file) if key in stored.UNNAMED else str(key).strip("<>")  # kohya's .pt: emb_params
    named = file.metadata.get("concept", "")
    if named and (space == "context" or slug(named) == concept):
        concept = named
    return stored.embedding_of(file, vectors, concept, space)


def _write_native(item: StoredEmbedding, _: Path) -> bytes:
    stored.require_one_encoder(item, "diffusers")
    return item.embedding.to_bytes()


def _write_bin(item: StoredEmbedding, _: Path) -> bytes:
    stored.require_one_encoder(item, "diffusers")
    key = item.embedding.token if item.embedding.space == "token" else stored.CONTEXT_KEYS[0]
    return torch_bytes({key: item.vectors})


def _use_native(item: StoredEmbedding, path: Path) -> tuple[str, str]:
    return _use(item, path, f'safetensors.torch.load_file("{path}")')


def _use_bin(item: StoredEmbedding, path: Path) -> tuple[str, str]:
    return _use(item, path, f'torch.load("{path}", weights_only=True)')


def _use(item: StoredEmbedding, path: Path, load: str) -> tuple[str, str]:
    if item.embedding.space == "context":
        embeds = f'{load}["{stored.CONTEXT_KEYS[0]}"][None]'
        return f"diffusers: embeds = {embeds}", "then: pipe(prompt, negative_prompt_embeds=embeds)"
    second = item.vectors.shape[1] == stored.WIDTHS["clip_g"]
    encoder = ", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2" if second else ""
    return (
        f'diffusers: pipe.load_textual_inversion("{path}"{encoder})',
        f'then: pipe(prompt, negative_prompt="{item.embedding.token}")',
    )


_NATIVE, _BIN = "learned_embeds.safetensors of diffusers, with metadata", "learned_embeds.bin of diffusers"
NATIVE = Format("native", _NATIVE, (".safetensors",), _claims_native, _read, _write_native, _use_native)
BIN = Format("diffusers-bin", _BIN, (".bin", ".pt"), _claims_bin, _read, _write_bin, _use_bin)
