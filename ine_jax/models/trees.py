"""Nested parameter trees <-> flat dictionaries keyed by path."""

from collections.abc import Mapping
from typing import TypeAlias

import flax.traverse_util

from ine_jax.types import AnyArray, Params

Path: TypeAlias = tuple[str, ...]


def flatten_params(params: Params) -> dict[Path, AnyArray]:
    """Path -> leaf of every parameter."""
    flat: dict[Path, AnyArray] = flax.traverse_util.flatten_dict(params)
    return flat


def unflatten_params(flat: Mapping[Path, AnyArray]) -> Params:
    """Inverse of `flatten_params`."""
    params: Params = flax.traverse_util.unflatten_dict(flat)
    return params
