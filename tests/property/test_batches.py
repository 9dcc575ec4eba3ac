"""Windows and batches against slow loops over the histories."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hm4sr.data.batches import (
    TrainingBatches,
    Windows,
    evaluation_batches,
    history_windows,
    make_batch,
    padded_lengths,
    training_windows,
)
from hm4sr.data.dataset import EventLog

# For each user: training events, validation events, test events.
USERS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12)
MAX_LENGTHS = st.integers(1, 12)


def make_log(users: list[tuple[int, int, int]]) -> EventLog:
    """Histories in which every event has an item number of its own, so that nothing can be confused."""
    counts = np.array([sum(user) for user in users])
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    num_events = int(starts[-1])
    train = np.array([user[0] for user in users])
    valid = np.array([user[1] for user in users])
    return EventLog(
        items=np.arange(1, num_events + 1, dtype=np.int32),
        times=1_400_000_000 + np.arange(num_events, dtype=np.int64) * 1_000,
        starts=starts,
        train_end=starts[:-1] + train,
        valid_end=starts[:-1] + train + valid,
    )


def training_targets(log: EventLog) -> list[int]:
    """Every training event of a user but the first."""
    return [
        event for u in range(log.num_users) for event in range(int(log.starts[u]) + 1, int(log.train_end[u]))
    ]


def learned_events(windows: Windows) -> list[int]:
    """The event that each learned position predicts."""
    return sorted(
        int(start) + position + 1
        for start, length, first in zip(windows.starts, windows.lengths, windows.first_target, strict=True)
        for position in range(int(first), int(length))
    )


@given(USERS, MAX_LENGTHS, st.booleans(), st.data())
def test_every_training_target_is_learned_exactly_once(users, max_length, parallel, data):
    context = data.draw(st.integers(0, max_length - 1))
    log = make_log(users)
    windows = training_windows(log, max_length, parallel, context)
    assert learned_events(windows) == training_targets(log)
    for start, length, first, user in zip(
        windows.starts, windows.lengths, windows.first_target, windows.users, strict=True
    ):
        assert 1 <= length <= max_length
        assert 0 <= first < length
        assert log.starts[user] <= start
        assert start + length < log.train_end[user]  # the last target is a training event too


@given(USERS, MAX_LENGTHS)
def test_a_prefix_window_ends_before_its_one_target_and_is_as_long_as_can_be(users, max_length):
    log = make_log(users)
    windows = training_windows(log, max_length, parallel=False)
    assert (windows.targets == 1).all()
    target = windows.starts + windows.lengths
    known = target - log.starts[windows.users]
    assert (windows.lengths == np.minimum(known, max_length)).all()


@given(USERS, MAX_LENGTHS, st.data())
def test_windows_after_the_first_repeat_the_context(users, max_length, data):
    context = data.draw(st.integers(0, max_length - 1))
    log = make_log(users)
    windows = training_windows(log, max_length, True, context)
    for user in range(log.num_users):
        mine = np.flatnonzero(windows.users == user)
        mine = mine[np.argsort(windows.starts[mine])]
        targets = max(int(log.train_end[user] - log.starts[user]) - 1, 0)
        stride = max_length - context
        expected = 0 if not targets else 1 + max(0, -(-(targets - max_length) // stride))
        assert len(mine) == expected
        if expected:
            oldest = mine[0]
            assert windows.first_target[oldest] == 0
            assert windows.starts[oldest] == log.starts[user]
            assert (windows.first_target[mine[1:]] == context).all()
            assert (windows.lengths[mine[1:]] == max_length).all()


@given(USERS, MAX_LENGTHS, st.booleans(), st.integers(0, 3), st.integers(1, 50))
def test_an_epoch_feeds_every_target_once_and_no_future(users, max_length, parallel, context, size):
    log = make_log(users)
    context = min(context, max_length - 1)
    batches = TrainingBatches(log, training_windows(log, max_length, parallel, context), size)
    seen = []
    for windows in batches.epoch(np.random.default_rng(1)):
        batch = make_batch(log, windows)
        items, targets = batch.items.numpy(), batch.targets.numpy()
        assert windows.lengths.max() <= items.shape[1] <= max_length
        assert items.shape[1] in padded_lengths(int(batches.windows.lengths.max()))
        learned = targets > 0
        assert (items[learned] > 0).all()
        # Items are numbered by event: the target is the event right after its input.
        assert (targets[learned] == items[learned] + 1).all()
        allowed = log.train_end[batch.users.numpy()][:, None]  # item number i is event i - 1
        assert (items <= allowed).all()
        assert (targets <= allowed).all()
        seen += (targets[learned] - 1).tolist()
    assert sorted(seen) == training_targets(log)
    assert batches.num_targets == len(seen)


@given(USERS, MAX_LENGTHS, st.booleans(), st.integers(1, 60))
def test_a_batch_holds_at_most_the_wanted_targets_unless_one_window_is_larger(
    users, max_length, parallel, size
):
    log = make_log(users)
    batches = TrainingBatches(log, training_windows(log, max_length, parallel), size)
    for windows in batches.epoch(np.random.default_rng(2)):
        assert len(windows) > 0
        assert windows.targets.sum() <= 1.25 * max(size, windows.targets.max())  # a tiny rest joins in


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("context", [0, 10])
def test_batches_are_of_about_the_wanted_size(parallel, context):
    rng = np.random.default_rng(3)
    log = make_log([(int(n), 1, 1) for n in rng.geometric(0.1, 3_000) + 2])
    batches = TrainingBatches(log, training_windows(log, 50, parallel, context), 256)
    sizes = [int(windows.targets.sum()) for windows in batches.epoch(rng)]
    assert max(sizes) <= 1.25 * 256
    assert len(sizes) <= 1.35 * batches.num_targets / 256
    assert sum(size < 128 for size in sizes) <= 0.1 * len(sizes)


def test_few_widths_each_little_longer_than_the_one_before():
    for max_length in range(1, 60):
        widths = padded_lengths(max_length)
        assert widths[0] == 1
        assert widths[-1] == max_length
        assert all(a < b <= max(a + 1, a * 5 / 4) for a, b in pairwise(widths))
    assert len(padded_lengths(50)) < 20


def order_of(batches: TrainingBatches, *seed: int) -> list[list[int]]:
    return [windows.starts.tolist() for windows in batches.epoch(np.random.default_rng(seed))]


@given(st.integers(0, 2**31), st.booleans())
def test_the_order_is_drawn_anew_every_epoch_and_repeats_with_the_seed(seed, parallel):
    log = make_log([(5 + user % 4, 1, 1) for user in range(40)])
    batches = TrainingBatches(log, training_windows(log, 8, parallel), 12)
    first, second = order_of(batches, seed, 1), order_of(batches, seed, 2)
    assert order_of(batches, seed, 1) == first
    assert first != second
    assert {tuple(sorted(group)) for group in first} != {tuple(sorted(group)) for group in second}


def test_rows_of_a_batch_are_of_like_length():
    rng = np.random.default_rng(3)
    log = make_log([(int(n), 1, 1) for n in rng.integers(2, 40, 400)])
    batches = TrainingBatches(log, training_windows(log, 50, True), 100)
    cells = sum(make_batch(log, windows).items.numel() for windows in batches.epoch(rng))
    assert cells < 1.15 * batches.num_targets


def slow_batch(log: EventLog, windows: Windows) -> dict[str, list[list[int]]]:
    width = windows.width or int(windows.lengths.max())
    rows: dict[str, list[list[int]]] = {"items": [], "times": [], "targets": []}
    for start, length, first in zip(windows.starts, windows.lengths, windows.first_target, strict=True):
        events = list(range(int(start), int(start + length)))
        padding = width - len(events)
        rows["items"].append([int(log.items[event]) for event in events] + [0] * padding)
        rows["times"].append([int(log.times[event]) for event in events + events[-1:] * padding])
        rows["targets"].append(
            [0 if i < first else int(log.items[event + 1]) for i, event in enumerate(events)] + [0] * padding
        )
    return rows


@given(USERS, MAX_LENGTHS, st.booleans(), st.integers(0, 3), st.booleans())
def test_make_batch_is_its_slow_loop(users, max_length, parallel, context, wide):
    log = make_log(users)
    windows = training_windows(log, max_length, parallel, min(context, max_length - 1))
    if not len(windows):
        return
    if wide:
        windows = windows.take(np.arange(len(windows)), max_length)
    batch = make_batch(log, windows)
    for name, rows in slow_batch(log, windows).items():
        tensor = getattr(batch, name)
        assert tensor.dtype == torch.int64
        assert tensor.tolist() == rows
    assert batch.lengths.tolist() == windows.lengths.tolist()
    assert batch.users.tolist() == windows.users.tolist()
    assert torch.equal(batch.valid.sum(1), batch.lengths)


@given(USERS, MAX_LENGTHS, st.integers(1, 5), st.sampled_from(["valid", "test"]))
def test_evaluation_sees_the_newest_events_before_each_target(users, max_length, batch_size, part):
    log = make_log(users)
    first, end = log.bounds(part)
    wanted = {
        int(event): list(range(max(int(log.starts[u]), int(event) - max_length), int(event)))
        for u in range(log.num_users)
        for event in range(int(first[u]), int(end[u]))
    }
    wanted = {event: history for event, history in wanted.items() if history}
    seen, widths = {}, []
    for windows in evaluation_batches(log, log.targets(part), max_length, batch_size):
        batch = make_batch(log, windows)
        assert 1 <= len(windows) <= batch_size
        widths.append(batch.items.shape[1])
        for row, length in enumerate(batch.lengths.tolist()):
            history = [item - 1 for item in batch.items[row, :length].tolist()]
            seen[history[-1] + 1] = history
            assert int(windows.users[row]) == int(log.users[history[-1] + 1])
    assert seen == wanted
    assert widths == sorted(widths, reverse=True)


@given(USERS, MAX_LENGTHS)
def test_history_windows_keep_the_order_of_their_targets(users, max_length):
    log = make_log(users)
    targets = log.targets("test")[::-1]
    windows = history_windows(log, targets, max_length)
    assert (windows.starts + windows.lengths == targets).all()
