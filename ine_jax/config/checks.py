"""Range checks of records: one line per rule, one three-line `InputError` per violation."""

import math
import os
from collections.abc import Sequence

from ine_jax.errors import InputError, shown

MAX_SEED = 2**32 - 1  # every random generator here takes one unsigned 32-bit word
MAX_WHOLE = 2**31 - 1  # of any other whole number: none comes near, and libraries take no larger ones
EMBEDDING_SUFFIXES = (".safetensors", ".pt", ".bin", ".pth", ".npy", ".npz")


def check(record: object, name: str, ok: bool, allowed: str) -> None:
    """Raise `InputError` with the field `name`, its value and what is allowed, unless `ok`."""
    if not ok:
        raise InputError(f"{name}: {shown(getattr(record, name))}", allowed, f"change {name} and run again")


def check_min(record: object, least: int | float, *names: str, exclusive: bool = False) -> None:
    """Raise `InputError` unless each named number of `record` is finite and >= `least` (> when `exclusive`)."""
    for name in names:
        value = getattr(record, name)
        most = MAX_WHOLE if isinstance(value, int) else math.inf
        ok = value is None or (value <= most and value != math.inf and (value > least if exclusive else value >= least))
        allowed = f"a finite number {'greater than' if exclusive else 'of at least'} {least:g}"
        check(record, name, ok, allowed + (f", at most {most}" if most == MAX_WHOLE else ""))


def check_seed(record: object) -> None:
    """Raise `InputError` unless the seed is 0 to 2^32 - 1."""
    seed: int = getattr(record, name := "seed")
    check(record, name, 0 <= seed <= MAX_SEED, f"0 to {MAX_SEED}")


def check_names(name: str, labels: Sequence[str]) -> None:
    """Raise `InputError` where two entries of the field `name` have the same label."""
    twice = next((label for i, label in enumerate(labels) if label in labels[:i]), None)
    if twice is not None:
        raise InputError(f"{name}: two are named {twice!r}", f"{name} whose names differ", "give one another name")


def is_file_name(text: str) -> bool:
    """Whether a text names an existing file or ends like an embedding file: as a phrase it would guard nothing."""
    return text.strip().lower().endswith(EMBEDDING_SUFFIXES) or os.path.isfile(text)


def check_template(record: object) -> None:
    """Raise `InputError` unless the template has exactly one {}."""
    template: str = getattr(record, name := "template")
    check(record, name, template.count("{}") == 1, "text with exactly one {}")
