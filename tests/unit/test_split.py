"""The two splits and the rules for cold users and items, from raw tables to a judged run."""

import tracemalloc
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from hm4sr.data.batches import TrainingBatches, TrainingWindows, training_windows
from hm4sr.data.dataset import Dataset, EventLog
from hm4sr.data.prepare import PrepareConfig, prepare
from hm4sr.data.split import Moments, choose_moments, parts_by_position
from hm4sr.errors import UserError
from hm4sr.evaluation.popularity import rank_by_popularity
from hm4sr.training.run import train_run
from hm4sr.training.settings import Experiment

DAY, START = 86_400, 1_400_000_000 // 86_400 * 86_400


@pytest.fixture
def make(tmp_path):
    def prepared(rows: list[tuple[str, str, int]], **rules: object) -> Dataset:
        """Rows of user, item and day."""
        log = pl.DataFrame(
            [(user, item, START + DAY * day) for user, item, day in rows],
            schema=["user_id", "item_id", "timestamp"],
            orient="row",
        )
        log.write_csv(tmp_path / "log.csv")
        log.select(pl.col("item_id").unique(maintain_order=True)).write_csv(tmp_path / "items.csv")
        config = PrepareConfig.parse({"min_user_events": 1, "min_item_events": 1, **rules}, "test")
        return prepare(tmp_path / "log.csv", tmp_path / "items.csv", tmp_path / "data", config, force=True)

    return prepared


def iso(day: int) -> str:
    return datetime.fromtimestamp(START + DAY * day, UTC).strftime("%Y-%m-%d")


ROWS = [
    ("old", "a", 0), ("old", "b", 1), ("old", "new item", 11), ("old", "a", 12), ("old", "b", 21),
    ("new", "a", 13), ("new", "b", 22), ("gone", "a", 2), ("gone", "b", 3),
]  # fmt: skip
GLOBAL = {"split": "global-time", "valid_from": iso(10), "test_from": iso(20)}


def histories(data: Dataset) -> dict[str, list[list[str]]]:
    """Items of each user's train, validation and test part."""
    log, ids = data.events, data.items["item_id"].to_list()
    bounds = zip(log.starts, log.train_end, log.valid_end, log.starts[1:], strict=False)
    parts = [
        [[ids[item - 1] for item in log.items[a:b]] for a, b in ((s, t), (t, v), (v, e))]
        for s, t, v, e in bounds
    ]
    return dict(zip(data.users["user_id"].to_list(), parts, strict=True))


def test_a_global_split_drops_cold_users_and_items_unless_told_otherwise(make):
    data = make(ROWS, **GLOBAL)
    assert histories(data) == {
        "gone": [["a", "b"], [], []],
        "old": [["a", "b"], ["a"], ["b"]],
    }
    statistics = data.manifest["statistics"]
    assert statistics["events_in"] == {"train": 4, "valid": 1, "test": 1}
    assert statistics["rows_removed"] == {
        "missing_items": 0, "duplicates": 0, "k_core": 0, "cold_users": 2, "cold_items": 1,
    }  # fmt: skip
    assert statistics["valid_from"] == iso(10) + "T00:00:00Z"
    data = make(ROWS, **GLOBAL, cold_users="keep", cold_items="keep")
    assert histories(data)["new"] == [[], ["a"], ["b"]]
    assert histories(data)["old"] == [["a", "b"], ["new item", "a"], ["b"]]


def test_leave_one_out_can_drop_cold_items(make):
    rows = [(user, item, day) for user in "uv" for day, item in enumerate("abc")] + [("u", "once", 9)]
    assert histories(make(rows))["u"] == [["a", "b"], ["c"], ["once"]]
    data = make(rows, cold_items="drop")
    assert histories(data) == {"u": [["a", "b"], [], []], "v": [["a"], ["b"], []]}
    assert "c" not in data.items["item_id"]
    assert data.manifest["statistics"]["rows_removed"]["cold_items"] == 3


def test_the_core_of_a_global_split_counts_training_events_alone(make):
    rows = [("u", "a", 0), ("u", "a", 1), ("v", "a", 2), ("v", "a", 11), ("u", "a", 12), ("u", "a", 21)]
    data = make(rows, **GLOBAL, min_user_events=2, duplicates="keep")
    assert histories(data) == {"u": [["a", "a"], ["a"], ["a"]]}


