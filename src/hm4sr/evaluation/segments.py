"""Targets in groups: by history length, popularity of the item, cold items, and time since the event before.

The edges of the bins come from the data: quartiles of the targets, so that each bin holds about a quarter of
them and its figure is about as reliable as the others'. Where many targets share a value they stay together,
and there are fewer bins.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.data.dataset import EventLog, Part

FEW_EVENTS = 5
"""An item with fewer training events than this is called cold here, one with none is new."""
_BINS = 4
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True)
class Segment:
    """Some of the targets.

    Attributes:
        group: what they are grouped by.
        label: which of the group's bins this is.
        members: whether each target belongs to it.
    """

    group: str
    label: str
    members: NDArray[np.bool_]


def target_facts(log: EventLog, num_items: int, part: Part) -> pl.DataFrame:
    """What segments need to know about each target of a part that has an event before it.

    Columns: user, item, history (events before the target), popularity (training events of the item), gap
    (seconds since the event before). Sorted by user and item, an item that is several times a user's target
    in the order of time, as `Systems` has them.
    """
    targets = log.targets(part)
    users = log.users_of(targets)
    history = targets - log.starts[users]
    targets, users, history = (values[history > 0] for values in (targets, users, history))
    items = log.items[targets].astype(np.int64)
    columns = {
        "user": users.astype(np.int32),
        "item": items.astype(np.int32),
        "history": history.astype(np.int32),
        "popularity": log.train_counts(num_items)[items].astype(np.int32),
        "gap": log.times[targets] - log.times[targets - 1],
    }
    return pl.DataFrame(columns).sort("user", "item", maintain_order=True)


def segments(facts: pl.DataFrame) -> list[Segment]:
    """Cut targets into bins; within each group every target is in exactly one.

    Args:
        facts: the columns of `target_facts`, a row for each target, in the order of the ranks to be grouped.
    """
    history, seen, gap = (facts[name].to_numpy() for name in ("history", "popularity", "gap"))
    cold = {
        "in no training event": seen == 0,
        f"1 to {FEW_EVENTS - 1} training events": (seen > 0) & (seen < FEW_EVENTS),
        f"{FEW_EVENTS} or more training events": seen >= FEW_EVENTS,
    }
    return [
        *_binned("users by events before the target", history, _counts("event")),
        *_binned("items by training events", seen, _counts("training event")),
        *(Segment("cold items", label, members) for label, members in cold.items() if members.any()),
        *_binned("time since the event before", gap, _durations(gap)),
    ]


def quantile_bins(values: NDArray[np.int64], bins: int) -> list[NDArray[np.bool_]]:
    """Masks of at most `bins` bins of about equal size; equal values share a bin, and none is empty."""
    if not len(values):
        return []
    shares = np.arange(1, bins) / bins
    edges = np.unique(np.quantile(values, shares, method="inverted_cdf"))
    numbers = np.searchsorted(edges, values, side="left")
    return [numbers == number for number in np.unique(numbers)]


def _binned(group: str, values: NDArray[np.integer], label: Callable[[int, int], str]) -> list[Segment]:
    wide = values.astype(np.int64)
    return [
        Segment(group, label(int(wide[members].min()), int(wide[members].max())), members)
        for members in quantile_bins(wide, _BINS)
    ]


def _counts(noun: str) -> Callable[[int, int], str]:
    def label(low: int, high: int) -> str:
        numbers = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        return f"{numbers} {noun}{'s' * (high != 1)}"

    return label


def _durations(gaps: NDArray[np.integer]) -> Callable[[int, int], str]:
    """Labels in the largest unit of which the median of the gaps that are not 0 has two."""
    positive = gaps[gaps > 0]
    middle = float(np.median(positive)) if len(positive) else 0.0
    size, unit = next(((size, unit) for size, unit in _UNITS if middle >= 2 * size), _UNITS[-1])

    def label(low: int, high: int) -> str:
        numbers = [f"{round(value / size, 1):,g}" for value in (low, high)]
        if low == high == 0:
            return "same moment"
        return f"{' to '.join(dict.fromkeys(numbers))} {unit}s"

    return label
