"""Filters without a script: radio inputs, and CSS rules that hide what does not match. No name enters a rule."""

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Sequence

from markupsafe import Markup

from ine_jax.evaluation.records import CellEntry
from ine_jax.reporting.labels import KINDS, NEGATIVES
from ine_jax.storage.records import CellSpec

OUTCOMES = ("success", "failure", "unscored")
_KEYS = {"model": "m", "guard": "g", "negative": "n", "list": "l", "outcome": "o"}


@dataclasses.dataclass(frozen=True)
class Choice:
    """One filter of the page: its name, its short key in attributes, and the texts to select from."""

    name: str
    key: str
    values: tuple[str, ...]


class Filters:
    """The values that a reader can select, and the attributes that mark the elements of each."""

    def __init__(
        self, cells: Sequence[CellEntry | CellSpec], lists: Iterable[str] = (), outcomes: Collection[str] = ()
    ) -> None:
        """Collect the values of cells; `lists` are the prompt sets, `outcomes` those of the images."""
        kinds = {cell["negative"] for cell in cells}
        self.values: dict[str, list[str]] = {
            "model": list(dict.fromkeys(cell["model"] for cell in cells)),
            "guard": list(dict.fromkeys(cell["guard"] for cell in cells)),
            "negative": [kind for kind in KINDS if kind in kinds],
            "list": list(dict.fromkeys(lists)),
            "outcome": [outcome for outcome in OUTCOMES if outcome in outcomes],
        }

    def attributes(self, cell: CellEntry | CellSpec | None = None, **values: str) -> Markup:
        """`data-` attributes of an element: model, guard and negative of the cell, and what `values` names instead."""
        own = {} if cell is None else {k: str(v) for k, v in cell.items() if k in ("model", "guard", "negative")}
        marks = [(key, self.values[key].index(v)) for key, v in (own | values).items() if v in self.values[key]]
        return Markup("").join(Markup(' data-{}="{}"').format(_KEYS[key], number) for key, number in marks)

    def choices(self) -> list[Choice]:
        """The filters that the page offers: those with more than one value."""
        kinds = [text for kind, text in NEGATIVES.items() if kind in self.values["negative"]]
        texts, names = {**self.values, "negative": kinds}, {"list": "prompts"}
        offered = {name: tuple(values) for name, values in texts.items() if len(values) > 1}
        return [Choice(names.get(name, name), _KEYS[name], values) for name, values in offered.items()]

    def rules(self) -> str:
        """CSS that hides what does not have the selected values, and items without an image that has them."""
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
