"""Cases of a parametrized test of which the ordinary suite runs a few."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def sample(cases: Iterable[Any], ordinary: Collection[Any], mark: str = "thorough") -> list[Any]:
    """All cases; those that are not `ordinary` have the mark."""
    return [case if case in ordinary else pytest.param(case, marks=getattr(pytest.mark, mark)) for case in cases]
