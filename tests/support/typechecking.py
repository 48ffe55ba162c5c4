"""The session's type checks, and how a test goes without them.

jaxtyping's own hook binds the arguments of every call and builds the check of a function inside another whenever that
one is called: half of the session's time. Here it wraps the functions whose annotations name arrays. beartype alone
checks the others, and those inside a function are not checked.
"""

import ast
import functools
import re
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _import_hook

from tests.support.paths import ROOT

CHECKER = "tests.support.typechecking.checked_by_beartype"  # part of the name of the cached code
_ARRAY = r"(?:Float|Int|Int32|UInt8|Bool|Array)\b"
_ALIAS = re.compile(rf"^(\w+)(?:: TypeAlias)? = .*{_ARRAY}", re.MULTILINE)
ARRAYS = {"Float", "Int", "Int32", "UInt8", "Bool", "Array"}  # and every name that stands for one of them
ARRAYS |= {name for path in (ROOT / "ine_jax").rglob("*.py") for name in _ALIAS.findall(path.read_text("utf-8"))}
_strict = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as PEP 484 has it


def checked_by_beartype(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and result checked, but inside `unchecked`; the check is built when called."""
    if isinstance(function, type):
        return _strict(function)

    @functools.cache
    def checked() -> Callable[..., Any]:
        try:
            typing.get_type_hints(function)
            return _strict(function)
        except (NameError, AttributeError):
            # a name that type checkers alone know; an alias of itself, at which beartype 0.22 breaks
            return function

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else checked())(*args, **named)

    return call


class _Transformer(_import_hook.JaxtypingTransformer):
    def visit_Module(self, node: ast.Module) -> ast.Module:  # noqa: N802  a name of ast's
        names = {each.module for each in ast.walk(node) if isinstance(each, ast.ImportFrom)}
        self._has_arrays = bool(names & {"jaxtyping", "ine_jax.types"})
        return super().visit_Module(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:  # noqa: N802
        found: ast.ClassDef = super().visit_ClassDef(node)
        if any(re.fullmatch(r"nn\.(?!Module$)\w+", ast.unparse(base)) for base in node.bases):
            found.decorator_list.pop(0)  # the fields are Flax's, whose annotations do not hold
        return found

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:  # noqa: N802
        inside = any(isinstance(parent, ast.FunctionDef) for parent in self._parents)
        if _names_arrays(node) or (self._has_arrays and not inside):
            return super().visit_FunctionDef(node)
        if inside:
            return node
        decorator = self._typechecker.get_ast().keywords[0].value
        node.decorator_list.append(ast.copy_location(decorator, node))
        self._parents.append(node)
        self.generic_visit(node)
        self._parents.pop()
        return node


def _names_arrays(node: ast.FunctionDef) -> bool:
    everything = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    annotations = [each for each in (node.returns, *(argument.annotation for argument in everything)) if each]
    return any(isinstance(part, ast.Name) and part.id in ARRAYS for each in annotations for part in ast.walk(each))


def install() -> None:
    """Check whatever is imported from the package from now on."""
    _import_hook.JaxtypingTransformer = _Transformer  # type: ignore[misc]
    jaxtyping.install_import_hook("ine_jax", CHECKER)


@contextmanager
def unchecked() -> Iterator[None]:
    """Run the package as users run it, where a wrong argument meets the package's own check."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
