"""Changes to the bytes, or to the JSON, of files that readers accept: what hypothesis and atheris choose from."""

import copy
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from hypothesis import strategies as st

HUGE = int("9" * 400)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 1.5, 2**31, 2**63, -(2**63) - 1, HUGE, 1e308, float("nan"), float("inf")),
    *("", "x" * 5000, "\ud800", "a\0b", "../../x", "/dev/zero", "²", "\x1b[2J", "\u202e", "'\"<script>", "{}"),
    *([], {}, [[]], {"a": {}}, ["a"] * 3, [HUGE], {"\ud800": 1}, [["id", 1]]),
)
TEXTS: tuple[bytes, ...] = (
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\r", b"\n", b'"', b",", b"{", b"]", b"[" * 3000, b"9" * 5000, b"NaN"),
    *(b"\\u0000", b"\\ud800", b"0x" + b"f" * 5000, b"1:" * 3000, b"&a [*a, *a]", b"!!python/object:os.system x", b": "),
)


class Change(NamedTuple):
    """One change: its place (any number, taken modulo the number of places), what is done, and with what."""

    place: int
    action: int
    value: Any


class Input(NamedTuple):
    """Which file of a target changes, whether as JSON, and how."""

    file: int
    as_json: bool
    changes: list[Change]


_BYTES = st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(TEXTS))
_PLACES = st.integers(0, 2**32 - 1)
_OF_BYTES = st.lists(st.builds(Change, _PLACES, st.integers(0, 5), _BYTES), min_size=1, max_size=4)
_OF_JSON = st.lists(st.builds(Change, _PLACES, st.integers(0, 4), st.sampled_from(VALUES)), min_size=1, max_size=3)
INPUTS = st.one_of(
    st.builds(Input, st.integers(0, 255), st.just(False), _OF_BYTES),
    st.builds(Input, st.integers(0, 255), st.just(True), _OF_JSON),
)


def change_bytes(data: bytes, changes: Iterable[Change]) -> bytes:
    """Replace, insert, delete, repeat or cut."""
    found = bytearray(data)
    for place, action, value in changes:
        at = place % (len(found) + 1)
        end = min(len(found), at + len(value))
        match action:
            case 0 | 1:
                found[at:end] = value
            case 2:
                found[at:at] = value
            case 3:
                del found[at:end]
            case 4:
                found[at:at] = found[at : at + 64] * 20
            case _:
                del found[at:]
    return bytes(found)


def change_json(value: Any, changes: Iterable[Change]) -> Any:
    """Replace, remove, rename, repeat or wrap one entry somewhere below."""
    root = [value]
    for place, action, new in changes:
        places = list(_places(root))
        holder, key = places[place % len(places)]
        match action:
            case 0 | 1:
                holder[key] = copy.deepcopy(new)  # a later change may be to it
            case 2 if holder is not root:
                del holder[key]
            case 3 if isinstance(holder, dict):
                holder[f"{key}x"] = holder.pop(key)
            case 3 if holder is not root:
                holder.insert(key, copy.deepcopy(holder[key]))
            case _:
                holder[key] = [holder[key]]
    return root[0]


def _places(value: Any) -> Iterable[tuple[Any, Any]]:
    for key, held in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(held, dict | list):
            yield from _places(held)


def dumped(value: Any) -> str:
    """JSON of any value: NaN and halves of surrogate pairs included."""
    return json.dumps(value, ensure_ascii=True)
