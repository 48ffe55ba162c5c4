"""Read prompt files (.txt, .csv, .jsonl, .parquet, in many encodings) as rows. Files are untrusted.

Rows keep only the columns in `columns.KNOWN`, so that a million rows fit in memory, and text is decoded line by line as
rows are asked for. Nothing is guessed: bytes that are invalid in the encoding are replaced and counted, an ambiguous
file is rejected.
"""

import codecs
import csv
import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ine_jax.errors import InputError, is_plain
from ine_jax.prompts.columns import KNOWN, MAX_TEXT, fold, has_prompt
from ine_jax.storage import untrusted

MAX_BYTES = 256 * 2**20
MAX_ROWS = 1_000_000
MAX_LINE = 1 << 20  # characters
MAX_NUL = 0.05  # share of NUL bytes; a file with more and no byte order mark is probably UTF-16
ENCODINGS = ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp949", "cp1252", "latin-1", "shift_jis", "gb18030", "big5")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
Row: TypeAlias = tuple[int, dict[str, object]]  # line (in Parquet files: row), from 1; folded column name -> value


@dataclass
class Table:
    """The rows of a file, and counts that are complete once all rows have been read."""

    path: Path
    sha256: str
    size: int
    encoding: str = ""
    blank: int = 0
    replaced: int = 0
    rows: Iterator[Row] = field(default_factory=lambda: iter(()))

    def bad(self, line: int, reason: str, todo: str = "fix the line") -> InputError:
        """An error with file and line."""
        return InputError(f"prompt file {self.path}, line {line}: {reason}", "", todo)


def read(path: str | Path, encoding: str = "") -> Table:
    """Open a prompt file; the suffix decides its format. InputError with file and line, also while rows are read.

    `encoding` is one of `ENCODINGS`; empty means UTF-8, or the encoding of the byte order mark.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"prompt file {path}", ", ".join(READERS), "rename or convert it")
    if encoding and encoding not in ENCODINGS:
        raise InputError(f"encoding {encoding!r}", ", ".join(ENCODINGS), "choose one of these")
    data = untrusted.read(path, MAX_BYTES, _unreadable)
    if not is_plain(path.name):  # it goes into records
        raise _unreadable(path, "its name is not UTF-8")
    table = Table(path, hashlib.sha256(data).hexdigest(), len(data))
    table.rows = _capped(table, reader(table, data, encoding))
    return table


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"prompt file {path}: {reason}", f"a {', '.join(READERS)} file", "check the path, or split it")


def _capped(table: Table, rows: Iterator[Row]) -> Iterator[Row]:
    held = 0
    for count, (line, row) in enumerate(rows):
        held += sum(len(value) for value in row.values() if isinstance(value, str))
        if count == MAX_ROWS or held > MAX_BYTES:  # a few bytes of Parquet may expand to terabytes
            given = f"over {MAX_ROWS} rows" if count == MAX_ROWS else f"over {MAX_BYTES >> 20} million characters"
            raise InputError(f"prompt file {table.path}: {given}", "a smaller file", "split it")
        yield line, row


def _decoded(table: Table, data: bytes, encoding: str, newline: str) -> Iterator[str]:
    """The lines of the file. Invalid bytes become U+FFFD and NUL becomes a space; both are counted.

    Lines end at "\\n" where `newline` is that, and with "" at any line end, which they keep.
    """
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if not (encoding or marked) and data.count(0) > MAX_NUL * len(data):
        given = f"prompt file {table.path}: {data.count(0)} NUL bytes and no byte order mark"
        raise InputError(given, "text", "give its encoding (utf-16-le?), or save it as UTF-8")
    table.encoding = encoding or marked or "utf-8"
    stream = io.TextIOWrapper(io.BytesIO(data), table.encoding, _REPLACE, newline)
    number = 0
    while True:
        _replaced.count = 0
        line = stream.readline(MAX_LINE + 1)
        number += 1
        table.replaced += _replaced.count + line.count("\0")
        if len(line) > MAX_LINE:
            raise table.bad(number, f"over {MAX_LINE:,} characters")
        if not line:
            return
        yield (line.removeprefix("\ufeff") if number == 1 else line).replace("\0", " ")


_REPLACE = "ine_jax.replace"
_replaced = threading.local()


def _replace(error: UnicodeError) -> tuple[str, int]:
    """The handler of decoding errors that counts what it replaces; the library's own "replace" does not count."""
    _replaced.count += 1
    return "\ufffd", error.end if isinstance(error, UnicodeDecodeError) else 0


