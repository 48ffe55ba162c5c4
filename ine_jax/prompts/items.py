"""One image that is asked for: its seed, the settings that group it with others, and the name of its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ine_jax.config.checks import MAX_SEED
from ine_jax.errors import InputError
from ine_jax.storage.records import ItemRecord

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

    def record(self) -> ItemRecord:
        """The item as JSON values; empty fields are left out, except `objects`."""
        found: ItemRecord = {"id": self.id, "prompt": self.prompt, "seed": self.seed, "objects": list(self.objects)}
        if self.categories:
            found["categories"] = list(self.categories)
        if self.guidance is not None:
            found["guidance"] = self.guidance
        if self.height is not None:
            found["height"] = self.height
        if self.width is not None:
            found["width"] = self.width
        return found


def spans(count: int, size: int) -> list[range]:
    """Ranges of at most `size` numbers that together are 0 ... count - 1, in order."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def alike(items: Sequence[Item], usual: Own, size: int | None = None) -> list[tuple[Own, list[int]]]:
    """Group items by guidance scale, height and width; `usual` where an item has none of its own.

    An item's image depends on the item alone, so grouping changes no image.

    Args:
        items: the items; the groups hold their places.
        usual: guidance scale, height and width of an item without its own.
        size: the most items of a group; None means no limit.
    """
    groups: dict[Own, list[int]] = {}
    for place, item in enumerate(items):
        scale = usual[0] if item.guidance is None else item.guidance
        height = usual[1] if item.height is None else item.height
        width = usual[2] if item.width is None else item.width
        groups.setdefault((scale, height, width), []).append(place)
    cuts = [(own, places, spans(len(places), size or len(places))) for own, places in groups.items()]
    return [(own, places[span.start : span.stop]) for own, places, found in cuts for span in found]


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
