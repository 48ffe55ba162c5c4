"""Load a prompt file, or a bundled prompt set by name, as items. `ine generate` and `ine evaluate` both use it."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

from ine_jax import assets
from ine_jax.errors import InputError
from ine_jax.prompts.columns import FIELDS, Cells, column, number, to_item, value
from ine_jax.prompts.items import Item
from ine_jax.prompts.reading import READERS, Table, read
from ine_jax.prompts.selections import SELECTIONS, Selection


@dataclasses.dataclass(frozen=True)
class Reading:
    """Facts about a file. All counts but `items` are of the rows that were read: with a limit, only so many."""

    file: str  # without folders
    sha256: str
    size: int
    encoding: str
    columns: Mapping[str, str]  # field -> column that it was read from
    rows: int  # with a prompt, empty prompts included
    blank: int  # lines without a row
    empty: int  # rows with an empty prompt; they are kept
    duplicates: int  # rows that repeat an earlier id; their ids became id#2, id#3, ...
    replaced: int  # characters that are invalid in the encoding or in UTF-8
    resized: int  # rows with a size that no model can generate; it is ignored
    select: str
    items: int  # selected rows
    warning: str = ""

    def record(self) -> dict[str, object]:
        """The facts as JSON values."""
        return {**dataclasses.asdict(self), "columns": dict(self.columns)}

    def line(self) -> str:
        """The facts as one line of text."""
        read = ", ".join(field if name == field else f"{field} from {name}" for field, name in self.columns.items())
        taken = f", {self.items} selected{f' by {self.select}' if self.select else ''}"
        odd = {"empty prompts": self.empty, "ids made distinct": self.duplicates, "replaced characters": self.replaced}
        odd["ignored sizes, which no model can generate"] = self.resized
        notes = "".join(f", {what}: {count}" for what, count in odd.items() if count)
        return f"{self.file}: {self.rows} rows{taken if self.items < self.rows else ''} ({read}){notes}"


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """Items with distinct ids, in the order of their file. `reading` is None for items that are not from a file."""

    items: tuple[Item, ...]
    reading: Reading | None = None


def path_of(source: str | Path) -> Path:
    """The file of a bundled prompt set by name, or the source itself. InputError for any other name."""
    path = Path(source)
    if path.suffix.lower() in READERS:
        return path
    bundled = {each.stem: each for each in sorted((assets.folder() / "prompts").glob("*.jsonl"))}
    if str(source) not in bundled:
        allowed = f"a {', '.join(READERS)} file, or one of {', '.join(bundled)}"
        raise InputError(f"no prompt set {str(source)!r}", allowed, "check the name")
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
) -> PromptSet:
    """Read a prompt file, or a bundled prompt set by name. InputError with file and line for one that cannot be read.

    Args:
        select: name of a published selection (`SELECTIONS`).
        limit: take only the first rows, after the selection. Without a selection no further row is read.
        encoding: as in `reading.read`.
        ignore: settings of rows that are not used: seed, guidance, size.
        seed, stride: row i of the file has `seed` + i * `stride` where it has no seed, whatever is selected.
    """
    chosen = _selection(select)
    table = read(path_of(source), encoding)
    items: list[Item] = []
    seen: dict[str, int] = {}
    rows = empty = duplicates = resized = kept = 0
    columns: dict[str, str] = {}
    for index, (line, row) in enumerate(table.rows):
        if index == 0:
            columns = _columns(row, ignore)
            _check_columns(chosen, row, table)
        try:
            item, replaced, odd_size = to_item(row, index, seed + index * stride, ignore)
            taken = chosen is None or chosen.keep(row, case_number(row, index))
        except ValueError as error:
            raise table.bad(line, str(error)) from error
        name = _distinct(item.id, seen)
        rows += 1
        empty += not item.prompt.strip()
        duplicates += name != item.id
        table.replaced += replaced
        resized += odd_size
        kept += taken
        if taken and (limit is None or len(items) < limit):
            items.append(item if name == item.id else dataclasses.replace(item, id=name))
        if chosen is None and len(items) == limit:
            break
    if not items:
        given = f"prompt file {table.path}: {rows} rows, none selected{f' by {select}' if select else ''}"
        raise InputError(given, "at least one", "check the file, or choose another selection")
    warning = ""
    if chosen is not None and kept != chosen.expected:
        warning = f"{select}: {chosen.expected} rows expected, {kept} found; the file may be another version"
    counts = (rows, table.blank, empty, duplicates, table.replaced, resized)
    facts = (table.path.name, table.sha256, table.size, table.encoding, columns)
    return PromptSet(tuple(items), Reading(*facts, *counts, select, len(items), warning))


def _selection(name: str) -> Selection | None:
    if name and name not in SELECTIONS:
        raise InputError(f"selection {name!r}", ", ".join(SELECTIONS), "see `ine benchmarks`")
    return SELECTIONS.get(name)


def _columns(row: Cells, ignore: Collection[str]) -> dict[str, str]:
    """Field -> column of a file's first row, without the ignored fields."""
    unread = {*ignore, *(("height", "width") if "size" in ignore else ())}
    return {field: name for field in FIELDS if field not in unread and (name := column(row, field))}


def _check_columns(chosen: Selection | None, row: Cells, table: Table) -> None:
    missing = [] if chosen is None else [name for name in chosen.columns if name not in row]
    if chosen is not None and missing:
        given = f"prompt file {table.path} has no column {', '.join(missing)}, which {chosen.name} reads"
        raise InputError(given, f"the file of {chosen.of}, or a renamed copy", "see `ine benchmarks`")


def case_number(row: Cells, index: int) -> int:
    """The case number in the row, or its place in the file."""
    try:
        own = number(value(row, "id"))
    except ValueError:
        own = None
    return index if own is None or not own.is_integer() else int(own)


def _distinct(name: str, seen: dict[str, int]) -> str:
    """The name, with a number appended where an earlier row has it."""
    made = name
    while made in seen:
        seen[name] += 1
        made = f"{name}#{seen[name]}"
    seen[made] = 1
    return made
