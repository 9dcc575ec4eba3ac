"""Stacked bar charts as inline SVG, in the frame and the colours of `hm4sr.experiments.chart`."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from hm4sr.experiments.chart import round_ticks

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 44
_GAP = 0.14


@dataclass(frozen=True)
class Layer:
    """One colour of the bars.

    Attributes:
        name: shown in the legend, if there are several.
        counts: height of each bar's part.
    """

    name: str
    counts: Sequence[int]


def bar_chart(
    layers: Sequence[Layer], labels: Sequence[str], description: str, x_label: str, y_label: str
) -> str:
    """A chart of bars side by side, each made of the layers from the bottom up.

    Args:
        layers: of equal length.
        labels: below the bars, one a bar; as many are shown as fit.
        description: what a reader who does not see the chart is told.
        x_label: what the bars stand for.
        y_label: what is counted.
    """
    heights = [sum(counts) for counts in zip(*(layer.counts for layer in layers), strict=True)]
    ticks = round_ticks(max(heights, default=0), 5)
    bottom, across = _HEIGHT - _BOTTOM, (_WIDTH - _LEFT - _RIGHT) / max(len(heights), 1)

    def up(count: float) -> float:
        return round(bottom - count / ticks[-1] * (bottom - _TOP), 2)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}">',
        f"<title>{escape(description)}</title>",
    ]
    for tick in ticks:
        y = up(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"></line>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4}" text-anchor="end">{_short(tick)}</text>')
    for bar in range(len(heights)):
        x, below = _LEFT + across * bar, 0
        tip = ", ".join(f"{layer.name} {layer.counts[bar]:,}" for layer in layers if layer.counts[bar])
        parts.append(f"<g><title>{escape(f'{labels[bar]}: {tip or 0}')}</title>")
        for number, layer in enumerate(layers):
            count = layer.counts[bar]
            if count:
                top = up(below + count)
                size = f'width="{across * (1 - _GAP):.2f}" height="{max(up(below) - top, 0.4):.2f}"'
                parts.append(f'<rect x="{x:.2f}" y="{top}" {size} style="fill: var(--s{number})"></rect>')
                below += count
        parts.append("</g>")
    longest = max(map(len, labels), default=1)
    every = max(1, -(-len(labels) * (longest * 7 + 12) // (_WIDTH - _LEFT - _RIGHT)))
    for bar in range(0, len(labels), every):
        x = _LEFT + across * (bar + (1 - _GAP) / 2)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(labels[bar])}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text transform="translate(12 {(bottom + _TOP) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text></svg>'
    )
    return "".join(parts) + (_legend(layers) if len(layers) > 1 else "")


def _legend(layers: Sequence[Layer]) -> str:
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true">'
        f'<rect x="6" width="16" height="10" style="fill: var(--s{number})"></rect></svg>'
        f"{escape(layer.name)}</li>"
        for number, layer in enumerate(layers)
    )
    return f'<ul class="legend">{keys}</ul>'


def _short(tick: float) -> str:
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if tick >= size:
            return f"{tick / size:g} {unit}"
    return f"{tick:g}"
