"""The columns of published prompt files by their folded names, and the conversion of a row to an item.

The names are those of I2P and its copies, Ring-A-Bell, MMA-Diffusion, P4D, UnlearnDiffAtk, RECE, CoPro and COCO.
"""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeAlias

from ine_jax.config.checks import MAX_SEED
from ine_jax.prompts.items import Item

FIELDS = {
    "prompt": ("prompt", "adv_prompt", "sensitive_prompt", "caption", "unsafe_prompt"),
    "seed": ("evaluation_seed", "sd_seed", "seed"),
    "guidance": ("guidance", "evaluation_guidance", "sd_guidance_scale"),
    "id": ("case_number", "idx", "id", "image_id"),
    "categories": ("categories", "category", "concept"),
    "height": ("sd_image_height", "height"),
    "width": ("sd_image_width", "width"),
    "objects": ("objects",),
}
RATINGS = ("hard", "inappropriate_percentage", "nudity_percentage")  # further columns that selections read
KNOWN = frozenset({name for names in FIELDS.values() for name in names} | set(RATINGS))
MAX_SIDE, SIDE_UNIT = 4096, 8  # pixels; every latent diffusion model has a multiple of 8
MAX_TEXT = 131_072  # characters of one value; the limit of the csv module
MAX_ID = 200
MAX_LABELS = 100
Cells: TypeAlias = Mapping[str, object]  # folded column name -> value, not yet checked


def fold(name: str) -> str:
    """Normalise a column's name: "Sensitive prompt" -> "sensitive_prompt"."""
    return "_".join(name.casefold().replace("_", " ").split())


def has_prompt(names: Collection[str]) -> bool:
    """Whether a column of prompts is among the folded names."""
    return any(name in names for name in FIELDS["prompt"])


def column(row: Cells, field: str) -> str | None:
    """The first column in `FIELDS` for this field that the row has; None where it has none."""
    return next((name for name in FIELDS[field] if name in row), None)


def value(row: Cells, field: str) -> object:
    """Value of the field; None where the row has none."""
    name = column(row, field)
    return None if name is None else row[name]


def number(given: object) -> float | None:
    """A number, or None for an empty value ("", null, NaN). ValueError for anything else."""
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError(f"{str(given)[:40]!r} is not a number")
    try:
        found = float(given)
    except (ValueError, OverflowError):
        raise ValueError(f"{str(given)[:40]!r} is not a number") from None
    return None if math.isnan(found) else found


class Converted(NamedTuple):
    """A row as an item, the number of replaced characters, and whether its size was ignored."""

    item: Item
    replaced: int
    resized: bool


def to_item(row: Cells, index: int, seed: int, ignore: Collection[str] = ()) -> Converted:
    """Convert a row to an item. ValueError with the row's fault.

    Sizes that no model can generate, such as those of the photos in COCO, are ignored.

    Args:
        index: the row's place in its file, from 0; the id of a row without one.
        seed: the seed of a row without one.
        ignore: settings of the row that are not used: seed, guidance, size.
    """
    prompt, replaced = text(value(row, "prompt"))
    own = None if "seed" in ignore else _whole(row, "seed", 0, MAX_SEED)
    scale = None if "guidance" in ignore else number(value(row, "guidance"))
    if scale is not None and not 0 <= scale < math.inf:
        raise ValueError(f"guidance scale {scale}")
    sides = () if "size" in ignore else tuple(number(value(row, side)) for side in ("height", "width"))
    resized = any(side is not None and (not SIDE_UNIT <= side <= MAX_SIDE or side % SIDE_UNIT) for side in sides)
    height, width = (None, None) if resized or not sides else (None if side is None else int(side) for side in sides)
    item = Item(
        id=_name(value(row, "id")) or str(index),
        prompt=prompt,
        seed=seed if own is None else own,
        objects=labels(value(row, "objects")),
        categories=labels(value(row, "categories")),
        guidance=scale,
        height=height,
        width=width,
    )
    return Converted(item, replaced, resized)


def _whole(row: Cells, field: str, least: int, most: int) -> int | None:
    found = number(value(row, field))
    if found is None:
        return None
    if not least <= found <= most or found % 1:
        raise ValueError(f"{field} {str(value(row, field))[:40]}: allowed {least} to {most}, whole numbers")
    return int(found)


def _name(given: object) -> str:
    if given is None or (isinstance(given, float) and math.isnan(given)):
        return ""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError("id is neither text nor a number")
    # pandas writes integers as floats where a column has gaps
    plain = int(given) if isinstance(given, float) and given.is_integer() else given
    return text(str(plain))[0].strip()[:MAX_ID]


def labels(given: object) -> tuple[str, ...]:
    """Names from a list or a comma-separated text; ValueError for anything else, or too many."""
    if given is None or (isinstance(given, float) and math.isnan(given)):
        return ()
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > MAX_LABELS:
        raise ValueError(f"objects or categories are not a list of at most {MAX_LABELS} names")
    return tuple(clean for name in names if (clean := text(name)[0].strip()[:MAX_ID]))


def text(given: object) -> tuple[str, int]:
    """Text for UTF-8, and the number of replaced characters: JSON can contain NUL and halves of surrogate pairs.

    An empty value is the empty text; ValueError for a value that is not text.
    """
    if given is None or (isinstance(given, float) and math.isnan(given)):
        return "", 0
    if not isinstance(given, str):
        raise ValueError("prompt is not text")
    if len(given) > MAX_TEXT:
        raise ValueError(f"text of {len(given)} characters")
    if given.isascii() and "\0" not in given:
        return given, 0
    whole = given.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    replaced = whole.count("\ufffd") - given.count("\ufffd") + whole.count("\0")
    return whole.replace("\0", " "), replaced
