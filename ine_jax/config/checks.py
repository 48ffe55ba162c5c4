"""Range checks of records: one line per rule, one three-line `InputError` per violation."""

import math

from ine_jax.errors import InputError

MAX_SEED = 2**32 - 1  # every random generator here takes one unsigned 32-bit word


def check(record: object, name: str, ok: bool, allowed: str) -> None:
    """Raise `InputError` with the field `name`, its value and what is allowed, unless `ok`."""
    if not ok:
        raise InputError(f"{name}: {getattr(record, name)!r}", allowed, f"change {name} and run again")


def check_min(record: object, least: int | float, *names: str, exclusive: bool = False) -> None:
    """Raise `InputError` unless each named number of `record` is finite and >= `least` (> when `exclusive`)."""
    for name in names:
        value = getattr(record, name)
        ok = value is None or (math.isfinite(value) and (value > least if exclusive else value >= least))
        check(record, name, ok, f"a finite number {'greater than' if exclusive else 'of at least'} {least:g}")


def check_seed(record: object) -> None:
    """Raise `InputError` unless the seed is 0 to 2^32 - 1."""
    seed: int = getattr(record, name := "seed")
    check(record, name, 0 <= seed <= MAX_SEED, f"0 to {MAX_SEED}")


def check_template(record: object) -> None:
    """Raise `InputError` unless the template has exactly one {}."""
    template: str = getattr(record, name := "template")
    check(record, name, template.count("{}") == 1, "text with exactly one {}")
