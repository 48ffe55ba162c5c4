"""Items: prompts with their seeds and own settings, grouped by settings, and named as image files."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

from ine_jax.config.checks import MAX_SEED
from ine_jax.errors import InputError, clean, is_text
from ine_jax.storage.records import ItemRecord

Own: TypeAlias = tuple[float | None, int | None, int | None]  # guidance scale, height and width in pixels


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One image to generate. The seed belongs to the item, never to its place in the prompt set."""

    id: str  # unique within the prompt set
    prompt: str
    seed: int  # 0 ... 2^32 - 1
    objects: tuple[str, ...] = ()  # labels that the prompt names
    categories: tuple[str, ...] = ()
    guidance: float | None = None  # None: the run's guidance scale; as the sizes in pixels below
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        for text in (self.id, self.prompt, *self.objects, *self.categories):
            if not is_text(text):
                given = f"a text of item {clean(ascii(self.id), 40)}: {clean(ascii(text), 80)}"
                raise InputError(given, "text that UTF-8 can hold", "correct it")

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


def own_settings(item: Item, usual: Own) -> Own:
    """Guidance scale, height and width of an item; `usual` where it has none of its own."""
    scale = usual[0] if item.guidance is None else item.guidance
    height = usual[1] if item.height is None else item.height
    return scale, height, usual[2] if item.width is None else item.width


def alike(items: Sequence[Item], usual: Own) -> list[tuple[Own, list[int]]]:
    """Group the places of items by guidance scale, height and width; `usual` where an item has none of its own."""
    groups: dict[Own, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(own_settings(item, usual), []).append(place)
    return list(groups.items())


def named(items: Sequence[Item], per_prompt: int = 1) -> dict[str, Item]:
    """File name -> item, `per_prompt` times each, with the seeds item.seed, item.seed + 1, ...

    File names consist of numbers alone, never of text from a prompt file.
    """
    files: dict[str, Item] = {}
    for index, item in enumerate(items):
        if not 0 <= item.seed <= MAX_SEED - (per_prompt - 1):
            last = item.seed + per_prompt - 1
            raise InputError(f"seed {last} of prompt {index}", f"0 to {MAX_SEED}", "choose smaller seeds")
        for copy in range(per_prompt):
            files[f"{index:06d}_{copy:02d}.png"] = dataclasses.replace(item, seed=item.seed + copy)
    return files
