"""Filters without a script: radio inputs, and rules that hide what is not of the chosen value. No name enters them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ine_jax.report.measures import lists_of
from ine_jax.report.tables import KINDS, NEGATIVES

OUTCOMES = ("success", "failure", "unscored")
_KEYS = {"model": "m", "guard": "g", "negative": "n", "list": "l", "outcome": "o"}


class Filters:
    """The values that can be chosen, and the attributes that say which of them an element belongs to."""

    def __init__(
        self, cells: Sequence[Mapping[str, Any]], lists: Iterable[str] = (), outcomes: Collection[str] = ()
    ) -> None:
        """Collect the values of cells, of a summary or a run's config; `lists` and `outcomes` are those of pictures."""
        kinds = {cell["negative"] for cell in cells}
        self.values: dict[str, list[str]] = {
            "model": list(dict.fromkeys(cell["model"] for cell in cells)),
            "guard": list(dict.fromkeys(cell["guard"] for cell in cells)),
            "negative": [kind for kind in KINDS if kind in kinds],
            "list": list(dict.fromkeys([*lists_of(cells), *lists])),
            "outcome": [outcome for outcome in OUTCOMES if outcome in outcomes],
        }

    def attributes(self, cell: Mapping[str, Any] | None = None, **values: str) -> Markup:
        """`data-` attributes of an element: model, guard and negative of the cell, and what else is named."""
        own = {key: cell[key] for key in ("model", "guard", "negative")} if cell else {}
        numbers = {
            _KEYS[key]: self.values[key].index(value)
            for key, value in {**own, **values}.items()
            if value in self.values[key]
        }
        return Markup("").join(Markup(' data-{}="{}"').format(key, number) for key, number in numbers.items())

    def choices(self) -> list[dict[str, Any]]:
        """What the page offers: {"name", "key", "values": [text]}; a filter with one value is left out."""
        words = {"list": "prompts"}
        texts = {**self.values, "negative": [NEGATIVES[kind] for kind in self.values["negative"]]}
        return [
            {"name": words.get(name, name), "key": _KEYS[name], "values": values}
            for name, values in texts.items()
            if len(values) > 1
        ]

    def rules(self) -> str:
        """CSS that hides what is not of the chosen values, and items that have no picture of them."""
        lines = []
        sizes = {_KEYS[name]: len(values) for name, values in self.values.items()}
        for key, size in sizes.items():
            for i in range(size):
                lines.append(f'body:has(#{key}{i}:checked) [data-{key}]:not([data-{key}="{i}"]){{display:none}}')
        for key in ("m", "g", "n"):
            for i, o in itertools.product(range(sizes[key]), range(sizes["o"])):
                held = f'.item:not(:has([data-{key}="{i}"][data-o="{o}"]))'
                lines.append(f"body:has(#{key}{i}:checked):has(#o{o}:checked) {held}{{display:none}}")
        for o in range(sizes["o"]):
            lines.append(f'body:has(#o{o}:checked) .item:not(:has([data-o="{o}"])){{display:none}}')
        return "\n".join(lines) + "\n"
