"""The least a recommender must beat: the same list for everybody, most popular items first."""

import numpy as np

from hm4sr.data.dataset import EventLog, Part
from hm4sr.evaluation.ranking import RankedTargets


def rank_by_popularity(log: EventLog, num_items: int, part: Part) -> RankedTargets:
    """Rank every target by popularity; items as popular as the target count as better.

    The targets are those of `hm4sr.evaluation.ranking.rank_part`: a user's first event is none.
    """
    counts = log.train_counts(num_items)[1:]
    targets = log.targets(part)
    users = log.users_of(targets)
    known = targets > log.starts[users]
    targets, users = targets[known], users[known]
    items = log.items[targets].astype(np.int64)
    at_least_as_popular = len(counts) - np.searchsorted(np.sort(counts), counts, side="left")
    return RankedTargets(users, items, at_least_as_popular[items - 1].astype(np.int64))
