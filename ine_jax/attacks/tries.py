"""The tries of an attack: images of the target, read by the detectors; a prompt that succeeds is left as it is."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Bool

from ine_jax.attacks.result import TRIES, Try, tried
from ine_jax.attacks.target import Finder, Target
from ine_jax.errors import CorruptRunError
from ine_jax.prompts.items import Item

State = TypeVar("State")


class Tries(Generic[State]):
    """One try before the attack, with the prompts as they are, and one after each `every` steps.

    `texts` returns the prompts of a state at given places.
    """

    def __init__(
        self,
        target: Target,
        items: Sequence[Item],
        finders: Sequence[Finder],
        folder: Path,
        every: int,
        texts: Callable[[State, Sequence[int]], Sequence[str]],
    ) -> None:
        self._target, self.items, self._finders = target, items, finders
        self._folder, self._every, self._texts = folder / TRIES, every, texts
        self._done = -1
        self.found = [Try(id=item.id, prompt=item.prompt, seed=item.seed, success=None, scores={}) for item in items]

    def active(self, state: State, i: int) -> Bool[np.ndarray, "prompt"]:
        """Which prompts have not succeeded by step `i`; the try that is due there is made, earlier ones are read."""
        for number in range(self._done + 1, i // self._every + 1):
            self._try(number, state if number * self._every == i else None)
            self._done = number
        return np.asarray([row["success"] is not True for row in self.found])

    def _try(self, number: int, state: State | None) -> None:
        left = [place for place, row in enumerate(self.found) if row["success"] is not True]
        path = self._folder / f"{number:03d}.jsonl"
        if not left or (state is None and not self._finders):
            return
        if state is None and not path.is_file():
            raise CorruptRunError(f"{path}: missing", "the tries of this run", "start again in a new directory")
        made = [self.items[place] for place in left]
        if state is not None and number:
            texts = self._texts(state, left)
            made = [dataclasses.replace(item, prompt=text) for item, text in zip(made, texts, strict=True)]
        for place, row in zip(left, tried(self._target, made, self._finders, path, stored=state is None), strict=True):
            self.found[place] = row
