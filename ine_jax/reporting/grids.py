"""Every table of a report as texts, and its form in Markdown, LaTeX and CSV."""

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Iterator, Sequence

from ine_jax.errors import LINE_LIMIT, clean
from ine_jax.evaluation.records import Summary
from ine_jax.reporting import tables
from ine_jax.reporting.csvfile import guarded
from ine_jax.reporting.headline import Entry, headline
from ine_jax.reporting.transfer import transfers

THRESHOLDS = 11  # columns of a threshold table, of however many were counted
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#&~$@]|(?<=www)\.|:(?=//))")
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {character: "\\" + character for character in "{}$&#_%"} | {"<": r"\textless{}", ">": r"\textgreater{}"}
_NUMBER = re.compile(r"[-+<]? ?[\d.].*|-")


@dataclasses.dataclass(frozen=True)
class Grid:
    """One table.

    Attributes:
        name: of its files, letters, digits and hyphens.
        title: what it shows.
        detector: of its rates.
        head: the headings.
        rows: texts under the headings.
    """

    name: str
    title: str
    detector: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> list[str]:
        """Lines of a Markdown section."""
        head, *rows = (f"| {' | '.join(map(escape, row))} |" for row in (self.head, *self.rows))
        start = [f"### {escape(self.title)}", "", f"Rates by {escape(self.detector)}.", ""]
        return [*start, head, "|" + " --- |" * len(self.head), *rows, ""]

    def latex(self) -> str:
        """A `table` for a document that loads the package booktabs; columns of numbers are aligned to the right."""
        columns = list(zip(*self.rows, strict=True))
        kinds = "".join("r" if all(map(_NUMBER.fullmatch, column)) else "l" for column in columns)
        caption = latex(f"{self.title}. Rates by {self.detector}; brackets are 95 % intervals.")
        lines = [r"\begin{table}", r"\centering\small", rf"\caption{{{caption}}}", rf"\label{{tab:{self.name}}}"]
        lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", _latex_row(self.head), r"\midrule"]
        lines += [*map(_latex_row, self.rows), r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """CSV text, safe to open in a spreadsheet."""
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
        writer.writerows([guarded(text) for text in row] for row in (self.head, *self.rows))
        return buffer.getvalue()


def grids(summary: Summary) -> Iterator[Grid]:
    """Yield every table: that of papers, results, controls, paired tests, embeddings across models, other views."""
    if papers := _headline(summary):
        yield papers
    for part in tables.TITLES:
        if summary[part]:
            table = tables.results(summary, part)
            yield Grid(part, table.title, table.detector, table.head, table.texts)
    if summary["paired"]:
        detector = tables.headline_detector(summary)
        yield Grid("paired", "Paired tests", detector, tables.PAIRED_HEAD, tables.paired_rows(summary))
    for i, matrix in enumerate(transfers(summary), 1):
        title = f"{matrix.measure}: {matrix.title}"
        yield Grid(f"transfer-{i}", title, matrix.detector, matrix.head, matrix.texts)
    for name, further in (
        ("category", tables.by_category(summary)),
        ("detector", tables.by_detector(summary)),
        ("threshold", tables.by_threshold(summary, THRESHOLDS)),
    ):
        for i, table in enumerate(further, 1):
            yield Grid(f"{name}-{i}", table.title, table.detector, table.head, table.texts)


def _headline(summary: Summary) -> Grid | None:
    """Guards of all models against negatives, each number with its interval and its gain over explicit words."""
    found = headline(summary)
    negatives = {negative: None for table in found for negative in table.negatives}
    measures = {measure.heading: None for table in found for measure in table.measures}
    if not found or len(negatives) < 2:
        return None
    head = ["model", "guard", *(f"{measure}, {negative.text}" for measure in measures for negative in negatives)]
    rows = []
    for table in found:
        for line in table.lines:
            pairs = zip(table.measures, line.groups, strict=True)
            texts = {
                (m.heading, n): _entry(e) for m, group in pairs for n, e in zip(table.negatives, group, strict=True)
            }
            named = f"{line.guard} ({line.scales})" if line.scales else line.guard
            rows.append([table.model, named, *(texts.get((m, n), "-") for m in measures for n in negatives)])
    return Grid("guards-and-negatives", "Guards and negatives", tables.headline_detector(summary), head, rows)


def _entry(entry: Entry | None) -> str:
    if entry is None:
        return "-"
    span = (
        ""
        if entry.value.low is None or entry.value.high is None
        else f" [{entry.value.low:.3f}, {entry.value.high:.3f}]"
    )
    return f"{entry.value.value:.3f}{span}" + (f"; {entry.gain}" if entry.gain else "")


def table_files(summary: Summary) -> dict[str, str]:
    """Return the text of every table's two files, by name."""
    found: dict[str, str] = {}
    for grid in grids(summary):
        found |= {f"{grid.name}.tex": grid.latex(), f"{grid.name}.csv": grid.csv()}
    return found


def escape(text: object, limit: int = LINE_LIMIT) -> str:
    """Text as one line that contains no Markdown."""
    return _MARKUP.sub(r"\\\1", clean(str(text), limit))


def latex(text: str) -> str:
    """Text as one line that contains no LaTeX."""
    return "".join(_LATEX.get(character, character) for character in clean(text))


def _latex_row(texts: Iterable[str]) -> str:
    return " & ".join(map(latex, texts)) + r" \\"
