"""Several systems on the same targets."""

import numpy as np
import polars as pl
import pytest

from hm4sr.errors import UserError
from hm4sr.evaluation.compare import Spread, Systems, number_repeats
from hm4sr.evaluation.metrics import Metric

HIT1, NDCG = Metric("hit", 1), Metric("ndcg", 10)


def table(ranks: list[int], users: list[int] | None = None, items: list[int] | None = None) -> pl.DataFrame:
    users = users or list(range(len(ranks)))
    columns = {"user": users, "item": items or users, "rank": ranks}
    rows = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Int32))
    other = rows.with_columns(pl.lit("valid").alias("part"), rank=1)
    return pl.concat([rows.with_columns(pl.lit("test").alias("part")), other])


def test_mean_and_sample_deviation_over_seeds():
    systems = Systems.align({"a": {1: table([1, 2]), 2: table([1, 1])}}, "test")
    spread = systems.spread("a", HIT1)
    assert (spread.mean, spread.deviation) == pytest.approx((0.75, 0.5**0.5 / 2))
    assert systems.spread("a", HIT1, np.array([False, True])).mean == 0.5
    assert Spread.of([0.3]).deviation is None


def test_rows_are_matched_by_user_and_item_in_any_order():
    first = table([1, 5, 9])
    shuffled = first.sample(fraction=1.0, shuffle=True, seed=2)
    systems = Systems.align({"a": {1: first}, "b": {1: shuffled}}, "test")
    assert np.array_equal(systems.ranks["a"][1], systems.ranks["b"][1])


def test_an_item_that_is_a_target_twice_keeps_the_order_of_time():
    users, items = [0, 0, 0, 1], [5, 3, 5, 5]
    tables = {
        name: {1: table(ranks, users, items)}
        for name, ranks in {"a": [9, 2, 1, 4], "b": [1, 2, 9, 4]}.items()
    }
    systems = Systems.align(tables, "test")
    assert (systems.users.tolist(), systems.items.tolist()) == ([0, 0, 0, 1], [3, 5, 5, 5])
    assert systems.ranks["a"][1].tolist() == [2, 9, 1, 4]
    assert systems.ranks["b"][1].tolist() == [2, 1, 9, 4]
    repeats = number_repeats(pl.DataFrame({"user": systems.users, "item": systems.items}))["repeat"]
    assert repeats.to_list() == [0, 0, 1, 0]


def test_other_targets_are_refused():
    with pytest.raises(UserError, match=r"b \(seed 3\) was judged on other test targets than a"):
        Systems.align({"a": {1: table([1, 2])}, "b": {3: table([1, 2], items=[0, 7])}}, "test")
    with pytest.raises(UserError, match="no ranks"):
        Systems.align({}, "test")


def test_improvement_is_over_the_strongest_rival():
    systems = Systems.align(
        {
            "ours": {1: table([1, 1, 1, 9])},
            "weak": {1: table([1, 9, 9, 9])},
            "strong": {1: table([1, 1, 9, 9])},
        },
        "test",
    )
    assert systems.best_first(HIT1) == ["ours", "strong", "weak"]
    assert systems.improvement("ours", HIT1) == ("strong", pytest.approx(0.5))
    assert systems.improvement("weak", HIT1) == ("ours", pytest.approx(-2 / 3))
    alone = Systems.align({"ours": {1: table([1, 2])}}, "test")
    assert alone.improvement("ours", HIT1) is None
    assert alone.tests("ours", [HIT1], np.random.default_rng(0)) == []


def test_a_rival_that_hits_nothing_gives_no_ratio():
    systems = Systems.align({"ours": {1: table([1])}, "none": {1: table([50])}}, "test")
    assert systems.improvement("ours", NDCG) is None


def test_tests_are_over_users_and_the_seeds_that_both_have():
    # One user has three targets: as a user, they count once.
    users = [0, 1, 2, 2, 2]
    items = [1, 1, 1, 2, 3]
    ours = {
        1: table([1, 1, 1, 9, 9], users, items),
        2: table([9, 9, 9, 9, 9], users, items),  # a seed that the rival lacks
    }
    rival = {1: table([9, 9, 9, 9, 9], users, items)}
    (test,) = Systems.align({"ours": ours, "rival": rival}, "test").tests(
        "ours", [HIT1], np.random.default_rng(0)
    )
    assert test.difference.mean == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert test.rival == "rival"


def test_a_user_s_value_is_the_mean_over_all_shared_seeds():
    ours = {1: table([1, 9]), 2: table([1, 1]), 3: table([9, 9])}
    rival = {1: table([9, 9]), 2: table([9, 9]), 4: table([1, 1])}
    (test,) = Systems.align({"ours": ours, "rival": rival}, "test").tests(
        "ours", [HIT1], np.random.default_rng(0)
    )
    # Seeds 1 and 2: our users have (1, 0) and (1, 1), the rival never.
    assert test.difference.mean == pytest.approx(0.75)


def test_without_a_shared_seed_each_system_has_all_of_its_own():
    tables = {"ours": {1: table([1, 1]), 2: table([1, 9])}, "rival": {3: table([9, 1]), 4: table([9, 9])}}
    (test,) = Systems.align(tables, "test").tests("ours", [HIT1], np.random.default_rng(0))
    assert test.difference.mean == pytest.approx((1 + 1 / 2) / 2 - (0 + 1 / 2) / 2)


def test_the_best_of_some_targets_may_not_be_the_best_of_all():
    tables = {
        "broad": {1: table([1, 1, 9])},
        "narrow": {1: table([9, 9, 1])},
        "like it": {1: table([9, 9, 1])},
    }
    systems = Systems.align(tables, "test")
    assert systems.best_first(HIT1) == ["broad", "narrow", "like it"]
    last = np.array([False, False, True])
    assert systems.best_first(HIT1, last) == ["narrow", "like it", "broad"]


def test_correction_covers_all_rivals_and_metrics():
    rng = np.random.default_rng(1)
    tables = {name: {1: table(rng.integers(1, 30, 200).tolist())} for name in ("ours", "a", "b", "c")}
    tests = Systems.align(tables, "test").tests("ours", [HIT1, NDCG], rng)
    assert [(test.rival, test.metric) for test in tests] == [
        (rival, metric) for rival in "abc" for metric in (HIT1, NDCG)
    ]
    least = min(tests, key=lambda test: test.difference.p_value)
    assert least.adjusted == pytest.approx(min(1.0, 6 * least.difference.p_value))


def test_a_clear_winner_is_significant():
    rng = np.random.default_rng(2)
    tables = {
        "ours": {1: table(rng.integers(1, 8, 300).tolist())},
        "rival": {1: table(rng.integers(1, 60, 300).tolist())},
    }
    systems = Systems.align(tables, "test")
    (won,) = systems.tests("ours", [NDCG], rng)
    (lost,) = systems.tests("rival", [NDCG], rng)
    assert won.adjusted < 0.001
    assert won.difference.mean > 0 > lost.difference.mean


@pytest.mark.parametrize("name", ["ndcg", "ndcg@0", "recall@5", "ndcg@x", "ndcg@-1"])
def test_names_of_metrics_are_checked(name):
    with pytest.raises(UserError, match=r"ndcg@10"):
        Metric.parse(name)


def test_metrics_have_names_for_readers():
    assert [Metric.parse(name).title for name in ("ndcg@10", "mrr@5", "hit@20")] == [
        "NDCG@10",
        "MRR@5",
        "Hit@20",
    ]
    assert str(Metric.parse("hit@20")) == "hit@20"
