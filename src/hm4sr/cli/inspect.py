"""`hm4sr inspect`: what is in a prepared data set, at a glance."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hm4sr.errors import UserError

if TYPE_CHECKING:
    from hm4sr.experiments.facts import Facts

_HEIGHT = 6
_BLOCKS = " ▁▂▃▄▅▆▇█"
_QUANTILES = {"least": 0, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95, "most": 100}


@click.command("inspect")
@click.argument("dataset", type=Path)
@click.option("--html", type=Path, metavar="FILE", help="Write a page with plots and sample pictures too.")
@click.option("--force", is_flag=True, help="Replace the file that --html names.")
def command(dataset: Path, html: Path | None, force: bool) -> None:
    """Show what is in a prepared data set, and what to look at twice.

    Figures of users, items and parts, when things happened, how long histories are, how much the most popular
    items take, what items have of text, pictures and vectors, and warnings.
    """
    from hm4sr.data.dataset import Dataset
    from hm4sr.experiments.facts import collect
    from hm4sr.experiments.facts_page import write_facts
    from hm4sr.experiments.findings import findings

    if html:
        _check_page(html, force)
    opened = Dataset.open(dataset)
    facts = collect(opened)
    found = findings(facts)
    _show(facts)
    for finding in found:
        click.echo(f"{finding.level}: {finding.text}")
    if html:
        write_facts(html, opened, facts, found)
        click.echo(f"page written to {html}")


def _check_page(html: Path, force: bool) -> None:
    if not html.parent.is_dir() or not os.access(html.parent, os.W_OK):
        raise UserError(f"{html.parent} is not a folder that takes files: choose another --html.")
    if html.is_dir():
        raise UserError(f"{html} is a folder: give the name of a file with --html.")
    if html.exists() and not force:
        raise UserError(f"{html} exists already: add --force to replace it, or choose another --html.")


def _show(facts: "Facts") -> None:
    import numpy as np

    from hm4sr.cli.output import print_table
    from hm4sr.experiments.facts import PARTS, gini, head_share
    from hm4sr.experiments.facts_page import day

    click.echo(
        f"{facts.name}: {facts.num_users:,} users, {facts.num_items:,} items, {facts.num_events:,} actions\n"
        f"  {facts.num_events / facts.num_users:.2f} actions a user, "
        f"{facts.num_events / facts.num_items:.2f} an item, sparsity {facts.sparsity:.2%}"
    )
    rows = []
    for part in PARTS:
        about = facts.parts[part]
        counts = [f"{about.events:,}", f"{about.users:,}", f"{about.repeated:,}", f"{about.cold:,}"]
        rows.append([part, *counts, day(about.first), day(about.last)])
    print_table(["part", "actions", "users", "had before", "item not in train", "first", "last"], rows)
    bins = facts.times.bins.sum(0).tolist()
    click.echo(f"Actions in 30 equal intervals of time, at most {max(bins):,}")
    for line in columns(bins, _HEIGHT, _can_print(_BLOCKS)):
        click.echo(f"  {line}")
    first, last = day(facts.times.first), day(facts.times.last)
    click.echo(f"  {first}{last:>{max(2 * len(bins) - len(first), len(last) + 1)}}")
    quantiles = [
        [what, *(f"{value:,.0f}" for value in np.percentile(counts, list(_QUANTILES.values())))]
        for what, counts in (("of a user", facts.lengths), ("of an item", facts.item_events))
    ]
    print_table(["actions", *_QUANTILES], quantiles)
    shares = ", ".join(f"{p} %: {head_share(facts.item_events, p / 100):.0%}" for p in (1, 10, 20))
    click.echo(f"Actions of the most popular items: {shares}; Gini {gini(facts.item_events):.2f}")
    click.echo(f"Actions at the same time as another one of their user: {facts.tied / facts.num_events:.1%}")
    covered = [[row.name, f"{row.items:.1%}", f"{row.events:.1%}"] for row in facts.coverage]
    print_table(["coverage", "of items", "of actions"], covered)


def columns(counts: Sequence[int], height: int, blocks: bool) -> list[str]:
    """A bar chart of upright bars, two characters wide, in lines from the top down.

    Args:
        counts: height of each bar.
        height: lines of the highest one.
        blocks: draw with blocks in eighths of a line, otherwise with #.
    """
    steps = len(_BLOCKS) - 1 if blocks else 1
    # Anything above zero is visible, so that "none" and "few" differ.
    eighths = [-(-count * height * steps // max(max(counts), 1)) for count in counts]
    marks = _BLOCKS if blocks else " #"
    return [
        "".join(2 * marks[min(max(size - line * steps, 0), steps)] for size in eighths).rstrip()
        for line in reversed(range(height))
    ]


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