def test_moments_from_shares_and_dates():
    seconds = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert choose_moments(seconds, 0.2, 0.1) == Moments(7, 9)
    assert choose_moments(seconds, 0.2, 0.1, valid_from=datetime(1970, 1, 1, 0, 0, 2)) == Moments(2, 9)
    late = datetime.fromisoformat("1970-01-01T01:00:07.5+01:00")
    assert choose_moments(seconds, 0.3, 0.1, test_from=late) == Moments(6, 8)
    tied = np.array([0, 1, 1, 1, 2])
    assert choose_moments(tied, 0.3, 0.2) == Moments(1, 2)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"valid_share": 0.2}, "valid_share has an effect only under split = global-time"),
        ({"cold_users": "keep"}, "cold_users has an effect only under split = global-time"),
        ({**GLOBAL, "test_share": 0.2}, "test_share has no effect beside test_from"),
        ({**GLOBAL, "valid_from": iso(21)}, "leaves a part empty, since the interactions go from 2014-05-13"),
        ({**GLOBAL, "test_from": iso(99)}, "leaves a part empty"),
        ({**GLOBAL, "valid_from": "soon"}, "valid_from = 'soon' is not accepted"),
        ({"split": "global-time", "test_share": 1.0}, "test_share = 1.0 is not accepted"),
        ({"split": "global-time", "valid_share": 0.9, "test_share": 0.9}, "leaves a part empty"),
        ({**GLOBAL, "min_user_events": 3}, r"none is left to train on \(removed: k core 4\)"),
        ({**GLOBAL, "valid_from": iso(13), "test_from": iso(14), "min_user_events": 3}, "validation part"),
    ],
)
def test_mistakes_are_explained(make, rules, message):
    with pytest.raises(UserError, match=message) as caught:
        make(ROWS, **rules)
    assert "\n" not in str(caught.value)


def test_parts_by_position():
    users = np.repeat(np.arange(4, dtype=np.int32), [1, 2, 3, 5])
    assert parts_by_position(users).tolist() == [0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 2]


def test_a_run_on_a_global_split_ranks_every_target_that_has_a_history(make, tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:02}", f"i{item}", int(day))
        for user in range(30)
        for item, day in zip(rng.integers(0, 9, 12), rng.integers(0, 30, 12), strict=True)
    ]
    rows += [("only later", "i1", 25), ("only later", "i2", 26), ("only later", "i3", 29)]
    data = make(rows, split="global-time", valid_share=0.2, test_share=0.2, cold_users="keep")
    log = data.events
    counts = np.diff(np.stack([log.train_end, log.valid_end, log.starts[1:]]), axis=0)
    assert (counts > 1).any(axis=1).all()  # several targets of one user in both parts
    experiment = Experiment.build(
        {
            "data": {"path": str(data.path), "max_length": 6},
            "model": {"name": "sasrec", "dim": 8, "inner": 8},
            "train": {"epochs": 1},
        },
        "test",
    )
    ranks = train_run(experiment, tmp_path / "run").ranks()
    for part in ("valid", "test"):
        targets = log.targets(part)
        targets = targets[targets > log.starts[log.users_of(targets)]]
        ranked = ranks.filter(part=part)
        assert ranked["item"].to_list() == log.items[targets].tolist()
        assert ranked["user"].to_list() == log.users_of(targets).tolist()
        popular = rank_by_popularity(log, data.num_items, part)
        assert popular.items.tolist() == log.items[targets].tolist()


def test_what_a_data_set_says_about_training_uses_the_train_part_alone(make):
    data = make(ROWS, **GLOBAL, cold_users="keep", cold_items="keep")
    assert data.events.train_counts(data.num_items).tolist() == [0, 2, 2, 0]
    mask, first = data.events.train_mask(), data.events.starts[:-1]
    targets = [event for event in np.flatnonzero(mask) if event not in first]
    assert targets
    expected = np.bincount(data.events.items[targets], minlength=data.num_items + 1)
    assert data.events.target_counts(data.num_items).tolist() == expected.tolist()
    clock = data.events.clock()
    assert (clock.first, clock.last, clock.largest_gap) == (START, START + 3 * DAY, DAY)
    assert data.events.train_mask().tolist() == [True, True, False, False, True, True, False, False, False]


def large_log(num_users: int = 20_000, length: int = 10) -> EventLog:
    starts = np.arange(num_users + 1, dtype=np.int64) * length
    events = num_users * length
    return EventLog(
        np.ones(events, dtype=np.int32),
        np.zeros(events, dtype=np.int64),
        starts,
        starts[:-1] + length - 2,
        starts[:-1] + length - 1,
    )


@pytest.mark.parametrize(("parallel", "most"), [(True, 16.0), (False, 19.0)])
def test_loader_memory_for_each_event(parallel, most):
    tracemalloc.start()
    log = large_log()
    batches = TrainingBatches(log, TrainingWindows(log, 50, parallel), 256)
    epoch = batches.epoch(np.random.default_rng(0))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(int(windows.targets.sum()) for windows in epoch) == batches.num_targets
    assert kept / log.num_events <= most


def test_batches_can_be_sliced_and_read_twice():
    log = large_log(100)
    epoch = TrainingBatches(log, training_windows(log, 4, True), 32).epoch(np.random.default_rng(0))
    assert [windows.starts.tolist() for windows in epoch[2:5]] == [
        epoch[number].starts.tolist() for number in (2, 3, 4)
    ]
    with pytest.raises(IndexError):
        epoch[len(epoch)]
