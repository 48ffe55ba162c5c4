"""`ine benchmarks`: where to get the published prompt sets, and whether a file is a complete copy of one."""

import contextlib
import dataclasses
import difflib
from pathlib import Path

from ine_jax.errors import InputError
from ine_jax.prompts.columns import FIELDS, KNOWN, column, fold
from ine_jax.prompts.loading import Reading, case_number, load, path_of
from ine_jax.prompts.reading import read
from ine_jax.prompts.registry import BENCHMARKS, SHA256, Benchmark
from ine_jax.prompts.selections import SELECTIONS

SAME, OTHER = "same bytes as published", "same shape as published, other content"
UNKNOWN = "same shape as published; its hash is not recorded"
_SHOWN = 3  # differences in a message


def listing() -> tuple[list[str], dict[str, object]]:
    """The table of all prompt sets, as lines of text and as JSON values."""
    width = max(map(len, BENCHMARKS))
    concepts = max(len(each.concept) for each in BENCHMARKS.values())
    lines = [f"{'name':<{width}}  {'rows':>5}  {'concept':<{concepts}}  licence"]
    for each in BENCHMARKS.values():
        lines.append(f"{each.name:<{width}}  {each.rows:>5}  {each.concept:<{concepts}}  {each.licence}")
        lines.append(f"  from {each.where}")
        known = [name for name in each.columns.split(", ") if fold(name) in KNOWN]
        lines += [f"  columns read: {', '.join(known)}"] if known else []
        lines += [f"  selections: {', '.join(each.selections)}"] if each.selections else []
    lines += ["selections:", *(f"  {each.name}: {each.source}" for each in SELECTIONS.values())]
    lines.append("These sets are not part of this package. `ine benchmarks check NAME FILE` checks your copy.")
    return lines, {"benchmarks": [dataclasses.asdict(each) | {"sha256": each.sha256} for each in BENCHMARKS.values()]}


def check(name: str, path: str | Path, encoding: str = "") -> tuple[list[str], dict[str, object]]:
    """Compare a file with the published one: hash, rows, columns, selections. Returns lines of text, and JSON values.

    A file of the published shape with other bytes (saved again, or another version) is reported as such.

    Raises:
        InputError: the file has another shape, with the differences, or it is another published prompt set.
    """
    benchmark = BENCHMARKS.get(name)
    if benchmark is None:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        todo = f"did you mean {near[0]}?" if near else "see `ine benchmarks list`"
        raise InputError(f"benchmark {name!r}", ", ".join(BENCHMARKS), todo)
    reading = load(path, encoding=encoding).reading
    assert reading is not None  # noqa: S101  set for every file
    counts = _kept(benchmark, path, encoding)
    wrong = [*_differences(benchmark, reading)]
    wrong += [f"{select} keeps {n}" for select, n in counts.items() if n != SELECTIONS[select].expected]
    if wrong:
        where = f"{benchmark.rows} rows, from {benchmark.where}"
        shown = "; ".join(wrong[:_SHOWN]) + (f"; {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
        raise InputError(f"{path_of(path).name} is not {name} as published: {shown}", where, "download it again")
    same = UNKNOWN if not benchmark.sha256 else SAME if reading.sha256 == benchmark.sha256 else OTHER
    kept = [f"{select}: {n} rows" for select, n in counts.items()]
    lines = [reading.line(), f"{name}: {reading.rows} rows, {same}", *kept, f"sha256 {reading.sha256}"]
    return lines, {"name": name, **reading.record(), "selections": counts, "identity": same}


def _differences(benchmark: Benchmark, reading: Reading) -> list[str]:
    """Rows and columns that differ from the published ones, and the other prompt set that the file is."""
    wrong = [] if reading.rows == benchmark.rows else [f"{reading.rows} rows"]
    if benchmark.columns:
        names = dict.fromkeys(fold(each) for each in benchmark.columns.split(","))
        for field in FIELDS:
            published, found = column(names, field), reading.columns.get(field)
            if published is not None and published != found:
                wrong.append(f"{field} comes from {found or 'no column'}, not {published}")
    others = [name for name, known in SHA256.items() if known == reading.sha256 and name != benchmark.name]
    return wrong + [f"it is {name}" for name in others]


def _kept(benchmark: Benchmark, path: str | Path, encoding: str) -> dict[str, int]:
    """Selection -> number of rows that it keeps; rows with values it cannot read are left out."""
    counts = dict.fromkeys(benchmark.selections, 0)
    for index, (_, row) in enumerate(read(path_of(path), encoding).rows):
        for name in counts:
            with contextlib.suppress(ValueError):
                counts[name] += SELECTIONS[name].keep(row, case_number(row, index))
    return counts
