"""The error family: every failure that a user can cause or must act on, with its exit code.

Each error has three lines: what was given, what is allowed, what to do next. Any exception that is not an `IneError`
is a bug of this package: the command exits with code 1 and writes the traceback to a file.
"""

import unicodedata
from typing import ClassVar

LINE_LIMIT = 240  # characters of one message line; longer text (a prompt, a path) is shortened in the middle

# Unicode category Cf holds the bidirectional overrides, which can make a terminal show one name and mean another.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    """Return `text` with every control and bidirectional character replaced by a space."""
    if text.isprintable():  # most texts; these characters are all among those that are not
        return text
    return "".join(" " if unicodedata.category(c) in _HIDDEN else c for c in text)


def is_text(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def is_plain(text: str) -> bool:
    """Whether a text can be written as UTF-8 and be part of a path, which has no NUL."""
    return is_text(text) and "\0" not in text


def shown(value: object) -> str:
    """Return `repr` of a value, also of an integer that has more digits than Python prints."""
    large = isinstance(value, int) and abs(value) >= 2**64
    return f"an integer of {value.bit_length()} bits" if large and isinstance(value, int) else repr(value)


def clean(text: str, limit: int = LINE_LIMIT) -> str:
    """Return `text` as one printable line: control and bidirectional characters become spaces, the middle is cut."""
    line = " ".join(printable(text).split())
    if len(line) <= limit:
        return line
    half = (limit - 3) // 2
    return f"{line[:half]}...{line[-half:]}"


class IneError(Exception):
    """Base of all expected errors; `str()` gives at most three lines.

    Attributes:
        given: what was found, naming the file, field or flag.
        allowed: what would have been accepted.
        todo: what the user can do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, given: str, allowed: str = "", todo: str = "") -> None:
        """Keep the three lines; empty ones are left out of the message."""
        self.given, self.allowed, self.todo = given, allowed, todo
        super().__init__(given, allowed, todo)

    def __str__(self) -> str:
        """Return the message: one printable line for each part that is not empty."""
        parts = ((self.given, ""), (self.allowed, "allowed: "), (self.todo, "next: "))
        return "\n".join(clean(head + part) for part, head in parts if part)


class InputError(IneError):
    """A wrong argument, file or configuration; nothing has been written."""

    exit_code = 2


class InputTypeError(InputError, TypeError):
    """An argument of a wrong type or name, in a call from Python."""


class NumericalError(IneError):
    """A computation left the finite numbers and could not go on."""

    exit_code = 3


class ItemErrors(IneError):  # noqa: N818  several errors at once
    """Too many single items failed; the results of the others are kept."""

    exit_code = 4


class CorruptRunError(IneError):
    """A stored file is not what was written, or not where it was written."""

    exit_code = 5


class StorageError(IneError):
    """The disk or object store is full or failing; everything finished is kept, and the same command continues it."""

    exit_code = 74


class Interrupted(IneError):  # noqa: N818  a request to stop, not a fault
    """The run was asked to stop and saved its state; the same command continues it."""

    exit_code = 75