codecs.register_error(_REPLACE, _replace)


def _lines(table: Table, data: bytes, encoding: str) -> Iterator[Row]:
    for number, line in enumerate(_decoded(table, data, encoding, "\n"), 1):
        if line.strip():
            yield number, {"prompt": line.strip()}
        else:
            table.blank += 1


def _jsonl(table: Table, data: bytes, encoding: str) -> Iterator[Row]:
    for number, line in enumerate(_decoded(table, data, encoding, "\n"), 1):
        if not line.strip():
            table.blank += 1
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise table.bad(number, f"not JSON: {error}") from error
        row = _known(found) if isinstance(found, dict) else {}
        if not has_prompt(row):
            raise table.bad(number, "not a JSON object with a prompt")
        yield number, row


def _csv(table: Table, data: bytes, encoding: str) -> Iterator[Row]:
    # strict: otherwise an unclosed quote silently swallows the rest of the file
    reader = csv.reader(_decoded(table, data, encoding, ""), strict=True)
    header: list[str] | None = None
    try:
        for record in reader:
            if not record:
                table.blank += 1
            elif header is None:
                header = _header(table, record)
            elif len(record) > len(header):
                reason = f"{len(record)} fields where the header has {len(header)}"
                raise table.bad(reader.line_num, reason, "put quotes around text that holds commas")
            else:
                cells = zip(header, record, strict=False)
                yield reader.line_num, {name: cell for name, cell in cells if name in KNOWN}
    except csv.Error as error:
        raise table.bad(reader.line_num, str(error), "fix the quotes, or split the value") from error


def _parquet(table: Table, data: bytes, encoding: str) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        todo = "pip install 'ine_jax[parquet]', or save it as .csv or .jsonl"
        raise InputError(f"prompt file {table.path}: {error}", "the package pyarrow", todo) from error
    table.encoding = "parquet"
    wrong = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError)
    try:
        # a dictionary may expand to far more text than the file holds, so it is expanded only after its size is checked
        file = pq.ParquetFile(pa.BufferReader(data))
        names = file.schema_arrow.names
        header = _header(table, names)
        kinds = zip(names, file.schema_arrow.types, strict=True)
        texts = [name for name, kind in kinds if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
        wanted = [name for name, folded in zip(names, header, strict=True) if folded in KNOWN]
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=wanted):
            columns = [_values(column) for column in batch.columns]
            keys = [fold(name) for name in batch.schema.names]
            for values in zip(*columns, strict=True):
                number += 1
                yield number, dict(zip(keys, values, strict=True))
    except wrong as error:
        raise InputError(f"prompt file {table.path}: {error}", "a whole Parquet file", "download it again") from error


def _values(column: Any) -> list[object]:
    """The values of an Arrow column. ValueError for a text longer than `MAX_TEXT`."""
    column.validate(full=True)  # of a damaged file: indices beyond the dictionary, text that is not UTF-8
    if hasattr(column, "dictionary"):
        texts = column.dictionary.to_pylist()
        if any(isinstance(text, str) and len(text) > MAX_TEXT for text in texts):
            raise ValueError(f"a value of over {MAX_TEXT} characters")
        return [None if i is None else texts[i] for i in column.indices.to_pylist()]
    return list(column.to_pylist())


def _header(table: Table, names: list[str]) -> list[str]:
    folded = [fold(name) for name in names]
    twice = sorted({name for name in folded if name in KNOWN and folded.count(name) > 1})
    if twice:
        raise InputError(f"prompt file {table.path}: column {twice[0]} occurs twice", "distinct columns", "remove one")
    if not has_prompt(dict.fromkeys(folded)):
        given = f"prompt file {table.path}: columns {', '.join(names)[:80]}"
        raise InputError(given, "one of prompt, adv_prompt, sensitive prompt, caption, unsafe_prompt", "rename one")
    return folded


def _known(found: dict[str, object]) -> dict[str, object]:
    return {name: value for key, value in found.items() if (name := fold(key)) in KNOWN}


READERS: dict[str, Callable[[Table, bytes, str], Iterator[Row]]] = {
    ".txt": _lines,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
