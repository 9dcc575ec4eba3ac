"""Figures for pages and papers by matplotlib: one drawing each, as SVG, as PDF and inside a page.

The same figures give the same bytes: no dates, no random ids.
"""

import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hm4sr.errors import UserError
from hm4sr.experiments.embed import thumbnail
from hm4sr.files import atomic_file, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = ("#0072b2", "#c04e01", "#00805c", "#a8407e", "#7a6200", "#5a5a5a")
"""Colours that stay apart for most forms of colour blindness."""
_INK, _DIM, _LINE, _GROUND = "#1d2125", "#5c646d", "#dedbd4", "#ffffff"
_MARKERS = "osD^vP"
_NAMES = {_INK: "--ink", _DIM: "--dim", _LINE: "--line", _GROUND: "--card"}
_NAMES |= {colour: f"--s{number}" for number, colour in enumerate(SERIES)}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hm4sr",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.labelcolor": _DIM,
    "axes.edgecolor": _DIM,
    "axes.titlesize": 9,
    "axes.titlecolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "xtick.color": _DIM,
    "ytick.color": _DIM,
    "xtick.labelcolor": _DIM,
    "ytick.labelcolor": _INK,
    "figure.facecolor": _GROUND,
    "axes.facecolor": _GROUND,
    "savefig.facecolor": _GROUND,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True)
class Point:
    """A value to draw.

    Attributes:
        label: of the bar, or below the point.
        value: None where nothing was run.
        spread: standard deviation over seeds; None for a single seed.
        paper: what the paper reports; None where it does not.
        ours: drawn in the colour of what the others are measured against.
    """

    label: str
    value: float | None
    spread: float | None = None
    paper: float | None = None
    ours: bool = False


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        name: in the legend; empty for the only line of a panel.
        points: in the order of the axis; panels place them evenly, whatever their distance.
    """

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Panel:
    """One plot of a figure.

    Attributes:
        title: above it.
        axis: what is along the horizontal axis of lines; what is measured by bars.
        series: its lines; bars have one.
        level: a line across, such as what the paper reports for HM4SR; None for none.
        measure: what is along the vertical axis of lines.
    """

    title: str
    axis: str
    series: Sequence[Series]
    level: float | None = None
    measure: str = ""


@dataclass(frozen=True)
class Card:
    """An item with its picture.

    Attributes:
        title: its name.
        category: its category.
        when: date; empty for a recommendation.
        picture: file or bytes; None, or what cannot be read, is said to be missing.
        marked: what came next.
    """

    title: str
    category: str
    when: str
    picture: Path | bytes | None
    marked: bool = False


@dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Attributes:
        name: of its files.
        caption: below it.
        described: what a reader who does not see it is told.
        figure: the drawing.
    """

    name: str
    caption: str
    described: str
    figure: "Figure"


