"""Strict YAML: a file becomes one config record, or one three-line error that names file and field.

A config is untrusted input: only the safe loader reads it, its size, depth and aliases are limited, and a duplicate or
unknown key is an error.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ine_jax.errors import InputError, clean, is_plain, shown
from ine_jax.storage import untrusted

T = TypeVar("T")
MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_ALIASES = 16

_KINDS: dict[object, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class _Loader(yaml.SafeLoader):
    """The safe loader with limits on nesting and aliases, where a repeated key is an error.

    As in YAML 1.2, `no`, `yes`, `on`, `off` and dates are text: a prompt or a word may be any of them.
    """

    depth = 0
    aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int | yaml.Node | None) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
        self.depth += 1
        if self.depth > MAX_DEPTH or self.aliases > MAX_ALIASES:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem=f"more than {MAX_DEPTH} levels or {MAX_ALIASES} aliases", problem_mark=mark
            )
        node = super().compose_node(parent, index)  # type: ignore[arg-type]  # the stub knows no keys that are nodes
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else None
                if name is None or (name in seen and name != "<<"):
                    problem = "a key that is not text" if name is None else f"key {name!r} given twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(name)
        return super().construct_mapping(node, deep)  # type: ignore[arg-type]  # reports other nodes itself


_Loader.yaml_implicit_resolvers = {
    first: [each for each in found if each[0] not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))


def read_yaml(path: Path) -> dict[object, object]:
    """Parse one YAML mapping from `path`; anything else is an `InputError`."""
    return _parse(untrusted.read(path, MAX_BYTES, _rejected), str(path))


def _rejected(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: {reason}", "a YAML file; some are in configs/", "check the path")


def _parse(raw: bytes, path: str) -> dict[object, object]:
    try:
        data = yaml.load(raw.decode("utf-8"), Loader=_Loader)  # noqa: S506  a subclass of SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        if "'\\t'" in problem:
            raise InputError(f"{path}{place}: a tab", "spaces", "replace the tabs of the file by spaces") from error
        raise InputError(f"{path}{place}: {problem}", "plain YAML", "correct that line") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}", "plain YAML in UTF-8", "correct the file") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} is {_name(data)}", "a mapping of field: value", "see configs/")
    return data


def load(path: str | Path, cls: type[T]) -> T:
    """Read `path` as one `cls`."""
    return build(cls, read_yaml(Path(path)), str(path))


def loads(text: str, cls: type[T]) -> T:
    """Read the text of a YAML mapping as one `cls`."""
    return build(cls, _parse(text.encode("utf-8", "replace"), text), text)


def build(cls: type[T], data: object, where: str) -> T:
    """Make one config record of type `cls` from parsed YAML, checking every key and type; `where` names the file.

    Raises:
        InputError: an unknown key (with the nearest known one), a wrong type, or a value out of range.
    """
    return typing.cast(T, _record(cls, data, where, ""))


def _record(cls: type[Any], data: object, where: str, path: str) -> object:
    label = f"{where}: {path}" if path else where
    if isinstance(data, str) and getattr(cls, "shorthand", False):
        data = {dataclasses.fields(cls)[0].name: data}
    if not isinstance(data, dict):
        names = ", ".join(field.name for field in dataclasses.fields(cls))
        raise InputError(f"{label} is {_name(data)}", f"the fields {names}", "write each on an indented line below it")
    known = {field.name for field in dataclasses.fields(cls)}
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), sorted(known), n=1)
            hint = f"did you mean {near[0]}?" if near else "remove it"
            allowed = ", ".join(sorted(known))
            raise InputError(f"{where}: unknown field {_dotted(path, str(key))}", allowed, hint)
    hints = typing.get_type_hints(cls)
    values = {key: _value(hints[key], value, where, _dotted(path, key)) for key, value in data.items()}
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{where}: {_dotted(path, error.given)}", error.allowed, error.todo) from error


def _value(kind: object, value: object, where: str, path: str) -> object:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, value, where, path)
    if origin is typing.Literal:
        if value in arguments and type(value) is str:
            return value
        raise _wrong(value, f"one of {', '.join(map(str, filter(None, arguments)))}", where, path)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(value, "a list", where, path)
        return tuple(_value(arguments[0], item, where, f"{path}[{i}]") for i, item in enumerate(value))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _record(kind, value, where, path)
    return _scalar(kind, value, where, path)


def _union(arguments: tuple[object, ...], value: object, where: str, path: str) -> object:
    kinds = [kind for kind in arguments if kind is not type(None)]
    if value is None and len(kinds) < len(arguments):
        return None
    if isinstance(value, list):
        kinds = [kind for kind in kinds if typing.get_origin(kind) is tuple] or kinds
    return _value(kinds[0], value, where, path)


def _scalar(kind: object, value: object, where: str, path: str) -> object:
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise _wrong(value, _KINDS[kind], where, path)
    if isinstance(value, str) and not is_plain(value):
        raise _wrong(value, "text without NUL and without halves of surrogate pairs", where, path)
    return value


def _wrong(value: object, allowed: str, where: str, path: str) -> InputError:
    todo = f"change {path}"
    if isinstance(value, str) and allowed in ("a number", "a whole number") and _number(value):
        todo = f"write {_number(value)} (no quotes; YAML reads {clean(value, 20)} as text)"
    elif isinstance(value, bool | int | float) and allowed == "text":
        todo = f'put it in quotes: "{shown(value)}"'
    return InputError(f"{where}: {path} is {_name(value)}", allowed, todo)


def _number(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return ""
    return f"{number:.12g}" if math.isfinite(number) and 1e-4 <= abs(number) < 1e12 else f"{number:.6f}"


def _name(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return f"the text {value!r}" if isinstance(value, str) else shown(value)


def _dotted(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
