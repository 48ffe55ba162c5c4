"""Range checks for records: one line of Python per rule, one three-line `InputError` per broken rule."""

import math
from typing import Any

from ine_jax.errors import InputError

MAX_SEED = 2**32 - 1  # a seed is one unsigned 32-bit word wherever numbers are drawn from it


def check(record: object, name: str, ok: bool, allowed: str) -> None:
    """Raise `InputError` naming field `name` of `record`, its value and what is allowed, unless `ok`."""
    if not ok:
        raise InputError(f"{name}: {getattr(record, name)!r}", allowed, f"change {name} and run again")


def check_min(record: object, least: int | float, *names: str, exclusive: bool = False) -> None:
    """Raise `InputError` unless each named number of `record` is finite and >= `least` (> when `exclusive`)."""
    for name in names:
        value = getattr(record, name)
        ok = value is None or (math.isfinite(value) and (value > least if exclusive else value >= least))
        check(record, name, ok, f"a finite number {'greater than' if exclusive else 'of at least'} {least:g}")


def check_seed(record: Any) -> None:
    """Raise `InputError` unless the field `seed` of `record` is 0 ... 2^32 - 1."""
    check(record, "seed", 0 <= record.seed <= MAX_SEED, f"0 to {MAX_SEED}")


def check_template(record: Any) -> None:
    """Raise `InputError` unless the field `template` of `record` has exactly one {}."""
    check(record, "template", record.template.count("{}") == 1, "text with exactly one {}")
