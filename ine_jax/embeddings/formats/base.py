"""What a format is: how it is recognised, read, written, and used in its tool."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ine_jax.embeddings.containers import OpenedFile
from ine_jax.embeddings.stored import StoredEmbedding


@dataclass(frozen=True)
class Format:
    """One row of the table of formats.

    Attributes:
        name: the word after `--to`.
        about: one line for people.
        suffixes: of its files, the usual one first.
        claims: whether a file has this format.
        read: the embedding in such a file; FormatError where it holds none.
        write: the bytes of a file at the given path; InputError where the format cannot hold the embedding.
        use: lines that explain how to use the file in its tool.
    """

    name: str
    about: str
    suffixes: tuple[str, ...]
    claims: Callable[[OpenedFile], bool]
    read: Callable[[OpenedFile], StoredEmbedding]
    write: Callable[[StoredEmbedding, Path], bytes]
    use: Callable[[StoredEmbedding, Path], tuple[str, ...]]
