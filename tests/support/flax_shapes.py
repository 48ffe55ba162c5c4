"""Shapes of parameters, once each.

Whenever Flax traces a module it evaluates the initializer of every parameter again, only to compare its shape with the
parameter's: a seventh of the time in which a UNet is traced.
"""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
from flax.core import scope


@functools.cache
def _shape(initializer: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return jax.eval_shape(lambda: initializer(jax.random.key(0), *arguments))


def _remembered(check: Callable[[], Any]) -> Any:
    """What `check`, the function that `Scope.param` makes for one parameter, evaluates to."""
    assert check.__code__.co_freevars == ("init_args", "init_fn", "init_kwargs")
    arguments, initializer, named = (cell.cell_contents for cell in check.__closure__ or ())
    arguments = tuple(tuple(each) if isinstance(each, list) else each for each in arguments)
    return jax.eval_shape(check) if named else _shape(initializer, arguments)


def install() -> None:
    """From now on the initializers of modules are evaluated once per shape."""
    seen = {**vars(jax), "eval_shape": _remembered}
    scope.jax = SimpleNamespace(**seen)
