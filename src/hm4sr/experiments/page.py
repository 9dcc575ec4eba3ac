"""The page a demo ends with: metrics side by side, training curves, and what was recommended to some users.

One HTML file that needs no network: style, charts and pictures are inside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from hm4sr.experiments.chart import Line, line_chart
from hm4sr.experiments.embed import data_uri
from hm4sr.experiments.page_style import STYLE
from hm4sr.files import write_text

MONITOR = "ndcg@20"
_NEW_THREAD_SECONDS = 14 * 86_400
_NAMES = {"ndcg": "NDCG", "mrr": "MRR", "hit": "Hit"}


@dataclass(frozen=True)
class RunSummary:
    """What one run achieved.

    Attributes:
        name: heading of its column.
        test: metric name, such as "ndcg@10", to value.
        curve: rows of the run's metrics.jsonl ("epoch", "losses", "valid"); empty where nothing was trained.
        seconds_per_epoch: median time to train one epoch.
        parameters: number of trained parameters.
    """

    name: str
    test: Mapping[str, float]
    curve: Sequence[Mapping[str, Any]] = ()
    seconds_per_epoch: float | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Shown:
    """One item as the page shows it.

    Attributes:
        item_id: tells whether a recommendation is the target.
        title: name of the item.
        category: its category, or an empty string.
        time: seconds since 1970 of the event; None for a recommendation.
        picture: the picture's file or bytes; None, or a file that cannot be read, shows a placeholder.
    """

    item_id: str
    title: str
    category: str = ""
    time: int | None = None
    picture: Path | bytes | None = None


@dataclass(frozen=True)
class Case:
    """One user: what they did, what they did next, and what was recommended.

    Attributes:
        user: the user's id.
        history: events, oldest first.
        target: the event that was hidden.
        recommended: recommendations, best first.
        earlier: number of older events that are left out of `history`.
    """

    user: str
    history: Sequence[Shown]
    target: Shown
    recommended: Sequence[Shown] = field(default=())
    earlier: int = 0


def write_page(
    path: Path, title: str, runs: Sequence[RunSummary], cases: Sequence[Case], lead: str = ""
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: the HTML file.
        title: heading of the page.
        runs: columns of the table of test metrics; their curves follow.
        cases: users to show.
        lead: a sentence below the heading, such as the size of the data.
    """
    sections = [_metrics(runs), _curves(runs), _cases(cases)]
    write_document(path, title, lead, sections)


def write_document(path: Path, title: str, lead: str, sections: Sequence[str]) -> None:
    """Write a page in the common style that needs nothing from elsewhere, whole or not at all.

    Args:
        path: the HTML file.
        title: heading of the page.
        lead: a sentence below the heading; may be empty.
        sections: HTML of its parts; empty ones are left out.
    """
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{escape(title)}</h1>\n"
        + (f'<p class="lead">{escape(lead)}</p>\n' if lead else "")
        + "</header>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )
    write_text(path, text)


def _metrics(runs: Sequence[RunSummary]) -> str:
    if not runs:
        return ""
    names = list(dict.fromkeys(name for run in runs for name in run.test))
    head = "".join(f'<th scope="col">{escape(run.name)}</th>' for run in runs)
    rows = []
    for name in names:
        values = [run.test.get(name) for run in runs]
        best = max(value for value in values if value is not None)
        cells = "".join(_metric_cell(value, best) for value in values)
        rows.append(f'<tr><th scope="row">{escape(_metric_name(name))}</th>{cells}</tr>')
    for label, texts in (
        ("Parameters", [_number(run.parameters) for run in runs]),
        ("Seconds per epoch", [_number(run.seconds_per_epoch) for run in runs]),
    ):
        if any(texts):
            cells = "".join(f"<td>{text or '&ndash;'}</td>" for text in texts)
            rows.append(f'<tr class="cost"><th scope="row">{label}</th>{cells}</tr>')
    return (
        '<section aria-labelledby="metrics">\n<h2 id="metrics">Test metrics</h2>\n'
        '<p class="note">The last item of each user, ranked among all items. Bold: the best of a row.</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="metrics"><table>\n<thead><tr>'
        f'<th scope="col">Metric</th>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody>\n</table></div>\n"
        "</section>"
    )


def _metric_cell(value: float | None, best: float) -> str:
    if value is None:
        return "<td>&ndash;</td>"
    width = 100 * value / best if best > 0 else 0
    text = f"<strong>{value:.4f}</strong>" if value == best else f"{value:.4f}"
    return f'<td>{text}<span class="bar" aria-hidden="true"><i style="width:{width:.0f}%"></i></span></td>'


