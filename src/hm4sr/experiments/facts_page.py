"""The page of `hm4sr inspect --html`: figures, plots and sample items of a data set in one file."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np

from hm4sr.data.dataset import Dataset
from hm4sr.experiments.bars import Layer, bar_chart
from hm4sr.experiments.chart import Line, line_chart
from hm4sr.experiments.embed import data_uri
from hm4sr.experiments.facts import PARTS, Counts, Facts, gini, head_share, lorenz
from hm4sr.experiments.findings import Finding
from hm4sr.experiments.page import write_document

_NAMES = {"train": "train", "valid": "validation", "test": "test"}
_POPULAR, _RANDOM = 8, 16
_BARS = 24


def write_facts(path: Path, dataset: Dataset, facts: Facts, found: Sequence[Finding], seed: int = 0) -> None:
    """Write the page, whole or not at all.

    Args:
        path: the HTML file.
        dataset: where the sample items come from.
        facts: its figures.
        found: what to look at twice.
        seed: draws the sample items.
    """
    lead = (
        f"{facts.num_users:,} users, {facts.num_items:,} items, {facts.num_events:,} events "
        f"from {day(facts.times.first)} to {day(facts.times.last)}."
    )
    sections = [
        _findings(found),
        _figures(facts),
        _plots(facts),
        _coverage(facts),
        _samples(dataset, facts, seed),
    ]
    write_document(path, f"Data set {facts.name}", lead, sections)


def day(second: int | None) -> str:
    """The date (UTC) of a moment in seconds since 1970; beyond the calendar, the number itself."""
    if second is None:
        return "none"
    try:
        return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return f"{second:,} s"


def binned(counts: Counts) -> tuple[list[str], list[int]]:
    """A histogram of whole numbers: a bar each, or geometric intervals where they range widely.

    Returns:
        labels such as "5" or "8-11", and how many of `counts` lie in each interval.
    """
    low, high = int(counts.min()), int(counts.max())
    if high - low < _BARS:
        edges = np.arange(low, high + 2)
    else:
        edges = np.unique(np.geomspace(max(low, 1), high + 1, _BARS + 1).astype(np.int64))
        edges[0], edges[-1] = low, high + 1
    labels = [str(a) if b - a == 1 else f"{a}-{b - 1}" for a, b in pairwise(edges.tolist())]
    return labels, np.histogram(counts, edges)[0].tolist()


def _section(name: str, heading: str, body: str, note: str = "") -> str:
    told = f'<p class="note">{escape(note)}</p>\n' if note else ""
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{heading}</h2>\n{told}{body}\n</section>'


def _table(name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    head = f"<thead><tr>{titles}</tr></thead>\n" if header else ""
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}"><table>\n'
        f"{head}<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _findings(found: Sequence[Finding]) -> str:
    if not found:
        return _section("findings", "Findings", '<p class="note">Nothing to look at twice.</p>')
    rows = [
        [f"<strong>{finding.level}</strong>" if finding.level == "warning" else finding.level,
         f'<span style="white-space: normal; display: block; text-align: left">{escape(finding.text)}</span>']
        for finding in found
    ]  # fmt: skip
    return _section("findings", "Findings", _table("findings", [], rows))


def _figures(facts: Facts) -> str:
    rows = []
    for part in PARTS:
        about = facts.parts[part]
        share = f"{about.events / facts.num_events:.1%}"
        rows.append(
            [_NAMES[part], f"{about.events:,}", share, f"{about.users:,}", day(about.first), day(about.last)]
        )
    whole = [f"{facts.num_events:,}", "100.0%", f"{facts.num_users:,}", day(facts.times.first)]
    rows.append(["all", *whole, day(facts.times.last)])
    note = (
        f"{facts.num_events / facts.num_users:.2f} events a user, {facts.num_events / facts.num_items:.2f} "
        f"an item, sparsity {facts.sparsity:.2%}; split: {facts.rules.get('split', 'leave-one-out')}. "
        f"{facts.tied / facts.num_events:.1%} of the events share their time with another one of their user."
    )
    table = _table("figures", ["part", "events", "share", "users", "first", "last"], rows)
    return _section("figures", "Figures", table, note)


def _plots(facts: Facts) -> str:
    edges = np.linspace(facts.times.first, facts.times.last, facts.times.bins.shape[1] + 1)
    layers = [Layer(_NAMES[part], facts.times.bins[number].tolist()) for number, part in enumerate(PARTS)]
    peak = int(facts.times.bins.sum(0).argmax())
    charts = [
        bar_chart(
            layers,
            [day(int(edge))[:7] for edge in edges[:-1]],
            f"Events in 30 equal intervals of time; most from {day(int(edges[peak]))} on.",
            "first month of the interval",
            "events",
        )
    ]
    captions = ["Events in 30 equal intervals from the first to the last (as Figure 7 of the paper)"]
    for counts, what, per in ((facts.lengths, "users", "a user"), (facts.item_events, "items", "an item")):
        labels, heights = binned(counts)
        middle = f"median {np.median(counts):g}, mean {counts.mean():.1f}"
        charts.append(
            bar_chart([Layer(what, heights)], labels, f"{what} by events: {middle}", f"events of {per}", what)
        )
        captions.append(f"Events of {per}: {middle}, from {counts.min():,} to {counts.max():,}")
    points = lorenz(facts.item_events)
    lines = [Line("items", points), Line("if all were equal", [(0.0, 0.0), (100.0, 100.0)])]
    share = head_share(facts.item_events, 0.1)
    about = f"The most popular 10 % of the items have {share:.0%} of the events"
    about += f"; Gini {gini(facts.item_events):.2f}"
    charts.append(line_chart(lines, about, "% of the items, most popular first", "% of the events"))
    captions.append(about)
    figures = "\n".join(
        f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>"
        for chart, caption in zip(charts, captions, strict=True)
    )
    return _section("plots", "Distributions", f'<div class="figures">\n{figures}\n</div>')


def _coverage(facts: Facts) -> str:
    def cell(share: float) -> str:
        bar = f'<span class="bar" aria-hidden="true"><i style="width:{100 * share:.0f}%"></i></span>'
        return f"{share:.1%}{bar}"

    rows = [[escape(row.name), cell(row.items), cell(row.events)] for row in facts.coverage]
    table = _table("coverage", ["", "of the items", "of the events"], rows)
    note = "What items have; the second column counts each item as often as it occurs."
    return _section("coverage", "Coverage", table, note)


def _samples(dataset: Dataset, facts: Facts, seed: int) -> str:
    rng, order = np.random.default_rng(seed), np.argsort(-facts.item_events, kind="stable")
    rest = rng.permutation(order[_POPULAR:])[:_RANDOM]
    body = "".join(
        f"<h4>{heading}</h4>\n<ol>{''.join(_card(dataset, facts, int(row)) for row in rows)}</ol>\n"
        for heading, rows in (("Most popular", order[:_POPULAR]), ("Drawn at random", rest))
        if len(rows)
    )
    return _section("items", "Items", f"<article>\n{body}</article>")


def _card(dataset: Dataset, facts: Facts, row: int) -> str:
    item = dataset.items.row(row, named=True)
    title = item["title"] or item["item_id"]
    root = dataset.manifest["rules"].get("image_root")
    source = data_uri(Path(root or "", item["image"])) if item["image"] else ""
    picture = (
        f'<img src="{source}" alt="Picture of {escape(title)}" width="96" height="96" loading="lazy">'
        if source
        else '<span class="none" role="img" aria-label="no picture">no picture</span>'
    )
    return (
        f'<li><span class="label">{facts.item_events[row]:,} events</span>{picture}<b>{escape(title)}</b>'
        f'<span class="dim">{escape(" / ".join(item["categories"]))}</span></li>'
    )
