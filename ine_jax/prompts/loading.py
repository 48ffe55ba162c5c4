"""From a prompt file, or the name of a bundled list, to items: the one reader of `ine generate` and `ine evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ine_jax import assets
from ine_jax.errors import InputError
from ine_jax.prompts.columns import FIELDS, column, number, to_item, value
from ine_jax.prompts.items import Item
from ine_jax.prompts.reading import READERS, Table, read
from ine_jax.prompts.selections import SELECTIONS, Selection


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was found in a file; the counts are of all its rows, `items` of those that were taken.

    Attributes:
        file: its name, without folders.
        sha256: of its bytes.
        size: its bytes.
        encoding: that it was read in.
        columns: field -> column that it was read from.
        rows: that hold a prompt, also an empty one.
        blank: lines without a row, passed over.
        empty: rows whose prompt is empty; they are kept.
        duplicates: rows whose id an earlier row has; theirs became id#2, id#3, ...
        replaced: characters that were none in the encoding, or that no file can hold.
        select: name of the selection.
        items: rows that were taken.
        warning: what to look at, or nothing.
    """

    file: str
    sha256: str
    size: int
    encoding: str
    columns: Mapping[str, str]
    rows: int
    blank: int
    empty: int
    duplicates: int
    replaced: int
    select: str
    items: int
    warning: str = ""

    def record(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**dataclasses.asdict(self), "columns": dict(self.columns)}

    def line(self) -> str:
        """The same for people, in one line."""
        read = ", ".join(field if name == field else f"{field} from {name}" for field, name in self.columns.items())
        taken = (
            f", {self.items} taken" + (f" by {self.select}" if self.select else "") if self.items < self.rows else ""
        )
        odd = {"empty prompts": self.empty, "ids made distinct": self.duplicates, "characters replaced": self.replaced}
        told = "".join(f", {count} {what}" for what, count in odd.items() if count)
        return f"{self.file}: {self.rows} rows{taken} ({read}){told}"


@dataclasses.dataclass(frozen=True)
class PromptList:
    """Items whose ids differ, in the order of their file, and how they were read; None for those of no file."""

    items: tuple[Item, ...]
    reading: Reading | None = None


def path_of(source: str | Path) -> Path:
    """The file of a bundled list by name, or the source itself. InputError for a name that is neither."""
    path = Path(source)
    if path.suffix.lower() in READERS:
        return path
    bundled = {each.stem: each for each in sorted((assets.ROOT / "tiny" / "prompts").glob("*.jsonl"))}
    if str(source) not in bundled:
        allowed = f"a {', '.join(READERS)} file, or one of {', '.join(bundled)}"
        raise InputError(f"no prompt list {str(source)!r}", allowed, "check the name")
    return bundled[str(source)]


def load(
    source: str | Path,
    *,
    select: str = "",
    limit: int | None = None,
    encoding: str = "",
    ignore: Collection[str] = (),
    seed: int = 0,
    stride: int = 1,
) -> PromptList:
    """Read a prompt file, or a bundled list by name.

    `select` names a published selection (`SELECTIONS`), `limit` then takes the first rows alone. Row i of the file has
    the seed `seed` + i * `stride` where it gives none, and the id i, whatever is selected. `ignore` names what rows say
    of themselves that is not to be used: seed, guidance, size. `encoding` as in :func:`read`.

    Raises ``InputError``, naming file and line, for what cannot be read, and for a selection whose columns are missing
    or that keeps no row.
    """
    chosen = _selection(select)
    table = read(path_of(source), encoding)
    items: list[Item] = []
    seen: dict[str, int] = {}
    rows = empty = duplicates = kept = 0
    columns: dict[str, str] = {}
    for index, (line, row) in enumerate(table.rows):
        if index == 0:
            columns = _columns(row, ignore)
            _check_columns(chosen, row, table)
        try:
            item, replaced = to_item(row, index, seed + index * stride, ignore)
            taken = chosen is None or chosen.keep(row, case_number(row, index))
        except ValueError as error:
            raise table.bad(line, str(error)) from error
        name = _distinct(item.id, seen)
        rows += 1
        empty += not item.prompt.strip()
        duplicates += name != item.id
        table.replaced += replaced
        kept += taken
        if taken and (limit is None or len(items) < limit):
            items.append(item if name == item.id else dataclasses.replace(item, id=name))
    if not items:
        given = f"prompt file {table.path}: {rows} rows, none taken{f' by {select}' if select else ''}"
        raise InputError(given, "at least one", "check the file, or choose another selection")
    warning = ""
    if chosen is not None and kept != chosen.expected:
        warning = f"{select}: {chosen.expected} rows expected, {kept} found; the file may be another version"
    counts = (rows, table.blank, empty, duplicates, table.replaced)
    told = (table.path.name, table.sha256, table.size, table.encoding, columns, *counts)
    return PromptList(tuple(items), Reading(*told, select, len(items), warning))


def _selection(name: str) -> Selection | None:
    if name and name not in SELECTIONS:
        raise InputError(f"selection {name!r}", ", ".join(SELECTIONS), "see `ine benchmarks`")
    return SELECTIONS.get(name)


def _columns(row: Mapping[str, Any], ignore: Collection[str]) -> dict[str, str]:
    """Field -> column of a file's first row, without what is ignored."""
    unread = {*ignore, *(("height", "width") if "size" in ignore else ())}
    return {field: name for field in FIELDS if field not in unread and (name := column(row, field))}


def _check_columns(chosen: Selection | None, row: Mapping[str, Any], table: Table) -> None:
    missing = [] if chosen is None else [name for name in chosen.columns if name not in row]
    if chosen is not None and missing:
        given = f"prompt file {table.path} has no column {', '.join(missing)}, which {chosen.name} reads"
        raise InputError(given, f"the file of {chosen.of}, or a renamed copy", "see `ine benchmarks`")


def case_number(row: Mapping[str, Any], index: int) -> int:
    """The row's case number: its own, or its place in the file."""
    try:
        own = number(value(row, "id"))
    except ValueError:
        own = None
    return index if own is None or not own.is_integer() else int(own)


def _distinct(name: str, seen: dict[str, int]) -> str:
    """The name, or with a number behind it where an earlier row has it."""
    made = name
    while made in seen:
        seen[name] += 1
        made = f"{name}#{seen[name]}"
    seen[made] = 1
    return made