def _curves(runs: Sequence[RunSummary]) -> str:
    trained = [run for run in runs if run.curve]
    lines = []
    for run in trained:
        points = [(float(row["epoch"]), float(row["valid"].get(MONITOR, float("nan")))) for row in run.curve]
        best = max(range(len(points)), key=lambda index: points[index][1])
        lines.append(Line(run.name, points, best))
    chart = line_chart(lines, _describe_curves(lines), "epoch", _metric_name(MONITOR))
    if not chart:
        return ""
    figures = [_figure(chart, f"Validation {_metric_name(MONITOR)}; a dot marks the best epoch")]
    for run in trained:
        terms = list(dict.fromkeys(name for row in run.curve for name in row["losses"]))
        losses = [
            Line(term, [(float(row["epoch"]), float(row["losses"].get(term, "nan"))) for row in run.curve])
            for term in terms
        ]
        chart = line_chart(
            losses, f"Training losses of {run.name} by epoch: {', '.join(terms)}.", "epoch", "loss"
        )
        if chart:
            figures.append(_figure(chart, f"Training losses of {run.name}"))
    body = "\n".join(figures)
    return (
        '<section aria-labelledby="curves">\n<h2 id="curves">Training</h2>\n'
        f'<div class="figures">\n{body}\n</div>\n</section>'
    )


def _figure(chart: str, caption: str) -> str:
    return f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>"


def _describe_curves(lines: Sequence[Line]) -> str:
    best = [
        f"{line.name} is best at epoch {line.points[line.mark][0]:g} with {line.points[line.mark][1]:.4f}"
        for line in lines
        if line.mark is not None
    ]
    return f"Validation {_metric_name(MONITOR)} by epoch. {'; '.join(best)}."


def _cases(cases: Sequence[Case]) -> str:
    if not cases:
        return ""
    hits = sum(any(item.item_id == case.target.item_id for item in case.recommended) for case in cases)
    body = "\n".join(_case(case) for case in cases)
    return (
        '<section aria-labelledby="users">\n<h2 id="users">Recommendations</h2>\n'
        f'<p class="note">{len(cases)} users. The last item of each was hidden; '
        f"{hits} of {len(cases)} were found among the recommendations.</p>\n{body}\n</section>"
    )


def _case(case: Case) -> str:
    times = [item.time for item in case.history]
    gaps = [gap_in_words(before, after) for before, after in pairwise(times)]
    cards = [card(item, *gap) for item, gap in zip(case.history, [("", False), *gaps], strict=False)]
    gap, fresh = gap_in_words(times[-1] if times else None, case.target.time)
    recommended = []
    for rank, item in enumerate(case.recommended, start=1):
        hit = item.item_id == case.target.item_id
        recommended.append(card(item, f"#{rank}" + (" · hit" if hit else ""), hit=hit))
    events = len(case.history) + case.earlier
    earlier = f", the last {len(case.history)} shown" if case.earlier else ""
    return (
        f"<article>\n<h3>User {escape(case.user)}</h3>\n"
        f"<h4>History <small>{events} events{earlier}, oldest first</small></h4>\n<ol>{''.join(cards)}</ol>\n"
        f'<div class="answer">\n<div class="target"><h4>What came next</h4>\n'
        f"<ol>{card(case.target, gap, fresh)}</ol></div>\n"
        f"<div><h4>Recommended</h4>\n<ol>{''.join(recommended)}</ol></div>\n</div>\n</article>"
    )


def card(item: Shown, label: str = "", fresh: bool = False, hit: bool = False, details: str = "") -> str:
    """An item as an entry of a list.

    Args:
        item: what is shown.
        label: above it.
        fresh: whether another interest may have begun with it.
        hit: whether it is the answer.
        details: HTML below it.
    """
    source = data_uri(item.picture)
    picture = (
        f'<img src="{source}" alt="Picture of {escape(item.title)}" width="96" height="96" loading="lazy">'
        if source
        else '<span class="none" role="img" aria-label="no picture">no picture</span>'
    )
    kind = " ".join(name for name, given in (("fresh", fresh), ("hit", hit)) if given)
    date = ""
    if item.time is not None:
        day = datetime.fromtimestamp(item.time, UTC)
        date = f'<time datetime="{day:%Y-%m-%dT%H:%M:%SZ}">{day:%d %b %Y}</time>'
    return (
        f'<li class="{kind}"><span class="label">{escape(label)}</span>{picture}'
        f'<b>{escape(item.title)}</b><span class="dim">{escape(item.category)}</span>{date}{details}</li>'
    )


def gap_in_words(before: int | None, after: int | None) -> tuple[str, bool]:
    """The time between two events in words, and whether it is long enough for another interest."""
    if before is None or after is None:
        return "", False
    seconds = after - before
    for size, name in ((7 * 86_400, "week"), (86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= (2 * size if name == "week" else size):
            count = round(seconds / size)
            return f"{count} {name}{'s' * (count != 1)} later", seconds >= _NEW_THREAD_SECONDS
    return "same moment", False


def _metric_name(name: str) -> str:
    kind, at, cut = name.partition("@")
    return f"{_NAMES.get(kind, kind)}{at}{cut}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
