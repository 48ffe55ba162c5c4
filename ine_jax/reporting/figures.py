"""Figures of a report: defense against preservation, rates over the detector's threshold, loss curves."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ine_jax.errors import clean
from ine_jax.evaluation.records import CellEntry, Summary
from ine_jax.reporting import svg
from ine_jax.reporting.filters import Filters
from ine_jax.reporting.labels import KINDS, cell_scales, negative_text
from ine_jax.reporting.measures import Kind, Measure, Value, measures
from ine_jax.reporting.svg import Axes, Range
from ine_jax.reporting.tables import Row, by_threshold, headline_detector

HEIGHT, LOW_HEIGHT = 430, 300
SPAN = 0.2  # smallest range of an axis, so that small differences do not look large
RADIUS = 5.5
LETTER, LINE = 6.3, 12.0  # width of a letter and height of a line of 11 px text, for placing labels
SMOOTH = 0.9  # of the running mean of losses
Box = tuple[float, float, float, float]
LogLine = Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Figure:
    """An SVG element, the model and prompt set that it is about, the detector and the kind of its rate."""

    model: str
    prompts: str
    detector: str
    kind: Kind
    svg: Markup


@dataclasses.dataclass(frozen=True)
class _Point:
    cell: CellEntry
    x: Value
    y: Value


def scatters(summary: Summary, filters: Filters) -> list[Figure]:
    """One figure per model, DSR and bounded measure of preservation, with a point per main cell of the model.

    The figures of two measures have the same axes for every model.
    """
    cells, detector = summary["cells"], headline_detector(summary)
    columns = measures(summary, cells)
    figures: dict[str, list[Figure]] = {cell["model"]: [] for cell in cells}
    for x in (m for m in columns if m.kind == "defense"):
        for y in (m for m in columns if m.kind == "preservation" and m.bounded):
            values = [(cell, x.of(cell), y.of(cell)) for cell in cells]
            points = [_Point(cell, a, b) for cell, a, b in values if a is not None and b is not None]
            names = f"{x.title}, {x.prompts} prompts", f"{y.title}, {y.prompts} prompts"
            for model, own in figures.items():
                shown = [point for point in points if point.cell["model"] == model]
                if len(shown) > 1:
                    axes = Axes(_frame([p.x for p in points]), _frame([p.y for p in points]), names, HEIGHT)
                    label = f"{x.title} against {y.title} of {model}, by {detector}"
                    own.append(Figure(model, x.prompts, detector, x.kind, _scatter(shown, x, y, axes, filters, label)))
    return [figure for own in figures.values() for figure in own]


def _scatter(points: Sequence[_Point], x: Measure, y: Measure, axes: Axes, filters: Filters, label: str) -> Markup:
    places = [axes.at(point.x.value, point.y.value) for point in points]
    parts, named = axes.grid(), set()
    for members in _guards(points):
        # from words to each embedding; without words, from the first to each other
        ordered = sorted(members, key=lambda i: (points[i].cell["negative"] != "explicit", _rank(points[i].cell)))
        (x0, y0), *_ = (places[i] for i in ordered)
        for i in ordered[1:]:
            joined = svg.path(f"M{x0:.1f} {y0:.1f}L{places[i][0]:.1f} {places[i][1]:.1f}", "join")
            parts.append(_group(joined, filters.attributes(points[i].cell, negative="")))
        named.add(max(members, key=lambda i: _rank(points[i].cell)))  # embeddings are furthest apart
    boxes: list[Box] = [(px - RADIUS, py - RADIUS, px + RADIUS, py + RADIUS) for px, py in places]
    for i, (point, (px, py)) in enumerate(zip(points, places, strict=True)):
        body = _cross(axes, point, px, py) + _dot(point, x, y, px, py)
        if i in named:
            body += _label(px, py, clean(point.cell["guard"], 28), boxes)
        parts.append(_group(body, filters.attributes(point.cell)))
    return svg.document(parts, "scatter", label, HEIGHT)


def _frame(values: Sequence[Value]) -> Range:
    """A range of at least `SPAN` that holds the values and their intervals, in [0, 1] unless an interval leaves it."""
    low, high = min(_bounds(value)[0] for value in values), max(_bounds(value)[1] for value in values)
    margin = max(0.01, (SPAN - (high - low)) / 2)
    least, most = min(0.0, low), max(1.0, high)
    start, stop = math.floor((low - margin) * 20) / 20, math.ceil((high + margin) * 20) / 20
    return max(least, min(start, most - SPAN)), min(most, max(stop, least + SPAN))


def _bounds(value: Value) -> Range:
    """The interval of a value, or twice the value without one."""
    return value.value if value.low is None else value.low, value.value if value.high is None else value.high


def _rank(cell: CellEntry) -> int:
    return KINDS.index(cell["negative"])


def _guards(points: Sequence[_Point]) -> list[list[int]]:
    groups: dict[tuple[str, float], list[int]] = {}
    for i, point in enumerate(points):
        groups.setdefault((point.cell["guard"], point.cell["scale"]), []).append(i)
    return list(groups.values())


def _cross(axes: Axes, point: _Point, px: float, py: float) -> Markup:
    """The two intervals of a point; nothing in a direction without one."""
    (x0, x1), (y0, y1) = _bounds(point.x), _bounds(point.y)
    (left, down), (right, up) = axes.at(x0, y0), axes.at(x1, y1)
    return svg.path(f"M{left:.1f} {py:.1f}H{right:.1f}M{px:.1f} {down:.1f}V{up:.1f}", "cross")


def _dot(point: _Point, x: Measure, y: Measure, px: float, py: float) -> Markup:
    title = f"{cell_title(point.cell)}: {x.title} {point.x.value:.3f}, {y.title} {point.y.value:.3f}"
    shape = Markup('<circle class="dot {}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>')
    return shape.format(point.cell["negative"], f"{px:.1f}", f"{py:.1f}", RADIUS, clean(title))


def cell_title(cell: CellEntry) -> str:
    """A cell in a tooltip."""
    return f"{cell['guard']}, {cell_scales(cell)}, {negative_text(cell)}"


def _label(x: float, y: float, content: str, boxes: list[Box]) -> Markup:
    """The text beside the point where it covers nothing in `boxes`; else nothing. Adds the text's own box."""
    width = LETTER * len(content)
    spots = [(9, 4), (-9 - width, 4), (-width / 2, -10), (-width / 2, 19), (7, -9), (7, 17), (-7 - width, -9)]
    spots += [(-7 - width, 17), (-width / 2, -22), (-width / 2, 31)]
    for dx, dy in spots:
        box = (x + dx, y + dy - LINE + 3, x + dx + width, y + dy + 3)
        inside = box[0] >= svg.LEFT and box[2] <= svg.WIDTH and box[1] >= 0 and box[3] <= HEIGHT - svg.BOTTOM
        if inside and not any(_overlap(box, other) for other in boxes):
            boxes.append(box)
            return svg.text(x + dx, y + dy, content, kind="tag")
    return Markup("")


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _group(body: Markup, attributes: Markup) -> Markup:
    return Markup("<g{}>{}</g>").format(attributes, body)


