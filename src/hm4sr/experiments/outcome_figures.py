"""The figures of an experiment, in the form the paper gives them."""

import math
from collections.abc import Sequence

from hm4sr.evaluation.metrics import Metric
from hm4sr.experiments.facts import Times
from hm4sr.experiments.facts_page import day
from hm4sr.experiments.outcome_tables import Measured
from hm4sr.experiments.paper import paper_dataset, paper_results
from hm4sr.experiments.plots import Drawing, Panel, Point, Series, bars, histogram, lines
from hm4sr.experiments.tables import Cell, Table, figure

_BARS_OF_MODELS = (Metric("ndcg", 10), Metric("mrr", 10))
_BARS_OF_VARIANTS = (Metric("ndcg", 5), Metric("mrr", 5))
_PART_NAMES = ("train", "validation", "test")


def draw_bars(measured: Measured) -> Drawing:
    """Two metrics of all lines, with the paper's figures where it has them."""
    models = measured.outcome.definition.layout == "models"
    metrics = _BARS_OF_MODELS if models else _BARS_OF_VARIANTS
    dataset = paper_dataset(measured.facts.size)
    panels = []
    for metric in metrics:
        level = None if models else _paper_value(dataset, "hm4sr", metric)
        points = [
            _point(measured, label, metric, _paper_value(dataset, model, metric) if models else None)
            for label, model in _labels(measured)
        ]
        panels.append(Panel(metric.title, "", [Series("", points)], level))
    name = measured.outcome.definition.name
    name = name if len(measured.outcome.definition.groups) == 1 else f"{name}-{_word(measured.group.name)}"
    told = " and ".join(metric.title for metric in metrics)
    caption = f"{told} on {measured.facts.name}{_seeds_told(measured)}"
    return Drawing(name, caption, f"{caption}. {_described(panels[0])}", bars(panels))


def draw_lines(measured: Sequence[Measured]) -> list[Drawing]:
    """The sweeps of an experiment, a figure for each of two metrics; a ring marks the settings themselves."""
    sweeps = [group for group in measured if group.group.key is not None and group.lines]
    if not sweeps:
        return []
    panels: dict[str, list[Measured]] = {}
    for sweep in sweeps:
        panels.setdefault(sweep.group.panel or sweep.group.name, []).append(sweep)
    dataset = paper_dataset(sweeps[0].facts.size)
    drawings = []
    for metric in _BARS_OF_VARIANTS:
        drawn = [
            Panel(
                title=title,
                axis=members[0].group.axis,
                series=[_line(sweep, metric) for sweep in members],
                level=_paper_value(dataset, "hm4sr", metric),
                measure=metric.title,
            )
            for title, members in panels.items()
        ]
        name = f"{sweeps[0].outcome.definition.name}-{metric.kind}{metric.k}"
        caption = f"{metric.title} on {sweeps[0].facts.name}{_seeds_told(*sweeps)}; ringed: as configured"
        described = " ".join(f"{panel.title}: {_described(panel)}" for panel in drawn)
        drawings.append(Drawing(name, caption, f"{caption}. {described}", lines(drawn)))
    return drawings


def draw_times(times: Times, dataset: str) -> tuple[Drawing, Table]:
    """Events in 30 equal intervals, as a figure and as a table."""
    count = times.bins.shape[1]
    edges = [times.first + (times.last - times.first) * number // count for number in range(count + 1)]
    labels = [day(edge)[:7] for edge in edges[:-1]]
    layers = [(name, times.bins[part].tolist()) for part, name in enumerate(_PART_NAMES)]
    totals = times.bins.sum(0)
    shares = [float(total / totals.sum()) for total in totals if total]
    evenness = -sum(share * math.log(share) for share in shares) / math.log(count)
    caption = (
        f"Events of {dataset} in {count} equal intervals; evenness {evenness:.3f} "
        "(entropy over its largest value: 1 if all were alike)"
    )
    rows = [
        [
            Cell(f"{day(edges[number])} to {day(edges[number + 1])}"),
            *(figure(int(times.bins[part, number]), pattern=",d") for part in range(len(_PART_NAMES))),
            figure(int(totals[number]), pattern=",d"),
        ]
        for number in range(count)
    ]
    note = f"Evenness {evenness:.4f}. The paper shows this for its four data sets and gives no numbers."
    title = f"Events of {dataset} over time"
    table = Table("times", title, ["Interval (UTC)", *_PART_NAMES, "all"], rows, [note])
    peak = int(totals.argmax())
    described = f"{caption}. Most, {int(totals[peak]):,}, from {day(edges[peak])} on."
    drawing = Drawing("time-distribution", caption, described, histogram(layers, labels, "first month"))
    return drawing, table


def _labels(measured: Measured) -> list[tuple[str, str]]:
    return [(line.label, line.part.model) for line in measured.lines]


def _point(
    measured: Measured, label: str, metric: Metric, paper: float | None = None, shown: str = ""
) -> Point:
    value, spread = measured.value(label, metric)
    ours = label == measured.outcome.ours(measured.group.name)
    return Point(shown or label, value, spread, paper, ours)


def _line(sweep: Measured, metric: Metric) -> Series:
    points = [_point(sweep, line.label, metric, shown=f"{line.part.x:g}") for line in sweep.lines]
    return Series(sweep.group.series, points)


def _paper_value(dataset: str | None, model: str, metric: Metric) -> float | None:
    row = None if dataset is None else paper_results(dataset, model)
    return None if row is None else row.get(str(metric))


def _seeds_told(*measured: Measured) -> str:
    """How many runs stand behind a bar or point."""
    counts = {len(line.records) for group in measured for line in group.lines if line.records}
    if not counts:
        return ""
    least, most = min(counts), max(counts)
    if most == 1:
        return ", one seed"
    number = str(most) if least == most else f"{least} to {most}"
    return f", mean of {number} seeds ± standard deviation"


def _described(panel: Panel) -> str:
    values = [
        f"{series.name + ' ' if series.name else ''}{point.label} "
        + ("not run" if point.value is None else f"{point.value:.4f}")
        for series in panel.series
        for point in series.points
    ]
    return ", ".join(values) + "."


def _word(text: str) -> str:
    return "-".join(text.split())
