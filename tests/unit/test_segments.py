"""Groups of targets: facts against brute force, bins that partition."""

from collections import Counter
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_training import make_dataset

from hm4sr.data.dataset import EventLog
from hm4sr.evaluation.compare import Systems
from hm4sr.evaluation.segments import quantile_bins, segments, target_facts


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("segments") / "walks", lengths=(1, 12))


def test_facts_are_what_counting_by_hand_gives(dataset):
    log = dataset.events
    counts = Counter()
    for user in range(log.num_users):
        counts.update(log.items[log.starts[user] : log.train_end[user]].tolist())
    facts = target_facts(log, dataset.num_items, "test")
    expected = []
    for user in range(log.num_users):
        last = int(log.starts[user + 1]) - 1
        if last > log.starts[user]:  # a user of a single event has no history to go by
            item, gap = int(log.items[last]), int(log.times[last] - log.times[last - 1])
            expected.append((user, item, last - int(log.starts[user]), counts[item], gap))
    assert facts.rows() == expected
    assert len(expected) < log.num_users


def test_an_item_that_comes_back_is_described_each_time():
    items, times = [2, 1, 3, 1, 2, 1], [0, 10, 30, 60, 100, 150]
    ends = [np.array([end], dtype=np.int64) for end in (2, 3)]
    log = EventLog(np.array(items, np.int32), np.array(times), np.array([0, 6]), *ends)
    facts = target_facts(log, 3, "test")
    assert facts.select("item", "history", "gap").rows() == [(1, 3, 30), (1, 5, 50), (2, 4, 40)]
    ranked = pl.DataFrame({"user": [0] * 3, "item": [1, 2, 1], "rank": [7, 8, 9]}).with_columns(
        part=pl.lit("test")
    )
    systems = Systems.align({"a": {1: ranked}}, "test")
    assert systems.ranks["a"][1].tolist() == [7, 9, 8], "in the order of the facts"


def test_every_target_is_in_exactly_one_bin_of_each_group(dataset):
    facts = target_facts(dataset.events, dataset.num_items, "test")
    groups: dict[str, np.ndarray] = {}
    for segment in segments(facts):
        assert segment.members.any()
        groups[segment.group] = groups.get(segment.group, 0) + segment.members.astype(int)
    assert len(groups) == 4
    for times in groups.values():
        assert (times == 1).all()


def test_labels_say_what_is_inside():
    day = 86_400
    facts = pl.DataFrame(
        {
            "user": range(8),
            "item": range(8),
            "history": [4, 4, 5, 6, 7, 9, 20, 1200],
            "popularity": [0, 1, 4, 5, 6, 7, 8, 9],
            "gap": [0, 0, 0, 2 * day, 3 * day, 4 * day, 40 * day, 1000 * day],
        }
    )
    labels: dict[str, list[str]] = {}
    for segment in segments(facts):
        labels.setdefault(segment.group, []).append(segment.label)
    assert labels["users by events before the target"] == [
        "4 events",
        "5 to 6 events",
        "7 to 9 events",
        "20 to 1,200 events",
    ]
    assert labels["cold items"] == [
        "in no training event",
        "1 to 4 training events",
        "5 or more training events",
    ]
    assert labels["time since the event before"] == [
        "same moment",
        "2 days",
        "3 to 4 days",
        "40 to 1,000 days",
    ]


def facts_of(**columns: list[int]) -> pl.DataFrame:
    """Facts in which what is not given is the same for all targets."""
    size = len(next(iter(columns.values())))
    same = {"user": list(range(size)), "item": [1] * size, "history": [1] * size, "popularity": [9] * size}
    return pl.DataFrame({**same, "gap": [60] * size, **columns})


def labels_of(facts: pl.DataFrame, group: str) -> list[str]:
    return [segment.label for segment in segments(facts) if segment.group == group]


def test_an_item_of_few_events_is_cold_and_one_of_five_is_not():
    seen = [0, 0, 1, 4, 5, 5, 6]
    cold = {
        segment.label: np.flatnonzero(segment.members).tolist()
        for segment in segments(facts_of(popularity=seen))
        if segment.group == "cold items"
    }
    assert cold == {
        "in no training event": [0, 1],
        "1 to 4 training events": [2, 3],
        "5 or more training events": [4, 5, 6],
    }
    assert labels_of(facts_of(popularity=[1, 2]), "cold items") == ["1 to 4 training events"]


def test_one_event_is_no_plural():
    found = labels_of(facts_of(history=[1, 1, 2, 3, 3, 3, 4, 5]), "users by events before the target")
    assert found == ["1 event", "2 to 3 events", "4 to 5 events"]
    assert labels_of(facts_of(popularity=[0, 1]), "items by training events") == [
        "0 training events",
        "1 training event",
    ]
    thirds = labels_of(facts_of(history=[1, 2, 2, 3]), "users by events before the target")
    assert thirds == ["1 event", "2 events", "3 events"]
    assert labels_of(facts_of(history=[1, 3, 3, 3, 3, 3]), "users by events before the target")[0] == (
        "1 to 3 events"
    )


@pytest.mark.parametrize(
    ("gaps", "labels"),
    [
        ([0, 0, 0, 0, 0, 259_200], ["same moment", "3 days"]),  # moments that are the same say nothing of it
        ([7_200, 7_200], ["2 hours"]),
        ([7_199, 7_199], ["120 minutes"]),
        ([172_800, 172_800], ["2 days"]),
        ([119, 119], ["119 seconds"]),
        ([0, 0], ["same moment"]),
    ],
)
def test_gaps_are_told_in_the_largest_unit_of_which_the_middle_one_has_two(gaps, labels):
    assert labels_of(facts_of(gap=gaps), "time since the event before") == labels


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 6))
def test_bins_are_ordered_runs_of_whole_values(values, bins):
    array = np.array(values, dtype=np.int64)
    masks = quantile_bins(array, bins)
    assert 1 <= len(masks) <= bins
    assert (np.sum(masks, axis=0) == 1).all()
    parts = [array[mask] for mask in masks]
    for lower, upper in pairwise(parts):
        assert lower.max() < upper.min()


def test_distinct_values_give_bins_of_equal_size():
    masks = quantile_bins(np.random.default_rng(0).permutation(400), 4)
    assert [int(mask.sum()) for mask in masks] == [100] * 4
