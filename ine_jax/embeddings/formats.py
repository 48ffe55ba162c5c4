"""The table of embedding formats: which one a file is, reading it, and converting it to another."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ine_jax.embeddings import a1111, arrays, comfy, diffusers, sdxl
from ine_jax.embeddings.base import Format
from ine_jax.embeddings.containers import bad_file, open_content
from ine_jax.embeddings.embedding import slug
from ine_jax.embeddings.learned import CLIP_WORDS, Content, FormatError, Learned
from ine_jax.errors import InputError
from ine_jax.storage.atomic import write_atomic

# Read in this order: the first format that claims a file has it, so the more particular ones stand first.
FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        sdxl.SDXL,
        a1111.PT,
        a1111.SAFETENSORS,
        comfy.COMFY,
        diffusers.NATIVE,
        diffusers.BIN,
        arrays.NPY,
        arrays.NPZ,
        arrays.TENSOR,
    )
}
PARTS = ("clip_l", "clip_g")


@dataclass(frozen=True)
class Converted:
    """What came of a conversion: the embedding as it stands in the file at `path`, and lines on its use."""

    path: Path
    source_format: str
    target_format: str
    item: Learned
    use: tuple[str, ...]
    notes: tuple[str, ...] = ()


def detect(content: Content) -> Format:
    """The format of an opened file.

    Raises:
        InputError: none of the table's.
    """
    for one in FORMATS.values():
        if one.claims(content):
            return one
    held = content.value
    what = f"{len(held)} entries" if isinstance(held, dict | list) else f"a {type(held).__name__}"
    raise bad_file(content.path, f"a {content.container} file of {what}, which is no embedding format that is known")


def read(path: str | os.PathLike[str], *, space: str = "") -> tuple[Learned, Format]:
    """Read an embedding in whatever format it is; `space` says what a plain array is, ``token`` or ``context``.

    Raises:
        InputError: no such file, no known format, or no finite ``[k, d]`` vectors in it.
    """
    content = open_content(Path(path), space)
    found = detect(content)
    try:
        return found.read(content), found
    except FormatError as error:
        raise bad_file(content.path, f"{error} ({found.name})") from error


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

    `token` renames it. `space` says what a plain array is. `part` takes one tensor of an SDXL pair, `clip_g` names the
    file of the second one. The vectors keep dtype and bits, except bfloat16 in npy and npz, which becomes float32 of
    the same values. A folder as `target` gets a file named by the embedding. With `dry_run` nothing is written.

    Raises:
        InputError: `source` cannot be read, the format cannot hold it, or `target` exists or cannot be written.
    """
    item, found = read(source, space=space)
    item = _chosen(item, token, part, clip_g)
    if to not in FORMATS:
        raise InputError(f"format {to!r}", ", ".join(FORMATS), "choose one with --to")
    form = FORMATS[to]
    path = _target(Path(target), form, item)
    data = form.write(item, path)
    back = _written(path, data, form, item, dry_run)
    return Converted(path, found.name, to, back, form.use(back, path), tuple(_notes(item, back)))


def _chosen(item: Learned, token: str, part: str, clip_g: str | os.PathLike[str]) -> Learned:
    """The embedding that is asked for: renamed, one tensor of a pair, or paired with a second file."""
    if part and (item.second is None or part not in PARTS):
        raise InputError(
            f"--part {part} of vectors for one text encoder", "a file of clip_l and clip_g", "leave it out"
        )
    if part:
        vectors = item.parts()[part]
        item = Learned(dataclasses.replace(item.embedding, vectors=vectors))
    if clip_g:
        second, _ = read(clip_g, space="token")
        if len(second.vectors) != len(item.vectors):
            given = f"{len(item.vectors)} vectors and {len(second.vectors)} in {clip_g}"
            raise InputError(given, "as many for clip_g as for clip_l", "invert both with the same number")
        item = Learned(item.embedding, second.parts().get("clip_g", second.vectors))
    if token:
        bare = token.removeprefix("<").removesuffix(">")
        if slug(bare) != bare:
            raise InputError(f"--token {token}", "letters, digits, _ and -, at most 64", f"say {slug(bare)}")
        item = item.renamed(bare)
    return item


def _target(path: Path, form: Format, item: Learned) -> Path:
    """The file to write; InputError where its name does not fit the format or it is there already."""
    if path.is_dir():
        path = path / f"{item.name}{form.suffixes[0]}"
    if path.suffix not in form.suffixes:
        allowed = f"a name that ends in {' or '.join(form.suffixes)}, or a folder"
        raise InputError(f"{path.name} for format {form.name}", allowed, "change the name")
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists", "a new file", "choose another name, or move the file away")
    return path


def _written(path: Path, data: bytes, form: Format, item: Learned, dry_run: bool) -> Learned:
    """Write the bytes, read the file back and return what it holds; a file that tells anything else is taken away."""
    if dry_run:
        return item
    try:
        write_atomic(path, data, shared=True)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}", "a writable folder", "choose another place"
        ) from error
    try:
        content = open_content(path, "" if form.name in ("native", "npz") else item.embedding.space)
        back = form.read(content)
        same = detect(content) is form and back.embedding.space == item.embedding.space
        pairs = [(item.vectors, back.vectors)]
        if item.second is not None and back.second is not None:
            pairs.append((item.second, back.second))
        same &= (item.second is None) == (back.second is None)
        if not same or not all(_equal(one, other) for one, other in pairs):
            raise RuntimeError(f"{path} reads back as another embedding than was written")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return back


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal in every bit; where the format widened the numbers, in every value."""
    wide = arrays.widened(one)
    alike = (one if one.dtype == other.dtype else wide, other)
    return alike[0].dtype == other.dtype and alike[0].shape == other.shape and alike[0].tobytes() == other.tobytes()


def _notes(item: Learned, back: Learned) -> list[str]:
    notes = []
    if item.vectors.dtype != back.vectors.dtype:
        notes.append(f"{item.vectors.dtype} became {back.vectors.dtype}: every value is the same")
    if item.embedding.space == "token" and len(item.vectors) > CLIP_WORDS:
        notes.append(f"a prompt holds {CLIP_WORDS} vectors: the last {len(item.vectors) - CLIP_WORDS} will be cut")
    return notes