def require_matplotlib() -> None:
    """Find out before anything is trained whether figures can be drawn.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("figures need matplotlib: install it with pip install 'hm4sr[report]'.") from error


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def bars(panels: Sequence[Panel]) -> "Figure":
    """Horizontal bars from 0, panels beside each other with the same lines; the paper is a diamond."""
    from matplotlib.figure import Figure

    with _style():
        rows = max(len(panel.series[0].points) for panel in panels)
        figure = Figure(figsize=(7.2, 0.24 * rows + 1.05), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, panel in zip(axes, panels, strict=True):
            _draw_bars(ax, panel)
        _shared_legend(figure, axes[0])
        return figure


def _draw_bars(ax: "Axes", panel: Panel) -> None:
    points = panel.series[0].points
    for row, point in enumerate(points):
        if point.value is None:
            ax.text(0, row, " not run", va="center", color=_DIM, fontstyle="italic")
            continue
        error: dict[str, Any] = {"xerr": point.spread, "ecolor": _INK, "capsize": 2} if point.spread else {}
        ax.barh(row, point.value, 0.68, color=SERIES[0] if point.ours else SERIES[5], **error)
        end = point.value + (point.spread or 0)
        shift = (5, 0) if point.paper is None or abs(point.paper - end) > 0.12 * end else (9, 0)
        ax.annotate(
            f"{point.value:.4f}".lstrip("0"), (max(end, point.paper or 0), row), shift,
            textcoords="offset points", va="center", fontsize=7.5, color=_DIM,
        )  # fmt: skip
    known = [(point.paper, row) for row, point in enumerate(points) if point.paper is not None]
    if known:
        ax.plot(*zip(*known, strict=True), "D", color=_INK, markersize=4, label="the paper")
    if panel.level is not None:
        ax.axvline(panel.level, color=_INK, linestyle="--", linewidth=1, label="the paper's HM4SR (Table 1)")
    ax.set_yticks(range(len(points)), [point.label for point in points])
    ax.set_ylim(len(points) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.margins(x=0.16)
    ax.set_xlim(left=0)
    ax.set_title(panel.title, loc="left")
    if panel.axis:
        ax.set_xlabel(panel.axis)


def lines(panels: Sequence[Panel], columns: int = 3) -> "Figure":
    """Lines with ± over seeds, at most `columns` panels beside each other; gaps where nothing was run."""
    from matplotlib.figure import Figure

    with _style():
        columns = min(columns, len(panels))
        rows = math.ceil(len(panels) / columns)
        figure = Figure(figsize=(2.5 * columns + 0.3, 2.1 * rows + 0.3), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for ax, panel in zip(axes, panels, strict=False):
            _draw_lines(ax, panel)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        levels = [ax for ax, panel in zip(axes, panels, strict=False) if panel.level is not None]
        if levels:
            _shared_legend(figure, levels[0])
        return figure


def _draw_lines(ax: "Axes", panel: Panel) -> None:
    labels = list(dict.fromkeys(point.label for series in panel.series for point in series.points))
    for number, series in enumerate(panel.series):
        colour, marker = SERIES[number % len(SERIES)], _MARKERS[number % len(_MARKERS)]
        values = [math.nan if point.value is None else point.value for point in series.points]
        spreads = [point.spread or 0.0 for point in series.points]
        places = [labels.index(point.label) for point in series.points]
        if any(spreads):
            ax.errorbar(places, values, spreads, color=colour, marker=marker, capsize=2, label=series.name)
        else:
            ax.plot(places, values, color=colour, marker=marker, label=series.name)
        own = [(x, y) for x, y, point in zip(places, values, series.points, strict=True) if point.ours]
        if own:
            ax.plot(*zip(*own, strict=True), "o", markersize=9, markerfacecolor="none", color=colour)
    missing = [labels.index(point.label) for s in panel.series for point in s.points if point.value is None]
    for place in dict.fromkeys(missing):
        ax.annotate(
            "not run", (place, 0.04), xycoords=("data", "axes fraction"), ha="center", rotation=90,
            fontsize=7, color=_DIM, fontstyle="italic",
        )  # fmt: skip
    if panel.level is not None:
        ax.axhline(panel.level, color=_INK, linestyle="--", linewidth=1, label="the paper's HM4SR (Table 1)")
    ax.set_xticks(range(len(labels)), labels)
    ax.set_xlim(-0.4, len(labels) - 0.6)
    ax.margins(y=0.15)
    ax.grid(visible=False, axis="x")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.4f}".lstrip("0"))
    ax.set_xlabel(panel.axis, fontsize=7.5)
    ax.set_ylabel(panel.measure, fontsize=7.5)
    ax.set_title(panel.title, loc="left")
    if len(panel.series) > 1:
        ax.legend(fontsize=7)


def histogram(layers: Sequence[tuple[str, Sequence[int]]], labels: Sequence[str], axis: str) -> "Figure":
    """Bars side by side made of layers from the bottom up; every few bars are labelled."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(7.2, 2.7), layout="constrained")
        ax = figure.subplots()
        below = [0] * len(labels)
        for number, (name, counts) in enumerate(layers):
            ax.bar(range(len(labels)), counts, 0.86, below, color=SERIES[number], label=name)
            below = [low + count for low, count in zip(below, counts, strict=True)]
        every = max(1, len(labels) // 8)
        ax.set_xticks(range(0, len(labels), every), labels[::every])
        ax.grid(visible=False, axis="x")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.set_xlabel(axis)
        ax.set_ylabel("events")
        if len(layers) > 1:
            ax.legend(fontsize=7.5)
        return figure


def cards(rows: Sequence[tuple[str, Sequence[Card]]]) -> "Figure":
    """Rows of items under a heading each: picture, name, category, time; what is marked has a frame."""
    from matplotlib.figure import Figure

    with _style():
        columns = max(len(shown) for _, shown in rows)
        figure = Figure(figsize=(1.35 * columns, 1.95 * len(rows)), layout="constrained")
        for part, (heading, shown) in zip(
            figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True
        ):
            part.suptitle(heading, x=0.01, ha="left", fontsize=9)
            axes = part.subplots(1, columns, squeeze=False)[0]
            for ax in axes:
                ax.set_axis_off()
            for ax, one in zip(axes, shown, strict=False):
                _draw_card(ax, one)
        return figure


def _draw_card(ax: "Axes", one: Card) -> None:
    import numpy as np

    picture = thumbnail(one.picture)
    if picture is not None:
        ax.imshow(np.asarray(picture), extent=(0, 1, 0, 1))
    else:
        ax.text(0.5, 0.5, "no picture", ha="center", va="center", color=_DIM, fontsize=7, fontstyle="italic")
    ax.set_xlim(-0.05, 1.05)
    ax.set_ylim(-0.05, 1.05)
    ax.set_aspect("equal")
    if one.marked:
        ax.add_patch(_frame(SERIES[2], 1.8))
    elif picture is None:
        ax.add_patch(_frame(_LINE, 0.8))
    told = [*textwrap.wrap(one.title, 20)[:2], one.category[:24], one.when]
    ax.text(0.5, -0.1, "\n".join(line for line in told if line), ha="center", va="top", fontsize=6.5)


def _frame(colour: str, width: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((0, 0), 1, 1, fill=False, edgecolor=colour, linewidth=width)


def _shared_legend(figure: "Figure", ax: "Axes") -> None:
    handles, names = ax.get_legend_handles_labels()
    shown = {
        name: handle for handle, name in zip(handles, names, strict=True) if name.startswith("the paper")
    }
    if shown:
        figure.legend(
            shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown), fontsize=7.5
        )


def save(drawing: Drawing, folder: Path) -> list[Path]:
    """Write a figure as SVG and as PDF with embedded fonts; returns the files."""
    svg, pdf = (folder / f"{drawing.name}{ending}" for ending in (".svg", ".pdf"))
    write_text(svg, _svg(drawing.figure))
    with atomic_file(pdf) as temporary, _style():
        about: dict[str, Any] = {"CreationDate": None, "ModDate": None, "Title": drawing.caption}
        drawing.figure.savefig(temporary, format="pdf", metadata=about)
    return [svg, pdf]


def inline(drawing: Drawing) -> str:
    """A figure as HTML for a page of `page_style`, in the page's colours, light or dark."""
    text = _svg(drawing.figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z.]+_\d+"', "", text)  # names of groups, which several figures share
    # What is referred to (clip paths, markers) is named after its content; apart in each figure all the same.
    prefix = re.sub("[^a-z0-9]+", "-", drawing.name.lower())
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for colour, name in _NAMES.items():
        text = re.sub(colour, f"var({name})", text, flags=re.IGNORECASE)
    text = re.sub(r"^<svg\b", f'<svg role="img" aria-label="{escape(drawing.described)}"', text)
    return f'<figure class="wide">{text.strip()}<figcaption>{escape(drawing.caption)}</figcaption></figure>'


def _svg(figure: "Figure") -> str:
    stream = io.StringIO()
    with _style():
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"
