"""The least a recommender must beat: the same list for everybody, most popular items first."""

import numpy as np
from numpy.typing import NDArray

from hm4sr.data.dataset import EventLog, Part
from hm4sr.evaluation.ranking import RankedTargets


def popularity(log: EventLog, num_items: int) -> NDArray[np.int64]:
    """Training events of each item row (row 0, padding, has none)."""
    return np.bincount(log.items[log.train_mask()], minlength=num_items + 1)


def rank_by_popularity(log: EventLog, num_items: int, part: Part) -> RankedTargets:
    """Rank every target by popularity; items as popular as the target count as better."""
    counts = popularity(log, num_items)[1:]
    targets = log.targets(part)
    items = log.items[targets].astype(np.int64)
    at_least_as_popular = len(counts) - np.searchsorted(np.sort(counts), counts, side="left")
    return RankedTargets(
        log.users[targets].astype(np.int64), items, at_least_as_popular[items - 1].astype(np.int64)
    )
