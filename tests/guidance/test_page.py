"""docs/guidance.md: its code is a guard that passes the whole suite, and its tables name what exists."""

import importlib
import inspect
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import jax.numpy as jnp
import pytest

from tests.guidance import test_conformance
from tests.support import guards
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "guidance.md"
PROMISES = [name for name in vars(test_conformance) if name.startswith("test_")]


@cache
def written_case() -> guards.Case:
    """Run the page's Python blocks in order, as its reader would."""
    names: dict[str, Any] = {"Case": guards.Case, "__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    blocks = [block for block in blocks if "diffusers" not in block]  # those are for another library
    assert len(blocks) == 2
    assert len(blocks[0].splitlines()) <= 40
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102  our own page
    return names["case"]


PageVariants = test_conformance.variants_of([written_case()])


@pytest.mark.parametrize("name", PROMISES)
def test_the_guard_of_the_page_keeps_every_promise(name: str) -> None:
    promise: Callable[..., None] = getattr(test_conformance, name)
    arguments: dict[str, Any] = {"case": written_case()}
    if "dtype" in inspect.signature(promise).parameters:
        arguments["dtype"] = jnp.bfloat16
    promise(**arguments)


def test_every_function_named_in_the_tables_exists() -> None:
    named = re.findall(r"`((?:guidance|schedulers)\.\w+)\.(\w+)\.(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) >= 7
    for module, owner, method in named:
        assert callable(getattr(getattr(importlib.import_module(f"ine_jax.{module}"), owner), method))
