import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hm4sr.data import interactions
from hm4sr.data.interactions import Interactions, deduplicate, k_core, leave_one_out, order, tie_keys
from hm4sr.data.prepare import PrepareConfig, prepare

EVENTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=40)
SIZES = st.integers(1, 4)
QUICK = settings(max_examples=60, deadline=None)


def log_of(rows):
    users, items, ticks = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Interactions(users.astype(np.int32), items.astype(np.int32), ticks)


def brute_force_core(rows, min_user, min_item):
    kept = list(range(len(rows)))
    while True:
        left = [
            row
            for row in kept
            if sum(rows[other][0] == rows[row][0] for other in kept) >= min_user
            and sum(rows[other][1] == rows[row][1] for other in kept) >= min_item
        ]
        if left == kept:
            return kept
        kept = left


@pytest.mark.parametrize("rounds", [0, 1, 50])
@QUICK
@given(rows=EVENTS, min_user=SIZES, min_item=SIZES)
def test_k_core_is_the_largest_fixpoint(rounds, rows, min_user, min_item):
    log = log_of(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactions, "_ROUNDS", rounds)
        mask = k_core(log.users, log.items, min_user, min_item)
    assert np.flatnonzero(mask).tolist() == brute_force_core(rows, min_user, min_item)
    rest = log.take(mask)
    assert k_core(rest.users, rest.items, min_user, min_item).all()


def test_a_chain_is_taken_apart_link_by_link():
    """Every user has two items, the first of which is the last one's second: one round a link."""
    users = np.repeat(np.arange(3_000, dtype=np.int32), 2)
    items = users + np.tile(np.array([0, 1], dtype=np.int32), 3_000)
    assert not k_core(users, items, 2, 2).any()
    items[-1] = 0  # a ring
    assert k_core(users, items, 2, 2).all()


@QUICK
@given(EVENTS)
def test_deduplicate_keeps_one_of_each(rows):
    log = log_of(rows)
    first_of_event = [row not in rows[:index] for index, row in enumerate(rows)]
    assert deduplicate(log, "event").tolist() == first_of_event
    kept = log.take(deduplicate(log, "pair"))
    earliest = {}
    for user, item, tick in rows:
        earliest[user, item] = min(tick, earliest.get((user, item), tick))
    found = zip(zip(kept.users.tolist(), kept.items.tolist(), strict=True), kept.ticks.tolist(), strict=True)
    assert sorted(found) == sorted(earliest.items())


@QUICK
@given(EVENTS, st.sampled_from([0, 1, 10**9, 2**60]))
def test_order_is_a_stable_sort(rows, spread):
    rows = [(user, item, tick * spread) for user, item, tick in rows]
    expected = sorted(range(len(rows)), key=lambda row: (rows[row][0], rows[row][2]))
    assert order(log_of(rows)).tolist() == expected


@QUICK
@given(EVENTS, st.randoms(use_true_random=False))
def test_hash_ties_do_not_depend_on_the_order_of_the_rows(rows, random):
    users, items = pl.Series([f"u{n}" for n in range(7)]), pl.Series([f"i{n}" for n in range(7)])
    shuffled = random.sample(rows, len(rows))
    first, second = log_of(rows), log_of(shuffled)
    first = first.take(order(first, tie_keys(first, users, items)))
    second = second.take(order(second, tie_keys(second, users, items)))
    assert first.users.tolist() == second.users.tolist()
    assert first.items.tolist() == second.items.tolist()
    assert first.ticks.tolist() == second.ticks.tolist()


@QUICK
@given(st.lists(st.integers(1, 100), min_size=1))
def test_splits_are_disjoint_and_exhaustive(lengths):
    events = np.array(lengths)
    train_end, valid_end = leave_one_out(events)
    assert (train_end >= 1).all()
    assert (valid_end - train_end == (events >= 3)).all()
    assert (events - valid_end == (events >= 3)).all()


@settings(max_examples=25, deadline=None)
@given(EVENTS, SIZES, SIZES, st.sampled_from(["event", "pair", "keep"]), st.sampled_from(["file", "hash"]))
def test_every_row_is_kept_or_removed_by_a_named_rule(
    tmp_path_factory, rows, min_user, min_item, duplicates, ties
):
    folder = tmp_path_factory.mktemp("prepare")
    lasting = [(99, 99, tick) for tick in range(4)]  # so that something is always left
    rows = [(f"u{user}", f"i{item}", 1_400_000_000 + tick) for user, item, tick in [*rows, *lasting]]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    log.write_parquet(folder / "log.parquet")
    log.select(pl.col("item_id").unique()).write_parquet(folder / "items.parquet")
    config = PrepareConfig(
        min_user_events=1 if duplicates == "pair" else min_user,
        min_item_events=1 if duplicates == "pair" else min_item,
        duplicates=duplicates,
        ties=ties,
    )
    data = prepare(folder / "log.parquet", folder / "items.parquet", folder / "out", config)

    statistics = data.manifest["statistics"]
    assert statistics["rows_read"] == len(rows)
    assert statistics["actions"] + sum(statistics["rows_removed"].values()) == len(rows)
    events = data.events
    users = data.users["user_id"].to_list()
    items = data.items["item_id"].to_list()
    kept = [
        (users[user], items[item - 1], time)
        for user, item, time in zip(
            events.users.tolist(), events.items.tolist(), events.times.tolist(), strict=True
        )
    ]
    left = list(rows)
    for row in kept:
        left.remove(row)  # fails for an event that was never there
    steps = np.diff(events.times)[np.diff(events.users) == 0]
    assert (steps >= 0).all()
    parts = np.zeros(events.num_events, dtype=int)
    for part in ("train", "valid", "test"):
        parts[events.targets(part)] += 1
    assert (parts == 1).all()
    assert users == sorted(users)
    assert items == sorted(items)
