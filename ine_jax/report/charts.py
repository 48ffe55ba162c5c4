"""Inline SVG without scripts or style attributes: rates with intervals, loss curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from ine_jax.report.measures import Value

WIDTH, HEIGHT = 640, 220
PAD_LEFT, PAD_BOTTOM, PAD_TOP = 56, 30, 14
TICKS = 4
SMOOTH = 0.9


def bar(value: Value, kind: str) -> Markup:
    """A value in [0, 1] as a bar with its interval as a whisker; `kind` (of the negative) picks the colour."""
    low, high = value.low, value.high
    x = _clip(value.value)
    label, whisker = f"{value.value:.3f}", Markup("")
    if low is not None and high is not None:
        label += f", 95 % interval {low:.3f} to {high:.3f}"
        shape = '<path class="whisker" d="M{0} 7H{1}M{0} 3.5V10.5M{1} 3.5V10.5"/>'
        whisker = Markup(shape).format(_clip(low), _clip(high))  # noqa: S704  a literal
    shape = (
        '<svg class="bar" viewBox="0 0 120 14" width="120" height="14" role="img" aria-label="{}">'
        '<rect class="track" width="120" height="14" rx="3"/><rect class="fill {}" width="{}" height="14" rx="3"/>'
        "{}</svg>"
    )
    return Markup(shape).format(label, kind, x, whisker)  # noqa: S704  a literal


def _clip(value: float) -> float:
    return round(120 * min(1.0, max(0.0, value)), 1)


def curve(lines: Sequence[Mapping[str, Any]], title: str) -> Markup:
    """Logged losses over steps as thin lines with their running mean as thick ones; gaps where a value is missing."""
    names = [key for key in lines[0] if key == "loss" or key.startswith("loss")]
    values = [v for line in lines for key in names if (v := _number(line.get(key))) is not None]
    if not values:
        return Markup("")
    low, high = min(values), max(values)
    span, last = (high - low) or 1.0, max(line["step"] for line in lines) or 1
    parts = []
    for index, name in enumerate(names):
        points = [(line["step"], v) for line in lines if (v := _number(line.get(name))) is not None]
        mean, smooth = points[0][1], []
        for step, value in points:
            mean = SMOOTH * mean + (1 - SMOOTH) * value
            smooth.append((step, mean))
        for kind, series in (("raw", points), ("smooth", smooth)):
            path = " ".join(f"{_x(s, last):.1f},{_y(v, low, span):.1f}" for s, v in series)
            parts.append(f'<polyline class="{kind} line{index % 4}" points="{path}"/>')
    axes = []
    for i in range(TICKS + 1):
        v, s = low + span * i / TICKS, last * i / TICKS
        y, x = _y(v, low, span), _x(s, last)
        axes.append(f'<path class="axis" d="M{PAD_LEFT} {y:.1f}H{WIDTH}"/>')
        axes.append(f'<text x="{PAD_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{v:.3g}</text>')
        anchor = "end" if i == TICKS else "middle"
        axes.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{s:.0f}</text>')
    figure = f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="loss over steps">'
    body = "".join([figure, *axes, *parts, "</svg>"])
    caption = escape(f"{title}: loss over {last} steps, thick line = running mean")
    return Markup(f"<figure>{body}<figcaption>{caption}</figcaption></figure>")  # noqa: S704  numbers and escaped text


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _x(step: float, last: float) -> float:
    return PAD_LEFT + (WIDTH - PAD_LEFT - 4) * step / last


def _y(value: float, low: float, span: float) -> float:
    return HEIGHT - PAD_BOTTOM - (HEIGHT - PAD_BOTTOM - PAD_TOP) * (value - low) / span
