"""A summary as Markdown, as lines for a terminal, and as sentences."""

import re
from collections.abc import Iterator, Sequence

from ine_jax.errors import LINE_LIMIT, clean
from ine_jax.evaluation.records import Summary, list_results
from ine_jax.reporting import tables
from ine_jax.reporting.labels import negative_scale, p_text, sides_text
from ine_jax.reporting.measures import heading
from ine_jax.reporting.transfer import transfers

_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#&~$@]|(?<=www)\.|:(?=//))")
SENTENCE = 400  # characters
NOTICE = 800
MAX_DEGENERATE = 0.01  # share of degenerate images from which a report begins with them
WORST = 3  # cells that the notice names
THRESHOLDS = 11  # columns of a threshold table, of however many were counted


def escape(text: object, limit: int = LINE_LIMIT) -> str:
    """Text as one line that contains no Markdown."""
    return _MARKUP.sub(r"\\\1", clean(str(text), limit))


def markdown(summary: Summary) -> str:
    """The summary as Markdown tables. Rates carry their 95 % Wilson interval and k/n."""
    notice = degenerate_notice(summary)
    parts = [f"**{escape(notice, NOTICE)}**", ""] if notice else []
    for table in _results(summary):
        parts += _section(table.title, table.detector, table.head, table.texts)
    if summary["paired"]:
        detector = tables.headline_detector(summary)
        parts += _section("Paired tests", detector, tables.PAIRED_HEAD, tables.paired_rows(summary))
    for matrix in transfers(summary):
        parts += _section(f"{matrix.measure}: {matrix.title}", matrix.detector, matrix.head, matrix.texts)
    others = [*tables.by_category(summary), *tables.by_detector(summary), *tables.by_threshold(summary, THRESHOLDS)]
    for table in others:
        parts += _section(table.title, table.detector, table.head, table.texts)
    images = summary["images"]
    counts = f"{images['processed']} of {images['total']} images processed, {images['unscored']} of them unscored"
    degenerate = images.get("degenerate", 0)
    parts.append(f"{counts} ({degenerate} degenerate)." if degenerate else f"{counts}.")
    return "\n".join(parts) + "\n"


def degenerate_notice(summary: Summary) -> str:
    """What to read before any rate where more than 1 % of the images are degenerate; else nothing.

    It names the cells with the largest shares.
    """
    images = summary["images"]
    count, processed = images.get("degenerate", 0), images["processed"]  # summaries of earlier versions count none
    if count <= MAX_DEGENERATE * processed:
        return ""
    found = []
    for cell in (*summary["cells"], *summary["controls"]):
        for name, entry in list_results(cell).items():
            of = entry.get("n", 0) + entry.get("unscored", 0)
            if degenerate := entry.get("degenerate", 0):
                model, guard, scale, _, negative = tables.cell_texts(cell)
                where = f"{model}, {guard}, guidance scale {scale}, {negative}, {name} prompts"
                found.append((degenerate / of, f"{degenerate} of {of} ({where})"))
    worst = [text for _, text in sorted(found, key=lambda pair: -pair[0])[:WORST]]
    text = (
        f"{count} of {processed} images ({count / processed:.1%}) are degenerate: constant, saturated, or from latents"
        f" that are no image's. They show nothing and are in no rate. Most: {'; '.join(worst)}."
    )
    return clean(text, NOTICE)


def _results(summary: Summary) -> Iterator[tables.Table]:
    return (tables.results(summary, part) for part in tables.TITLES if summary[part])


def _section(title: str, detector: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(escape(text) for text in row)} |" for row in (head, *rows)]
    start = [f"### {escape(title)}", "", f"Rates by {escape(detector)}.", ""]
    return [*start, lines[0], "|" + " --- |" * len(head), *lines[1:], ""]


def plain(summary: Summary) -> list[str]:
    """Cells and controls as lines of aligned columns for a terminal."""
    notice = degenerate_notice(summary)
    lines = [notice] if notice else []
    for table in _results(summary):
        texts = [[clean(text) for text in row] for row in (table.head, *table.texts)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        rows = ("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) for row in texts)
        lines += [clean(f"{table.title}, rates by {table.detector}"), *(f"  {row}".rstrip() for row in rows)]
    return lines


def sentences(summary: Summary) -> list[str]:
    """An implicit embedding instead of explicit words under one guard, one sentence per paired test."""
    lines = []
    for test in summary["paired"]:
        if (test["a"], test["b"]) == ("explicit", "implicit"):
            a, b = sides_text(test)
            scale = negative_scale(test["b"], test["negative_scale"])
            line = (
                f"{test['model']}, {test['guard']} (negative scale {scale}), {test['list']} prompts, {b} instead of"
                f" {a}: {heading(summary, test['list'])[0]} {test['difference']:+.3f}"
                f" ({test['only_b']} gained, {test['only_a']} lost of {test['n']}, {p_text(test['p'])})."
            )
            lines.append(clean(line, SENTENCE))
    return lines
