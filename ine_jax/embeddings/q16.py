"""Q16's two learned prompt vectors: from the pickle they were released as to a safetensors that names them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ine_jax.errors import InputError
from ine_jax.storage.pickles.numbers import read_numbers
from ine_jax.storage.safetensors_writer import write_safetensors

NAME = "prompts"


def convert_prompts(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, dry_run: bool = False
) -> tuple[Path, np.ndarray, str]:
    """Write the vectors [2, width] of a released ``prompts.p`` (appropriate, inappropriate) and read them back.

    Returns the file, the vectors, bits and dtype kept, and the SHA-256 of the file (empty in a dry run).

    Raises:
        InputError: `source` holds no two finite vectors, or `target` exists or is no name of a safetensors file.
    """
    vectors, path = read_numbers(source), Path(target)
    if vectors.ndim != 2 or len(vectors) != 2 or not vectors.size or not np.isfinite(vectors).all():
        given = f"{source}: an array {list(vectors.shape)} of {vectors.dtype}, or NaN in it"
        raise InputError(given, "two finite vectors", "take prompts.p as Q16 released it for your CLIP")
    if path.suffix != ".safetensors" or path.exists() or path.is_symlink():
        raise InputError(f"{path}", "a new file that ends in .safetensors", "choose another name")
    if dry_run:
        return path, vectors, ""
    origin = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    metadata = {"format": "ine_jax.q16", "source_sha256": origin}
    write_safetensors(path, {NAME: vectors}, metadata)
    back = safetensors.numpy.load_file(path)[NAME]
    if back.dtype != vectors.dtype or not np.array_equal(back, vectors):
        path.unlink(missing_ok=True)
        raise RuntimeError(f"{path} reads back as other vectors than were written")
    return path, vectors, hashlib.sha256(path.read_bytes()).hexdigest()


def command(words: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Lines and facts of `ine convert SOURCE TARGET --to q16`; `words` is the command's record.

    Raises:
        InputError: as :func:`convert_prompts`, and for an option that is one of embeddings.
    """
    if words.token or words.space or words.part or words.clip_g:
        raise InputError("--to q16 with an option of embeddings", "source and target alone", "leave it out")
    path, vectors, digest = convert_prompts(words.source, words.target, dry_run=words.dry_run)
    state = f"read back equal, sha256 {digest}" if digest else "not written (dry run)"
    head = f"{words.source} -> {path} (q16): 2 x {vectors.shape[1]} {vectors.dtype}, {state}"
    use = f"detector: {{kind: q16, weights: openai/clip-vit-large-patch14, prompts: {path}}}"
    values = {"path": str(path), "to": "q16", "width": vectors.shape[1], "dtype": str(vectors.dtype), "sha256": digest}
    return (head, use), values
