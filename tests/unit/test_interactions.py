"""Order of what happened at once, numbers of items that cannot be, and the description."""

import re

import numpy as np
import polars as pl
import pytest

from hm4sr.data.dataset import Dataset, save_dataset
from hm4sr.data.interactions import Interactions, describe, order, tie_keys
from hm4sr.errors import UserError


def log_of(*rows: tuple[int, int, int]) -> Interactions:
    users, items, ticks = np.array(rows).T
    return Interactions(users.astype(np.int32), items.astype(np.int32), ticks.astype(np.int64))


def test_hash_ties_are_in_the_order_of_the_hash_and_not_of_the_items():
    names = pl.Series([f"item {number}" for number in range(20)])
    log = log_of(*((0, item, 7) for item in range(20)))
    keys = tie_keys(log, pl.Series(["u"]), names)
    by_hash = sorted(range(20), key=lambda row: int(keys[row]))
    assert order(log, keys).tolist() == by_hash != list(range(20))


def test_equal_hashes_leave_the_order_to_the_items():
    log = log_of((0, 3, 7), (0, 5, 6), (0, 3, 7), (0, 1, 7))
    alike = np.full(4, 9, dtype=np.uint64)
    assert log.items[order(log, alike)].tolist() == [5, 1, 3, 3]


def test_each_user_has_a_hash_order_of_its_own():
    names = pl.Series([f"item {number}" for number in range(20)])
    log = log_of(*((user, item, 7) for user in range(2) for item in range(20)))
    ordered = log.items[order(log, tie_keys(log, pl.Series(["u", "v"]), names))]
    assert ordered[:20].tolist() != ordered[20:].tolist()


def dataset_with(folder, items: list[int]) -> Dataset:
    """One user's events; the catalogue has items 1 and 2."""
    size = len(items)
    return save_dataset(
        folder,
        pl.DataFrame({"user": [0] * size, "item": items, "time": list(range(size))}),
        pl.DataFrame({"user_id": ["u"], "events": [size], "train_end": [1], "valid_end": [2]}),
        pl.DataFrame(
            {
                "item_id": ["a", "b"],
                "categories": [["x"], []],
                **dict.fromkeys(("title", "brand", "text", "image")),
            },
            schema_overrides=dict.fromkeys(("title", "brand", "text", "image"), pl.String),
        ),
        rules={},
        statistics={},
    )


def test_numbers_of_items_are_those_of_the_catalogue(tmp_path):
    log = dataset_with(tmp_path / "whole", [1, 2, 1]).events
    assert log.items.tolist() == [1, 2, 1]
    for wrong in (0, 3):
        data = dataset_with(tmp_path / f"wrong {wrong}", [1, 2, wrong])
        told = "events.parquet is not what `hm4sr prepare` writes (an item's number is not in items.parquet)"
        with pytest.raises(UserError, match=re.escape(told)):
            _ = data.events


def test_the_description_of_four_actions_by_hand():
    told = describe(2, 3, 3, np.array([1_405_296_000, 5, 1_405_296_001, 7]))  # one pair has two actions
    assert told == {
        "users": 2,
        "items": 3,
        "actions": 4,
        "actions_per_user": 2.0,
        "actions_per_item": 1.3333,
        "sparsity": 0.5,
        "first_time": 5,
        "last_time": 1_405_296_001,
        "first_date": "1970-01-01T00:00:05Z",
        "last_date": "2014-07-14T00:00:01Z",
    }
