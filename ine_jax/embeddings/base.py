"""What a format is: how it is recognised, read, written, and used in its tool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ine_jax.embeddings.learned import Content, Learned


@dataclass(frozen=True)
class Format:
    """One row of the table of formats.

    Attributes:
        name: the word after ``--to``.
        about: one line for people.
        suffixes: of its files, the usual one first.
        claims: whether a file is of this format.
        read: the embedding in such a file; FormatError where it holds none.
        write: the bytes of a file at the given path; InputError where the format cannot hold the embedding.
        use: two lines that say how to use the file in its tool; where there are several tools, two for the first.
    """

    name: str
    about: str
    suffixes: tuple[str, ...]
    claims: Callable[[Content], bool]
    read: Callable[[Content], Learned]
    write: Callable[[Learned, Path], bytes]
    use: Callable[[Learned, Path], tuple[str, ...]]
