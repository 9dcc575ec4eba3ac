"""The popularity baseline on a log small enough to count by hand."""

import numpy as np
import pytest

from hm4sr.data.dataset import EventLog
from hm4sr.evaluation.popularity import rank_by_popularity

NUM_ITEMS = 5
# Train, validation and test of each user; the third user begins with a target, the last one has nothing else.
HISTORIES = [
    ([1, 1, 2], [5], [3]),
    ([1, 2, 3, 4], [1], [2]),
    ([], [2], [5]),
    ([], [], [1]),
]


@pytest.fixture
def log() -> EventLog:
    events = [item for parts in HISTORIES for part in parts for item in part]
    lengths = np.array([[len(part) for part in parts] for parts in HISTORIES])
    starts = np.concatenate([[0], np.cumsum(lengths.sum(1))])
    return EventLog(
        items=np.array(events, dtype=np.int32),
        times=np.arange(len(events), dtype=np.int64),
        starts=starts,
        train_end=starts[:-1] + lengths[:, 0],
        valid_end=starts[:-1] + lengths[:, :2].sum(1),
    )


def test_only_training_events_make_an_item_popular(log):
    assert log.train_counts(NUM_ITEMS).tolist() == [0, 3, 2, 1, 1, 0]


def test_items_as_popular_as_the_target_count_as_better(log):
    # Item 1 is first, 2 second; 3 and 4 share one event each, so that both are fourth; 5 is last.
    valid = rank_by_popularity(log, NUM_ITEMS, "valid")
    assert (valid.users.tolist(), valid.items.tolist()) == ([0, 1], [5, 1])
    assert valid.ranks.tolist() == [5, 1]
    test = rank_by_popularity(log, NUM_ITEMS, "test")
    assert (test.users.tolist(), test.items.tolist()) == ([0, 1, 2], [3, 2, 5])
    assert test.ranks.tolist() == [4, 2, 5]


def test_where_nothing_is_known_every_target_is_last(log):
    untrained = EventLog(log.items, log.times, log.starts, log.starts[:-1], log.starts[1:] - 1)
    assert rank_by_popularity(untrained, NUM_ITEMS, "test").ranks.tolist() == [NUM_ITEMS] * 3
