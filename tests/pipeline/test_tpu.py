"""The room that the TPU's compiler needs: an argument of its library, set before JAX starts."""

import importlib.util

import pytest

from ine_jax.pipeline import tpu


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "--fibers_default_thread_stack_size=1048576"),
        ({"LIBTPU_INIT_ARGS": "--a=1"}, "--a=1 --fibers_default_thread_stack_size=1048576"),
        (
            {"LIBTPU_INIT_ARGS": "--fibers_default_thread_stack_size=65536"},
            "--fibers_default_thread_stack_size=65536",
        ),
    ],
)
def test_the_stack_is_enlarged_unless_the_user_set_it(
    given: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    variables = dict(given)
    tpu.enlarge_stacks(variables)
    assert variables == {"LIBTPU_INIT_ARGS": expected}


def test_without_the_library_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    variables: dict[str, str] = {}
    tpu.enlarge_stacks(variables)
    assert variables == {}
