"""The one check of stored records, made from their typed dictionaries: keys, types and the bounds in `Annotated`.

A file whose hash is right may still hold anything: whoever writes the file can write its hash. A check is built once
per record and then costs about a microsecond per field.
"""

import functools
import math
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ine_jax.errors import CorruptRunError, clean, is_text, shown

R = TypeVar("R")
Check = Callable[[object], str | None]  # None, or what is wrong; begins with the place in the value
MAX_FLOAT = sys.float_info.max


@dataclass(frozen=True)
class Bounds:
    """The least and the largest value of a number in a record."""

    least: float
    most: float


def records(kind: Any, found: list[Any], path: Path, *, open_ended: bool = False) -> list[Any]:
    """Return the values as records of `kind`, which may be a union. CorruptRunError names file, line and field."""
    check = _record(kind, open_ended)
    for number, value in enumerate(found, start=1):
        if (wrong := check(value)) is not None:
            raise _corrupt(path, f"line {number}{wrong}")
    return found


def record(kind: type[R], found: object, path: Path, *, open_ended: bool = False) -> R:
    """Return a value as a record of `kind`; `open_ended` allows further keys. CorruptRunError names file and field."""
    check: Check = _record(typing.cast(Any, kind), open_ended)
    if (wrong := check(found)) is not None:
        raise _corrupt(path, wrong.removeprefix(": ").removeprefix("."))
    return typing.cast(R, found)


def is_valid(kind: type[R], found: object) -> typing.TypeGuard[R]:
    """Whether a value is a record of `kind`."""
    return _record(typing.cast(Any, kind), False)(found) is None


def _corrupt(path: Path, why: str) -> CorruptRunError:
    return CorruptRunError(f"{path}: {clean(why, 120)}", "records as the program writes them", "take an undamaged copy")


@functools.cache
def _record(kind: Any, open_ended: bool) -> Check:
    """The check of a typed dictionary, or of a union of those."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return _either([_record(part, open_ended) for part in typing.get_args(kind)])
    hints = typing.get_type_hints(kind, include_extras=True)
    checks = {name: _value(_bare(hint), open_ended) for name, hint in hints.items()}
    needed: frozenset[str] = kind.__required_keys__

    def check(value: object) -> str | None:
        if type(value) is not dict:
            return f": {_shown(value)}, not an object"
        if not needed <= value.keys():
            return f": {min(needed - value.keys())} is missing"
        for key, held in value.items():
            one = checks.get(key)
            if one is None:
                if not open_ended:
                    return f": unknown field {key!r}"
            elif (wrong := one(held)) is not None:
                return f".{key}{wrong}"
        return None

    return check


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) in (typing.NotRequired, typing.Required) else hint


def _value(hint: Any, open_ended: bool) -> Check:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _number(arguments[0], arguments[1])
    if origin is typing.Literal:
        return lambda value: None if value in arguments and type(value) is str else f": {_shown(value)}"
    if origin in (typing.Union, types.UnionType):
        return _either([_value(part, open_ended) for part in arguments])
    if origin is list:
        return _list(_value(arguments[0], open_ended))
    if origin is dict:
        return _dict(_value(arguments[1], open_ended), scores=arguments[1] is float)
    if typing.is_typeddict(hint):
        return _record(hint, open_ended)
    if hint in (int, float):
        return _number(hint, Bounds(-(2**63), 2**63) if hint is int else Bounds(-MAX_FLOAT, MAX_FLOAT))
    return _plain(hint)


def _plain(kind: Any) -> Check:
    if kind is object:
        return lambda value: None
    if kind is str:
        return lambda value: None if type(value) is str and is_text(value) else f": {_shown(value)}, not text"
    return lambda value: None if type(value) is kind else f": {_shown(value)}, not {kind.__name__}"


def _number(kind: Any, bounds: Bounds) -> Check:
    least, most, whole = bounds.least, bounds.most, kind is int

    def check(value: object) -> str | None:
        # a comparison is exact for integers of any length, and false for NaN
        if (type(value) is int or (type(value) is float and not whole)) and least <= value <= most:
            return None
        return f": {_shown(value)}, not {'a whole number' if whole else 'a number'} from {least:g} to {most:g}"

    return check


def _list(check: Check) -> Check:
    def each(value: object) -> str | None:
        if type(value) is not list:
            return f": {_shown(value)}, not a list"
        return next((f"[{i}]{wrong}" for i, one in enumerate(value) if (wrong := check(one)) is not None), None)

    return each


def _dict(check: Check, scores: bool) -> Check:
    def each(value: object) -> str | None:
        if type(value) is not dict:
            return f": {_shown(value)}, not an object"
        # the scores of an image are many: one look at all of them, which finds no fault in nearly every line
        plain = scores and set(map(type, value.values())) == {float} and "".join(value).isascii()
        if plain and math.isfinite(sum(value.values())):
            return None
        for key, one in value.items():
            wrong = check(one) if type(key) is str and is_text(key) else ": a key that is not text"
            if wrong is not None:
                return f".{key}{wrong}"
        return None

    return each


def _either(checks: list[Check]) -> Check:
    def each(value: object) -> str | None:
        first = None
        for check in checks:
            wrong = check(value)
            if wrong is None:
                return None
            first = first or wrong
        return first

    return each


def _shown(value: object) -> str:
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else shown(value)[:60]
