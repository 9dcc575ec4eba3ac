"""The rules against slow versions: what is kept, what is learned, and what a history may hold."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hm4sr.data.batches import history_windows, training_windows
from hm4sr.data.dataset import EventLog
from hm4sr.data.interactions import Interactions
from hm4sr.data.prepare import PrepareConfig, prepare
from hm4sr.data.rules import Kept, Rules, apply_rules
from hm4sr.data.split import history_ends
from hm4sr.errors import UserError

EVENTS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 30)), min_size=3, max_size=60
)
LEAST = st.integers(1, 3)
COLD = st.sampled_from(["keep", "drop"])
QUICK = settings(max_examples=80)
Row = tuple[int, int, int]


def apply(rows: list[Row], **rules: object) -> Kept:
    users, items, ticks = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    log = Interactions(users.astype(np.int32), items.astype(np.int32), ticks)
    ids = pl.Series([f"{n:02}" for n in range(10)])
    settings = {"min_user_events": 1, "min_item_events": 1, **rules}
    return apply_rules(log, ids, ids, 1, Rules.parse(settings, "test"), {}, Path("log.csv"))


def moment(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()


def rows_of(kept: Kept, part: int | None = None) -> list[Row]:
    rows = zip(
        kept.user_ids.gather(kept.log.users).cast(pl.Int64),
        kept.item_ids.gather(kept.log.items).cast(pl.Int64),
        kept.log.ticks.tolist(),
        strict=True,
    )
    return [row for row, where in zip(rows, kept.parts.tolist(), strict=True) if part in (None, where)]


def event_log(kept: Kept) -> EventLog:
    ends = history_ends(kept.log.users, kept.parts)
    starts = np.concatenate([[0], np.cumsum(ends["events"])])
    return EventLog(
        kept.log.items + np.int32(1),
        kept.log.ticks,
        starts,
        starts[:-1] + ends["train_end"],
        starts[:-1] + ends["valid_end"],
    )


def core(rows: list[Row], min_user: int, min_item: int) -> list[Row]:
    while True:
        users, items = [row[0] for row in rows], [row[1] for row in rows]
        left = [row for row in rows if users.count(row[0]) >= min_user and items.count(row[1]) >= min_item]
        if left == rows:
            return rows
        rows = left


@QUICK
@given(EVENTS, LEAST, LEAST, COLD, COLD, st.integers(1, 15), st.integers(1, 15))
def test_a_global_split_is_its_slow_version(rows, min_user, min_item, users, items, valid, width):
    test = valid + width
    rules = {"min_user_events": min_user, "min_item_events": min_item, "duplicates": "keep"}
    cold = {"cold_users": users, "cold_items": items}
    train = core([row for row in rows if row[2] < valid], min_user, min_item)
    known = [{row[column] for row in train} for column in (0, 1)]
    later = [
        row
        for row in rows
        if row[2] >= valid
        and (users == "keep" or row[0] in known[0])
        and (items == "keep" or row[1] in known[1])
    ]
    expected = [
        train,
        [row for row in later if row[2] < test],
        [row for row in later if row[2] >= test],
    ]
    dates = {"valid_from": moment(valid), "test_from": moment(test)}
    if not all(expected):
        with pytest.raises(UserError):
            apply(rows, split="global-time", **dates, **rules, **cold)
        return
    kept = apply(rows, split="global-time", **dates, **rules, **cold)
    for part in range(3):
        assert sorted(rows_of(kept, part)) == sorted(expected[part])
    assert len(kept.log) + sum(kept.removed.values()) == len(rows)


@QUICK
@given(EVENTS, EVENTS, LEAST, LEAST, st.sampled_from(["event", "pair"]))
def test_what_is_learned_does_not_depend_on_what_comes_later(rows, other, least, items, duplicates):
    rules = {
        "split": "global-time",
        "valid_from": moment(15),
        "test_from": moment(25),
        "min_user_events": least,
        "min_item_events": items,
        "duplicates": duplicates,
        "cold_items": "keep",
    }
    # Nine rows that every core keeps, and one in each later part.
    lasting = [*((user, item, 0) for user in (7, 8, 9) for item in (7, 8, 9)), (9, 5, 16), (9, 6, 26)]
    before = [row for row in rows if row[2] < 15]
    first, second = (
        apply([*lasting, *before, *(row for row in later if row[2] >= 15)], **rules)
        for later in (rows, other)
    )
    assert rows_of(first, 0) == rows_of(second, 0)


@QUICK
@given(EVENTS, st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_shares_are_reached_and_seconds_never_divided(rows, valid_share, test_share):
    assume(valid_share + test_share < 0.9)
    try:
        kept = apply(
            rows, split="global-time", duplicates="keep", valid_share=valid_share, test_share=test_share,
            cold_users="keep", cold_items="keep",
        )  # fmt: skip
    except UserError:
        assume(False)
    moments = kept.moments
    seconds = np.array([row[2] for row in rows])
    assert (seconds >= moments.test).sum() >= round(len(rows) * test_share)
    assert (seconds > moments.test).sum() < max(1, round(len(rows) * test_share))
    assert kept.log.ticks[kept.parts == 0].max() < moments.valid <= kept.log.ticks[kept.parts == 1].min()
    assert kept.log.ticks[kept.parts == 1].max() < moments.test <= kept.log.ticks[kept.parts == 2].min()


@QUICK
@given(
    EVENTS,
    LEAST,
    LEAST,
    st.sampled_from(["file", "hash"]),
    st.sampled_from(["leave-one-out", "global-time"]),
    COLD,
    st.booleans(),
)
def test_no_history_holds_a_later_event(rows, min_user, min_item, ties, split, cold, parallel):
    rules = {"min_user_events": min_user, "min_item_events": min_item, "ties": ties, "cold_items": cold}
    if split == "global-time":
        rules |= {"cold_users": cold, "valid_from": moment(15), "test_from": moment(25)}
    try:
        kept = apply(rows, split=split, **rules)
    except UserError:
        assume(False)
    log = event_log(kept)
    parts = np.full(log.num_events, -1)
    for number, part in enumerate(("train", "valid", "test")):
        assert (parts[log.targets(part)] == -1).all()  # disjoint
        parts[log.targets(part)] = number
    assert (parts == kept.parts).all()
    for part in ("valid", "test"):
        targets = log.targets(part)
        windows = history_windows(log, targets, 50)
        for start, length, target, user in zip(
            windows.starts, windows.lengths, targets, windows.users, strict=True
        ):
            assert start + length == target
            assert start == log.starts[user]  # all that the user did before, of whatever part
            assert (log.times[start:target] <= log.times[target]).all()
    windows = training_windows(log, 5, parallel)
    learned = {
        event for s, n in zip(windows.starts, windows.lengths, strict=True) for event in range(s, s + n + 1)
    }
    assert (kept.parts[sorted(learned)] == 0).all()
    if split == "global-time":
        assert (log.times[sorted(learned)] < 15).all()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("split", ["leave-one-out", "global-time"])
def test_tables_are_the_same_to_the_byte_for_shuffled_rows_with_hash_ties(tmp_path, kind, split):
    rng = np.random.default_rng(7)
    log = pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in rng.integers(0, 40, 900)],
            "item_id": [f"i{n}" for n in rng.integers(0, 30, 900)],
            "timestamp": 1_400_000_000 + 86_400 * rng.integers(0, 12, 900),  # many ties, some duplicates
        }
    )
    items = tmp_path / "items.csv"
    pl.DataFrame({"item_id": [f"i{n}" for n in range(30)]}).write_csv(items)
    prepared = []
    for number, rows in enumerate((log, log.sample(fraction=1, shuffle=True, seed=1), log.reverse())):
        path = tmp_path / f"log{number}.{kind}"
        rows.write_csv(path) if kind == "csv" else rows.write_parquet(path)
        for ties in ("hash", "file"):
            config = PrepareConfig(ties=ties, split=split)
            prepared.append((ties, prepare(path, items, tmp_path / f"{number}-{ties}", config)))
    hashed = [data for ties, data in prepared if ties == "hash"]
    assert all(data.hashes == hashed[0].hashes for data in hashed)
    for data in hashed:  # the rest of the manifest too, but for the hash of the file itself
        assert data.manifest | {"sources": None} == hashed[0].manifest | {"sources": None}
    in_file_order = [data.hashes["events.parquet"] for ties, data in prepared if ties == "file"]
    assert len(set(in_file_order)) == 3
