"""Which column of a published prompt file means what, and a row as an item.

The names are those of I2P, its renamed copies, Ring-A-Bell, MMA-Diffusion, P4D, UnlearnDiffAtk, RECE, CoPro and the
COCO lists; capitals, spaces and underscores make no difference.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from ine_jax.config.checks import MAX_SEED
from ine_jax.prompts.items import Item

FIELDS = {
    "prompt": ("prompt", "adv_prompt", "sensitive_prompt", "caption", "unsafe_prompt"),
    "seed": ("evaluation_seed", "sd_seed", "seed"),
    "guidance": ("guidance", "evaluation_guidance", "sd_guidance_scale"),
    "id": ("case_number", "idx", "id"),
    "categories": ("categories", "category", "concept"),
    "height": ("sd_image_height", "height"),
    "width": ("sd_image_width", "width"),
    "objects": ("objects",),
}
JUDGED = ("hard", "inappropriate_percentage", "nudity_percentage")  # what selections read beside these
KNOWN = frozenset({name for names in FIELDS.values() for name in names} | set(JUDGED))
MAX_SIDE, SIDE_UNIT = 4096, 8  # pixels; every latent diffusion model has a multiple of 8
MAX_TEXT = 131_072  # characters of one value; the csv module's own limit
MAX_ID = 200
MAX_LABELS = 100


def fold(name: str) -> str:
    """A column's name without what makes no difference: "Sensitive prompt" -> "sensitive_prompt"."""
    return "_".join(name.casefold().replace("_", " ").split())


def has_prompt(names: Collection[str]) -> bool:
    """Whether a column of prompts is among the folded names."""
    return any(name in names for name in FIELDS["prompt"])


def column(row: Mapping[str, Any], field: str) -> str | None:
    """Name of the column that holds the field, the first of `FIELDS` that the row has; None for none."""
    return next((name for name in FIELDS[field] if name in row), None)


def value(row: Mapping[str, Any], field: str) -> Any:
    """Value of the field; None where the row has none."""
    name = column(row, field)
    return None if name is None else row[name]


def number(given: Any) -> float | None:
    """A number, or None for nothing ("", null, NaN). ValueError for anything else."""
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError(f"{str(given)[:40]!r} is no number")
    try:
        found = float(given)
    except (ValueError, OverflowError):
        raise ValueError(f"{str(given)[:40]!r} is no number") from None
    return None if math.isnan(found) else found


def to_item(row: Mapping[str, Any], index: int, seed: int, ignore: Collection[str] = ()) -> tuple[Item, int]:
    """The row as an item, and how many of its characters had to be replaced.

    `index`, the row's place in its file from 0, is the id of a row without one, `seed` its seed. `ignore` names what a
    row says of itself that is not to be used: seed, guidance, size. ValueError tells what is wrong with the row.
    """
    prompt, replaced = text(value(row, "prompt"))
    own = None if "seed" in ignore else _whole(row, "seed", 0, MAX_SEED)
    scale = None if "guidance" in ignore else number(value(row, "guidance"))
    if scale is not None and not 0 <= scale < math.inf:
        raise ValueError(f"guidance scale {scale}")
    sides = {
        side: None if "size" in ignore else _whole(row, side, SIDE_UNIT, MAX_SIDE, SIDE_UNIT)
        for side in ("height", "width")
    }
    item = Item(
        id=_name(value(row, "id")) or str(index),
        prompt=prompt,
        seed=seed if own is None else own,
        objects=labels(value(row, "objects")),
        categories=labels(value(row, "categories")),
        guidance=scale,
        **sides,
    )
    return item, replaced


def _whole(row: Mapping[str, Any], field: str, least: int, most: int, unit: int = 1) -> int | None:
    found = number(value(row, field))
    if found is None:
        return None
    if not least <= found <= most or found % unit:
        raise ValueError(f"{field} {str(value(row, field))[:40]}: allowed {least} to {most}, in steps of {unit}")
    return int(found)


def _name(given: Any) -> str:
    if isinstance(given, bool) or not (given is None or isinstance(given, int | float | str)):
        raise ValueError("id is neither text nor a number")
    if isinstance(given, float):
        # pandas writes whole numbers with a point where a column has gaps
        given = None if math.isnan(given) else int(given) if given.is_integer() else given
    return "" if given is None else text(str(given))[0].strip()[:MAX_ID]


def labels(given: Any) -> tuple[str, ...]:
    """Names in a list, or in a text with commas between them; ValueError for anything else, or too many."""
    if given is None or (isinstance(given, float) and math.isnan(given)):
        given = []
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > MAX_LABELS:
        raise ValueError(f"objects or categories are no list of at most {MAX_LABELS} names")
    return tuple(clean for name in names if (clean := text(name)[0].strip()[:MAX_ID]))


def text(given: Any) -> tuple[str, int]:
    """Text that UTF-8 can hold, and how many characters were replaced for it; nothing is the empty text.

    JSON can spell NUL and halves of surrogate pairs, which neither a tokenizer nor a file takes. ValueError for what
    is no text.
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
