"""Presets of the attacks: named constants, of which a config may replace single ones."""

import dataclasses
from typing import Literal, TypeVar

AttackPreset = Literal["published", "quick"]

N = TypeVar("N")


def replaced(usual: N, config: object) -> N:
    """Return the constants of a preset, with those that a config gives in their place."""
    names = [each.name for each in dataclasses.fields(usual)]  # type: ignore[arg-type]  # a dataclass
    given = {name: value for name in names if (value := getattr(config, name)) is not None}
    return dataclasses.replace(usual, **given)  # type: ignore[type-var]
