"""Inline SVG of a summary: what is defended against what is kept, and how rates move with the threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ine_jax.errors import clean
from ine_jax.report.filters import Filters
from ine_jax.report.measures import Measure, Value, measures
from ine_jax.report.tables import KINDS, guard_text, negative_text

WIDTH, HEIGHT = 600, 430
LEFT, RIGHT, TOP, BOTTOM = 54, 16, 12, 42
RADIUS = 5.5
LETTER, LINE = 6.3, 12.0  # width of a letter and height of a line of 11 px text, for placing labels
Box = tuple[float, float, float, float]


class Axes:
    """Data to SVG coordinates, and the lines and numbers of the two axes."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], names: tuple[str, str], height: int = HEIGHT
    ) -> None:
        """`x` and `y`: the shown range; `names`: what the axes say."""
        self.ranges, self.names, self.height = (x, y), names, height

    def at(self, x: float, y: float) -> tuple[float, float]:
        """SVG coordinates of a point."""
        (x0, x1), (y0, y1) = self.ranges
        inner = self.height - BOTTOM - TOP
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - x0) / (x1 - x0), TOP + inner * (1 - (y - y0) / (y1 - y0))

    def inside(self, x: float | None, y: float | None, a: Value, b: Value) -> tuple[float, float]:
        """Bounds of the values `a` and `b` cut to the shown range; the values themselves where there is no bound."""
        pairs = ((a.value if x is None else x, self.ranges[0]), (b.value if y is None else y, self.ranges[1]))
        first, second = (min(max(value, low), high) for value, (low, high) in pairs)
        return first, second

    def draw(self) -> Markup:
        """Grid, numbers and names."""
        parts, bottom = [], self.height - BOTTOM
        for value in ticks(*self.ranges[0]):
            x, _ = self.at(value, self.ranges[1][0])
            parts.append(_text(x, bottom + 16, f"{value:g}", "middle") + _path(f"M{x:.1f} {TOP}V{bottom}", "axis"))
        for value in ticks(*self.ranges[1]):
            _, y = self.at(self.ranges[0][0], value)
            parts.append(
                _text(LEFT - 7, y + 4, f"{value:g}", "end") + _path(f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", "axis")
            )
        parts.append(_text((LEFT + WIDTH - RIGHT) / 2, self.height - 6, self.names[0], "middle", "name"))
        middle = (TOP + bottom) / 2
        turned = Markup('<text class="name" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>')
        parts.append(turned.format(f"{middle:.1f}", clean(self.names[1])))
        return Markup("").join(parts)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers from low to high, about `count` of them."""
    raw = (high - low) / max(1, count - 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if raw <= factor * power * 1.0001)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _frame(values: Sequence[float]) -> tuple[float, float]:
    """A range in [0, 1] that holds the values with room around them."""
    low, high = min(values), max(values)
    room = max(0.04, 0.08 * (high - low))
    return max(0.0, math.floor((low - room) * 20) / 20), min(1.0, math.ceil((high + room) * 20) / 20)


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> Markup:
    shape = '<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>'
    return Markup(shape).format(kind, f"{x:.1f}", f"{y:.1f}", anchor, clean(text))  # noqa: S704  a literal


def _path(data: str, kind: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(kind, data)


def scatters(summary: Mapping[str, Any], filters: Filters) -> list[dict[str, Any]]:
    """Defence against preservation: one figure per model, defended list and bounded measure of preservation.

    {"model", "svg", "title"}; points are the model's main cells, a thin line joins the negatives of one guard.
    """
    cells = summary.get("cells") or []
    columns = measures(summary)
    figures = []
    for model in dict.fromkeys(cell["model"] for cell in cells):
        for x in (m for m in columns if m.kind == "defence"):
            for y in (m for m in columns if m.kind == "preservation" and m.bounded):
                own = [cell for cell in cells if cell["model"] == model and x.of(cell) and y.of(cell)]
                if len(own) > 1:
                    figures.append({"model": model, "list": x.list, "svg": _scatter(own, x, y, filters)})
    return figures


def _scatter(cells: Sequence[Mapping[str, Any]], x: Measure, y: Measure, filters: Filters) -> Markup:
    spots = [(cell, _value(x, cell), _value(y, cell)) for cell in cells]
    frames = [_frame([v.value for v in values]) for values in zip(*((a, b) for _, a, b in spots), strict=True)]
    axes = Axes(frames[0], frames[1], (f"{x.title}, {x.list} prompts", f"{y.title}, {y.list} prompts"))
    places = [axes.at(a.value, b.value) for _, a, b in spots]
    parts = [axes.draw()]
    for members in _guards(cells):
        # words to each embedding; where there are no words, what there is to each other
        ordered = sorted(members, key=lambda i: (cells[i]["negative"] != "explicit", KINDS.index(cells[i]["negative"])))
        for i in ordered[1:]:
            (x0, y0), (x1, y1) = places[ordered[0]], places[i]
            line = _path(f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}", "join")
            parts.append(_group(line, filters, {**cells[i], "negative": ""}))
    boxes: list[Box] = [(px - RADIUS, py - RADIUS, px + RADIUS, py + RADIUS) for px, py in places]
    named = _labelled(cells)
    for i, (cell, a, b) in enumerate(spots):
        low, high = axes.at(*axes.inside(a.low, b.low, a, b)), axes.at(*axes.inside(a.high, b.high, a, b))
        px, py = places[i]
        cross = _path(f"M{low[0]:.1f} {py:.1f}H{high[0]:.1f}M{px:.1f} {low[1]:.1f}V{high[1]:.1f}", "cross")
        title = f"{guard_text(cell)}, {negative_text(cell)}: {x.title} {a.value:.3f}, {y.title} {b.value:.3f}"
        dot = Markup('<circle class="dot {}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>')
        body = cross + dot.format(cell["negative"], f"{px:.1f}", f"{py:.1f}", RADIUS, clean(title))
        if i in named:
            body += _label(px, py, clean(cell["guard"], 28), boxes)
        parts.append(_group(body, filters, cell))
    label = f"{x.title} against {y.title}"
    return _svg(Markup("").join(parts), "scatter", label, HEIGHT)


def _value(measure: Measure, cell: Mapping[str, Any]) -> Value:
    found = measure.of(cell)
    if found is None:
        raise ValueError("a cell without a value")
    return found


def _guards(cells: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, cell in enumerate(cells):
        groups.setdefault((cell["guard"], cell["scale"]), []).append(i)
    return list(groups.values())


def _labelled(cells: Sequence[Mapping[str, Any]]) -> set[int]:
    """One point of each guard carries its name: the last by kind, since embeddings lie furthest apart."""
    return {max(group, key=lambda i: KINDS.index(cells[i]["negative"])) for group in _guards(cells)}


def _label(x: float, y: float, text: str, boxes: list[Box]) -> Markup:
    """The text beside the point, where it covers nothing that is there already; else nothing."""
    width = LETTER * len(text)
    spots = [(9, 4), (-9 - width, 4), (-width / 2, -10), (-width / 2, 19), (7, -9), (7, 17), (-7 - width, -9)]
    spots += [(-7 - width, 17), (-width / 2, -22), (-width / 2, 31)]
    for dx, dy in spots:
        box = (x + dx, y + dy - LINE + 3, x + dx + width, y + dy + 3)
        inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
        if inside and not any(_overlap(box, other) for other in boxes):
            boxes.append(box)
            return _text(x + dx, y + dy, text, kind="tag")
    return Markup("")


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _group(body: Markup, filters: Filters, cell: Mapping[str, Any]) -> Markup:
    return Markup("<g{}>{}</g>").format(filters.attributes(cell), body)


def _svg(body: Markup, kind: str, label: str, height: int) -> Markup:
    shape = '<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    return Markup(shape).format(kind, WIDTH, height, label, body)  # noqa: S704  a literal


def sensitivities(summary: Mapping[str, Any], filters: Filters) -> list[dict[str, Any]]:
    """Rates over the threshold, one figure per model and list: {"model", "list", "kind", "svg"}; dashed: in use."""
    cells, found = summary.get("cells") or [], summary.get("sensitivity") or []
    columns = [measure for measure in measures(summary) if not measure.metric]
    used = (summary.get("preset") or {}).get("threshold")
    figures = []
    for column in columns:
        for model in dict.fromkeys(cell["model"] for cell in cells):
            own = [e for e in found if e["list"] == column.list and cells[e["cell"]]["model"] == model]
            pairs = [(cells[e["cell"]], e) for e in own if e["thresholds"]]
            if pairs:
                svg = _sensitivity(pairs, column.list, column.title, used, filters)
                figures.append({"model": model, "list": column.list, "kind": column.kind, "svg": svg})
    return figures


def _sensitivity(
    entries: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    name: str,
    title: str,
    used: float | None,
    filters: Filters,
) -> Markup:
    spread = [float(t) for _, entry in entries for t in entry["thresholds"]]
    ends = (min(spread), max(spread)) if max(spread) > min(spread) else (0.0, 1.0)
    axes = Axes(ends, (0.0, 1.0), ("threshold of the detector", f"{title}, {name} prompts"), 300)
    parts = [axes.draw()]
    if used is not None and ends[0] <= used <= ends[1]:
        (x, top), (_, bottom) = axes.at(used, 1.0), axes.at(used, 0.0)
        parts.append(_path(f"M{x:.1f} {top:.1f}V{bottom:.1f}", "used"))
    for cell, entry in sorted(entries, key=lambda pair: KINDS.index(pair[0]["negative"])):
        pairs = [(t, r) for t, r in zip(entry["thresholds"], entry["rate"], strict=True) if r is not None]
        points = " ".join("{:.1f},{:.1f}".format(*axes.at(t, r)) for t, r in pairs)
        label = f"{guard_text(cell)}, {negative_text(cell)}"
        line = Markup('<polyline class="rate {}" points="{}"><title>{}</title></polyline>')
        parts.append(_group(line.format(cell["negative"], points, clean(label)), filters, cell))
    return _svg(Markup("").join(parts), "sensitivity", f"{title} over the threshold", 300)
