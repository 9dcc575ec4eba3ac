"""Line charts as inline SVG, coloured by the classes of the page that holds them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 40
NUM_SERIES_STYLES = 6
"""Series are styled by the classes s0 ... s5, then again from s0."""


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: shown in the legend.
        points: pairs of x and y in the order of x; those that are not finite are left out.
        mark: index of a point to mark with a dot, such as the best epoch.
    """

    name: str
    points: Sequence[tuple[float, float]]
    mark: int | None = None


def line_chart(lines: Sequence[Line], description: str, x_label: str, y_label: str) -> str:
    """A chart with axes from 0 and a legend; an empty string when there is nothing to draw.

    Args:
        lines: the curves.
        description: what a reader who does not see the chart is told.
        x_label: what the horizontal axis counts.
        y_label: what the vertical axis measures.
    """
    finite = [[(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)] for line in lines]
    if not any(finite):
        return ""
    x_ticks = round_ticks(max(x for points in finite for x, _ in points), 6, whole=True)
    y_ticks = round_ticks(max(y for points in finite for _, y in points), 5)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x / x_ticks[-1]) * (_WIDTH - _LEFT - _RIGHT)
        up = (y / y_ticks[-1]) * (_HEIGHT - _TOP - _BOTTOM)
        return round(_LEFT + across, 1), round(_HEIGHT - _BOTTOM - up, 1)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}">',
        f"<title>{escape(description)}</title>",
    ]
    for tick in y_ticks:
        _, y = place(0, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"></line>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x, _ = place(tick, 0)
        parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text transform="translate(12 {(_HEIGHT - _BOTTOM + _TOP) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    for number, (line, points) in enumerate(zip(lines, finite, strict=True)):
        style = f"s{number % NUM_SERIES_STYLES}"
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline class="curve {style}" points="{path}"></polyline>')
        marked = line.points[line.mark] if line.mark is not None else points[0] if len(points) == 1 else None
        if marked in points:
            x, y = place(*marked)
            parts.append(f'<circle class="dot {style}" cx="{x}" cy="{y}" r="4.5"></circle>')
    parts.append("</svg>")
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true">'
        f'<line class="curve s{number % NUM_SERIES_STYLES}" x1="1" x2="27" y1="5" y2="5"></line></svg>'
        f"{escape(line.name)}</li>"
        for number, line in enumerate(lines)
    )
    return "".join(parts) + f'<ul class="legend">{keys}</ul>'


def round_ticks(largest: float, about: int, whole: bool = False) -> list[float]:
    """Round numbers from 0 to at least `largest`."""
    if largest <= 0:
        return [0.0, 1.0]
    rough = largest / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step))
    return [round(number * step, 12) for number in range(math.ceil(largest / step - 1e-9) + 1)]
