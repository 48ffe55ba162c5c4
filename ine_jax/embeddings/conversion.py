"""Reading an embedding of any format, and converting it to another."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ine_jax import assets
from ine_jax.embeddings.containers import FormatError, OpenedFile, not_an_embedding, open_file
from ine_jax.embeddings.embedding import slug
from ine_jax.embeddings.formats import FORMATS
from ine_jax.embeddings.formats.base import Format
from ine_jax.embeddings.formats.plain_arrays import widened
from ine_jax.embeddings.stored import CLIP_WORDS, StoredEmbedding
from ine_jax.errors import InputError
from ine_jax.storage.atomic import clear, remove, write_atomic


@dataclass(frozen=True)
class Converted:
    """The result of a conversion: the embedding as the file at `path` holds it, and lines that explain its use."""

    path: Path
    source_format: str
    target_format: str
    stored: StoredEmbedding
    use: tuple[str, ...]
    notes: tuple[str, ...] = ()


def detect_format(file: OpenedFile) -> Format:
    """Return the format of an opened file; InputError where it has none of the table's."""
    for form in FORMATS.values():
        if form.claims(file):
            return form
    held = file.value
    what = f"{len(held)} entries" if isinstance(held, dict | list) else f"a {type(held).__name__}"
    raise not_an_embedding(file.path, f"a {file.container} file of {what}, which is not a known embedding format")


def read_embedding(path: str | os.PathLike[str], *, space: str = "") -> tuple[StoredEmbedding, Format]:
    """Read an embedding of any format, or a bundled one by name; `space` is that of a plain array, token or context."""
    file = open_file(assets.file_of(path), space)
    form = detect_format(file)
    try:
        return form.read(file), form
    except FormatError as error:
        raise not_an_embedding(file.path, f"{error} ({form.name})") from error


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str,
    *,
    token: str = "",
    space: str = "",
    part: str = "",
    clip_g: str | os.PathLike[str] = "",
    dry_run: bool = False,
) -> Converted:
    """Write the embedding in `source` to `target` in the format `to`, and read it back.

    The vectors keep dtype and bits, except that bfloat16 becomes float32 of the same values in npy and npz.

    Args:
        source: a file of any format, or the name of a bundled embedding.
        target: a new file, or a folder for a file named by the embedding.
        token: a new name.
        space: what a plain array is, "token" or "context".
        part: take one tensor of an SDXL pair, "clip_l" or "clip_g".
        clip_g: the file with the vectors for SDXL's second text encoder.
        dry_run: write nothing.

    Raises:
        InputError: `source` cannot be read, the format cannot hold it, or `target` exists or cannot be written.
    """
    item, source_format = read_embedding(source, space=space)
    item = _selected(item, token, part, clip_g)
    if to not in FORMATS:
        raise InputError(f"format {to!r}", ", ".join(FORMATS), "choose one with --to")
    form = FORMATS[to]
    path = _target(Path(target), form, item)
    data = form.write(item, path)
    back = item if dry_run else _written(path, data, form, item)
    return Converted(path, source_format.name, to, back, form.use(back, path), tuple(_notes(item, back)))


def _selected(item: StoredEmbedding, token: str, part: str, clip_g: str | os.PathLike[str]) -> StoredEmbedding:
    """Take one tensor of a pair, or add a second file, or rename."""
    if part and (item.clip_g is None or part not in item.arrays()):
        given = f"--part {part} of vectors for one text encoder"
        raise InputError(given, "a file of clip_l and clip_g", "leave it out")
    if part:
        item = StoredEmbedding(replace(item.embedding, vectors=item.arrays()[part]))
    if clip_g:
        second, _ = read_embedding(clip_g, space="token")
        if len(second.vectors) != len(item.vectors):
            given = f"{len(item.vectors)} vectors and {len(second.vectors)} in {clip_g}"
            raise InputError(given, "as many for clip_g as for clip_l", "invert both with the same number")
        item = StoredEmbedding(item.embedding, second.arrays().get("clip_g", second.vectors))
    if token:
        bare = token.removeprefix("<").removesuffix(">")
        if slug(bare) != bare:
            raise InputError(f"--token {token}", "letters, digits, _ and -, at most 64", f"use {slug(bare)}")
        item = item.renamed(bare)
    return item


def _target(path: Path, form: Format, item: StoredEmbedding) -> Path:
    """Return the file to write; InputError where its name does not fit the format or it exists already."""
    if path.is_dir():
        path = path / f"{item.name}{form.suffixes[0]}"
    if path.suffix not in form.suffixes:
        allowed = f"a name that ends in {' or '.join(form.suffixes)}, or an existing folder"
        given = f"target {path}: {path.suffix or 'no suffix'}, which is not a file of {form.name}"
        raise InputError(given, allowed, f"name it {path.with_suffix(form.suffixes[0]).name}")
    if path.exists() or path.is_symlink():
        raise _exists(path)
    return path


def _exists(path: Path) -> InputError:
    return InputError(f"{path} exists", "a new file", "choose another name, or move the file away")


def _written(path: Path, data: bytes, form: Format, item: StoredEmbedding) -> StoredEmbedding:
    """Write the bytes and return what the file holds; a file that reads back differently is removed."""
    clear(path.parent, path.name)
    try:
        write_atomic(path, data, shared=True, new=True)
    except FileExistsError as error:  # written by another process meanwhile
        raise _exists(path) from error
    try:
        file = open_file(path, "" if form.name in ("native", "npz") else item.embedding.space)
        back = form.read(file)
        same = detect_format(file) is form and back.embedding.space == item.embedding.space
        one, other = item.arrays(), back.arrays()
        if not same or one.keys() != other.keys() or not all(_equal(one[name], other[name]) for name in one):
            raise RuntimeError(f"{path} reads back as another embedding than was written")
    except InputError as error:
        remove(path)
        raise RuntimeError(f"{path} reads back as another embedding than was written") from error
    except BaseException:
        remove(path)
        raise
    return back


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether all bits are equal; where the format widened the numbers, whether all values are."""
    meant = one if one.dtype == other.dtype else widened(one)
    return meant.dtype == other.dtype and meant.shape == other.shape and meant.tobytes() == other.tobytes()


def _notes(item: StoredEmbedding, back: StoredEmbedding) -> list[str]:
    notes = []
    if item.vectors.dtype != back.vectors.dtype:
        notes.append(f"{item.vectors.dtype} became {back.vectors.dtype}: every value is the same")
    if item.embedding.space == "token" and len(item.vectors) > CLIP_WORDS:
        notes.append(f"a prompt holds {CLIP_WORDS} vectors: the last {len(item.vectors) - CLIP_WORDS} will be cut")
    return notes