def sensitivities(summary: Summary, filters: Filters) -> list[Figure]:
    """Rates over the detector's threshold, one figure per prompt set and model; dashed: the threshold in use."""
    figures = []
    for table in by_threshold(summary):
        grid = [column.threshold for column in table.columns if column.threshold is not None]
        ends = (min(grid), max(grid)) if max(grid) > min(grid) else (0.0, 1.0)
        axes = Axes(ends, (0.0, 1.0), ("detector threshold", f"{table.measure}, {table.prompts} prompts"), LOW_HEIGHT)
        for model in dict.fromkeys(row.cell["model"] for row in table.rows):
            rows = [row for row in table.rows if row.cell["model"] == model]
            parts = [*axes.grid(), _used(axes, summary["preset"]["threshold"]), *_rates(axes, grid, rows, filters)]
            label = f"{table.measure} of {model} over the threshold of {table.detector}"
            drawing = svg.document(parts, "sensitivity", label, LOW_HEIGHT)
            figures.append(Figure(model, table.prompts, table.detector, table.columns[0].kind, drawing))
    return figures


def _used(axes: Axes, threshold: float) -> Markup:
    if not axes.x[0] <= threshold <= axes.x[1]:
        return Markup("")
    (x, top), (_, bottom) = axes.at(threshold, 1.0), axes.at(threshold, 0.0)
    return svg.path(f"M{x:.1f} {top:.1f}V{bottom:.1f}", "used")


def _rates(axes: Axes, grid: Sequence[float], rows: Sequence[Row], filters: Filters) -> list[Markup]:
    parts = []
    for row in sorted(rows, key=lambda row: _rank(row.cell)):
        points = [axes.at(t, value.value) for t, value in zip(grid, row.values, strict=True) if value is not None]
        line = svg.polyline(points, f"rate {row.cell['negative']}", cell_title(row.cell))
        parts.append(_group(line, filters.attributes(row.cell)))
    return parts


def losses(curves: Mapping[str, Sequence[LogLine]]) -> list[Markup]:
    """A figure per run of logged losses over steps, all with the same axes; values that are missing are left out."""
    runs = {title: found for title, lines in curves.items() if (found := _series(lines))}
    points = [point for series in runs.values() for curve in series for point in curve]
    if not points:
        return []
    last = max(step for step, _ in points) or 1.0
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    axes = Axes((0.0, last), (low, high if high > low else low + 1.0), ("step", "loss"), LOW_HEIGHT)
    return [_losses(title, series, axes) for title, series in runs.items()]


def _series(lines: Sequence[LogLine]) -> list[list[tuple[float, float]]]:
    """The points (step, loss) of every loss of a log that has any."""
    names = [key for key in lines[0] if key.startswith("loss")] if lines else []
    series = ([point for line in lines if (point := _logged(line, name))] for name in names)
    return [points for points in series if points]


def _losses(title: str, series: Sequence[Sequence[tuple[float, float]]], axes: Axes) -> Markup:
    """Logged losses as thin lines, their running means as thick ones."""
    parts = axes.grid()
    for index, points in enumerate(series):
        mean, smooth = points[0][1], []
        for step, value in points:
            mean = SMOOTH * mean + (1 - SMOOTH) * value
            smooth.append((step, mean))
        for kind, curve in (("raw", points), ("smooth", smooth)):
            parts.append(svg.polyline([axes.at(*point) for point in curve], f"{kind} line{index % 4}"))
    last = max(step for points in series for step, _ in points)
    caption = clean(f"{title}: loss over {last:g} steps, thick line = running mean")
    figure = svg.document(parts, "curve", "loss over steps", LOW_HEIGHT)
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(figure, caption)


def _logged(line: LogLine, name: str) -> tuple[float, float] | None:
    step, value = line["step"], line.get(name)
    if not isinstance(step, int | float) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(step), float(value)
