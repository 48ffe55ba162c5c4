"""Inline SVG without scripts or style attributes: bars, axes and the shapes that figures are made of."""

import dataclasses
import math

from markupsafe import Markup

from ine_jax.errors import clean
from ine_jax.reporting.measures import Value

WIDTH = 600
LEFT, RIGHT, TOP, BOTTOM = 64.0, 16.0, 12.0, 42.0
BAR = 120  # pixels for the value 1
Range = tuple[float, float]


def bar(value: Value, kind: str) -> Markup:
    """A value in [0, 1] as a bar with its interval as a whisker; `kind` of the negative selects the colour."""
    label, whisker = f"{value.value:.3f}", Markup("")
    if value.low is not None and value.high is not None:
        label += f", 95 % interval {value.span}"
        ends = "".join(f"M{_clip(end)} 3.5V10.5" for end in (value.low, value.high) if 0 <= end <= 1)
        shape = '<path class="whisker" d="M{} 7H{}{}"/>'  # without a cap where the interval goes on
        whisker = Markup(shape).format(_clip(value.low), _clip(value.high), ends)  # noqa: S704  a literal
    shape = (
        '<svg class="bar" viewBox="0 0 120 14" width="120" height="14" role="img" aria-label="{}">'
        '<rect class="track" width="120" height="14" rx="3"/><rect class="fill {}" width="{}" height="14" rx="3"/>'
        "{}</svg>"
    )
    return Markup(shape).format(label, kind, _clip(value.value), whisker)  # noqa: S704  a literal


def _clip(value: float) -> float:
    return round(BAR * min(1.0, max(0.0, value)), 1)


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "") -> Markup:
    """One line of text."""
    shape = '<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>'
    return Markup(shape).format(kind, f"{x:.1f}", f"{y:.1f}", anchor, clean(content))  # noqa: S704  a literal


def path(data: str, kind: str) -> Markup:
    """A path of class `kind`."""
    return Markup('<path class="{}" d="{}"/>').format(kind, data)


def polyline(points: list[tuple[float, float]], kind: str, title: str = "") -> Markup:
    """A polyline through SVG points, with a tooltip where it has a title."""
    place = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    inner = Markup("<title>{}</title>").format(clean(title)) if title else ""
    return Markup('<polyline class="{}" points="{}">{}</polyline>').format(kind, place, inner)


def document(body: list[Markup], kind: str, label: str, height: int) -> Markup:
    """An SVG element of class `kind` around the parts."""
    shape = '<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    return Markup(shape).format(kind, WIDTH, height, clean(label), Markup("").join(body))  # noqa: S704  a literal


@dataclasses.dataclass(frozen=True)
class Axes:
    """Two axes: shown ranges, names and height of the figure in pixels."""

    x: Range
    y: Range
    names: tuple[str, str]
    height: int

    @property
    def bottom(self) -> float:
        """SVG coordinate of the x axis."""
        return self.height - BOTTOM

    def at(self, x: float, y: float) -> tuple[float, float]:
        """SVG coordinates of a point; the shown ranges must hold it."""
        (x0, x1), (y0, y1) = self.x, self.y
        right, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return LEFT + (WIDTH - LEFT - RIGHT) * right, TOP + (self.bottom - TOP) * (1 - up)

    def grid(self) -> list[Markup]:
        """Grid lines, numbers and names."""
        parts, bottom = [], self.bottom
        for value in ticks(*self.x):
            x, _ = self.at(value, self.y[0])
            line = path(f"M{x:.1f} {TOP:g}V{bottom:g}", "axis")
            parts.append(text(x, bottom + 16, f"{value:g}", "middle") + line)
        for value in ticks(*self.y):
            _, y = self.at(self.x[0], value)
            line = path(f"M{LEFT:g} {y:.1f}H{WIDTH - RIGHT:g}", "axis")
            parts.append(text(LEFT - 7, y + 4, f"{value:g}", "end") + line)
        parts.append(text((LEFT + WIDTH - RIGHT) / 2, self.height - 6.0, self.names[0], "middle", "name"))
        rotated = Markup('<text class="name" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>')
        return [*parts, rotated.format(f"{(TOP + bottom) / 2:.1f}", clean(self.names[1]))]


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers from low to high, about `count` of them."""
    raw = (high - low) / max(1, count - 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if raw <= factor * power * 1.0001)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
