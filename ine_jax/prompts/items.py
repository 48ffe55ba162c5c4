"""One image that is asked for: whose seed is whose, which items are drawn alike, and which file an image goes to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ine_jax.config.checks import MAX_SEED
from ine_jax.errors import InputError

Own = tuple[float | None, int | None, int | None]  # guidance scale, height and width in pixels


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One image that is asked for; the seed belongs to the item, never to its place in a list.

    Attributes:
        id: name of the item in its list; one list names no two items alike.
        prompt: text; the empty one is allowed.
        seed: 0 ... 2^32 - 1.
        objects: labels that the prompt names.
        categories: what the list says that the item is about.
        guidance: guidance scale of its own; None means that of the run.
        height: pixels, its own; None means those of the run.
        width: likewise.
    """

    id: str
    prompt: str
    seed: int
    objects: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    guidance: float | None = None
    height: int | None = None
    width: int | None = None

    def record(self) -> dict[str, Any]:
        """The item as JSON values; what it does not say is left out, but for `objects`."""
        given = {"categories": list(self.categories), "guidance": self.guidance}
        given |= {"height": self.height, "width": self.width}
        told = {key: value for key, value in given.items() if value not in ([], None)}
        return {"id": self.id, "prompt": self.prompt, "seed": self.seed, "objects": list(self.objects), **told}


def alike(items: Sequence[Item], usual: Own) -> dict[Own, list[int]]:
    """Guidance scale, height, width -> places of the items that are drawn with them, in order; `usual` where an item
    has none of its own.

    An item's image depends on itself alone, so that drawing by groups changes none.
    """
    groups: dict[Own, list[int]] = {}
    for place, item in enumerate(items):
        own = (item.guidance, item.height, item.width)
        scale, height, width = (theirs if mine is None else mine for mine, theirs in zip(own, usual, strict=True))
        groups.setdefault((scale, height, width), []).append(place)  # type: ignore[arg-type]
    return groups


def named(items: Sequence[Item], per_prompt: int = 1) -> dict[str, Item]:
    """File name -> item, `per_prompt` of each: seeds item.seed, item.seed + 1, ...

    A file name is made of numbers alone, never of anything that a list says. Raises ``InputError`` where a seed leaves
    0 ... 2^32 - 1.
    """
    files = {}
    for index, item in enumerate(items):
        if not 0 <= item.seed <= MAX_SEED - (per_prompt - 1):
            last = item.seed + per_prompt - 1
            raise InputError(f"seed {last} of prompt {index}", f"0 to {MAX_SEED}", "choose smaller seeds")
        for copy in range(per_prompt):
            files[f"{index:06d}_{copy:02d}.png"] = dataclasses.replace(item, seed=item.seed + copy)
    return files
