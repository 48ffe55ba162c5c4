"""Which part of the work is this process's: i of N, as the user says or as the launcher's environment does.

Nothing is negotiated between the processes: each does its own blocks, and a dead one hangs nobody.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from ine_jax.cli import launcher


def chosen(text: str, environment: Mapping[str, str]) -> tuple[tuple[int, int], str]:
    """Return part and count, and where they come from: `text` (the flag) where it is given, else the first of these.

    JAX's process index and count where `jax.distributed` is in use; what the launcher set (`launcher.detect`). Nothing
    of it: all, 0/1.

    Raises `InputError` for a text that is no shard, and for an index without its count.
    """
    if text:
        return launcher.parse(text, "--shard"), "--shard"
    distributed = _jax()
    if distributed is not None:
        return distributed, "jax.distributed"
    found = launcher.detect(environment)
    return ((found.index, found.count), found.origin) if found else ((0, 1), "")


def _jax() -> tuple[int, int] | None:
    """Process index and count of `jax.distributed`; a program that uses it has imported JAX."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return None
    return int(jax.process_index()), int(jax.process_count())


def without(words: Sequence[str]) -> list[str]:
    """A command line without its shard: the parts of one evaluation record one command."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--shard":
            next(rest, None)
        elif not word.startswith("--shard="):
            kept.append(word)
    return kept
