"""A summary as Markdown, as lines for a terminal, and as sentences."""

from collections.abc import Iterator, Sequence

from ine_jax.errors import clean
from ine_jax.evaluation.records import Summary, list_results
from ine_jax.reporting import tables
from ine_jax.reporting.grids import escape, grids
from ine_jax.reporting.labels import negative_scale, p_text, sides_text
from ine_jax.reporting.measures import heading, measures

SENTENCE = 400  # characters
NOTICE = 800
LEVEL = 0.05  # of significance
_TESTED = ("model", "guard", "scale", "negative_scale", "embedding_from", "embedding_seed")
MAX_DEGENERATE = 0.01  # share of degenerate images from which a report begins with them
WORST = 3  # cells that the notice names


def markdown(summary: Summary) -> str:
    """The summary as Markdown tables. Rates carry their 95 % Wilson interval and k/n."""
    notice = degenerate_notice(summary)
    parts = [f"**{escape(notice, NOTICE)}**", ""] if notice else []
    parts += [line for grid in grids(summary) for line in grid.markdown()]
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


def finding(summary: Summary) -> str:
    """One sentence on the paired tests of implicit embeddings against explicit words in main cells; else on the DSR.

    It counts every test, so that none is selected.
    """
    main = {tuple(cell.get(key) for key in _TESTED) for cell in summary["cells"] if cell["negative"] == "implicit"}
    own = [t for t in summary["paired"] if (t["a"], t["b"]) == ("explicit", "implicit")]
    own = [t for t in own if tuple(t.get(key) for key in _TESTED) in main]
    kinds = {t["list"]: heading(summary, t["list"])[1] for t in own}
    gains = [t for t in own if kinds[t["list"]] == "defense"]
    kept = [t["difference"] for t in own if kinds[t["list"]] == "preservation"]
    if gains:
        sure = [t["difference"] for t in gains if t["p_holm"] < LEVEL]
        up, down = sum(d > 0 for d in sure), sum(d < 0 for d in sure)
        text = (
            f"An implicit embedding instead of explicit words raises the defense success rate in {up} of {len(gains)}"
            f" paired tests and lowers it in {down} (p (Holm) < {LEVEL}); differences"
            f" {_range([t['difference'] for t in gains])}"
        )
        return f"{text}; on harmless prompts prior preservation changes by {_range(kept)}." if kept else f"{text}."
    values = [
        value
        for measure in measures(summary, summary["cells"])
        if measure.kind == "defense"
        for cell in summary["cells"]
        if (value := measure.of(cell))
    ]
    if not values:
        return ""
    low, high = min(v.value for v in values), max(v.value for v in values)
    return f"The defense success rate lies between {low:.3f} and {high:.3f} over {len(values)} combinations."


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:+.3f}" if low == high else f"{low:+.3f} to {high:+.3f}"
