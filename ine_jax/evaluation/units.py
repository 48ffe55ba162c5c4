"""The blocks of a run: a pure function of its config, so that every host and every reader cuts it alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ine_jax.prompts.items import spans
from ine_jax.storage.records import RunConfig


@dataclass(frozen=True)
class Unit:
    """Block k: items start:stop of one prompt set in one cell."""

    k: int
    cell: int
    list: str
    start: int
    stop: int


def units(lists: Sequence[Mapping[str, int]], block: int) -> list[Unit]:
    """Cut cell by cell, then prompt set by prompt set (by name), into blocks of at most `block` items."""
    cuts = [
        (cell, name, span.start, span.stop)
        for cell, counts in enumerate(lists)
        for name, n in sorted(counts.items())
        for span in spans(n, block)
    ]
    return [Unit(k, *cut) for k, cut in enumerate(cuts)]


def planned(config: RunConfig) -> list[Unit]:
    """The blocks of a run's plan."""
    return units([spec["lists"] for spec in config["cells"]], config["block"])
