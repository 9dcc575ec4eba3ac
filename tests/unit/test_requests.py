"""From raw ids and moments to what a ranker reads, on a log small enough to see through."""

from types import SimpleNamespace

import numpy as np
import pytest

from hm4sr.data.dataset import EventLog
from hm4sr.errors import UserError
from hm4sr.serving.histories import LARGEST_SECOND, InventedTimes
from hm4sr.serving.recommender import invented_times
from hm4sr.serving.requests import Requests, Users, find_requests, joined, with_even_gaps

NUMBERS = {"a": 1, "b": 2, "c": 3}
INVENTED = InventedTimes(last=1_000, gap=10)
# u: a, b and c, the last two at once; v: b; w: nothing.
STARTS = np.array([0, 3, 4, 4])
LOG = EventLog(
    np.array([1, 2, 3, 2], dtype=np.int32), np.array([100, 200, 200, 50]), STARTS, STARTS[1:], STARTS[1:]
)
KNOWN = Users({"u": 0, "v": 1, "w": 2}, LOG, "data")


def find(users=None, histories=None, at_time=None) -> Requests:
    return find_requests(users, histories, at_time, KNOWN, NUMBERS, INVENTED)


def events(requests: Requests) -> list[list[tuple[int, int]]]:
    spans = zip(requests.starts, requests.ends, strict=True)
    log = requests.log
    return [list(zip(log.items[a:b].tolist(), log.times[a:b].tolist(), strict=True)) for a, b in spans]


# Moments


@pytest.mark.parametrize(
    ("moment", "kept"), [(99, 0), (100, 1), (199.999, 1), (200, 3), (200.999, 3), (99.999, 0), (10**9, 3)]
)
def test_an_event_at_the_moment_of_the_question_is_known(moment, kept):
    told = [("a", 100), ("b", 200), ("c", 200)]
    for requests in (
        find("u", at_time=moment),
        find(histories=told, at_time=moment),
        find("u", [[]], moment),
    ):
        assert events(requests) == [[(1, 100), (2, 200), (3, 200)][:kept]]
        assert requests.later.tolist() == [3 - kept]
        assert requests.asked.tolist() == [int(moment)]


def test_fractions_of_a_second_are_cut_off():
    assert events(find(histories=[("a", 5.999), ("b", -0.5)])) == [[(2, -1), (1, 5)]]
    assert find("u", at_time=-0.5).asked.tolist() == [-1]


def test_moments_end_where_they_would_be_milliseconds():
    last = LARGEST_SECOND - 1
    for moment in (last, -last):
        assert find("u", at_time=moment).asked.tolist() == [moment]
        assert events(find(histories=[("a", moment)])) == [[(1, moment)]]
    for moment in (LARGEST_SECOND, -LARGEST_SECOND):
        with pytest.raises(UserError, match="not milliseconds"):
            find("u", at_time=moment)
        with pytest.raises(UserError, match="not milliseconds"):
            find(histories=[("a", moment)])


def test_without_a_moment_the_question_is_asked_at_the_newest_of_the_data_or_of_the_history():
    assert find(["u", "w"]).asked.tolist() == [1_000, 1_000]
    assert find(histories=[[("a", 999)], [("a", 1_001)], []]).asked.tolist() == [1_000, 1_001, 1_000]
    assert find(["u", "v"], at_time=[7, 8]).asked.tolist() == [7, 8]


# Events without moments


def test_bare_ids_end_at_the_question_evenly_apart():
    assert events(find(histories=["a", "c", "b"])) == [[(1, 980), (3, 990), (2, 1_000)]]
    assert events(find(histories=["a", "c"], at_time=500.9)) == [[(1, 490), (3, 500)]]
    assert events(find(histories=["a", "nobody", "c"])) == [[(1, 990), (3, 1_000)]], (
        "unknown ones take no time"
    )


def test_bare_ids_follow_what_is_stored_and_do_not_go_beyond_the_question():
    assert events(find("v", ["c", "a"])) == [[(2, 50), (3, 60), (1, 70)]]
    requests = find("v", ["c", "a"], at_time=65)
    assert events(requests) == [[(2, 50), (3, 60), (1, 65)]]
    assert requests.later.tolist() == [0]
    assert events(find("w", ["c", "a"])) == [[(3, 990), (1, 1_000)]], "nothing is stored to follow"


def test_gaps_are_taken_from_training_and_the_newest_moment_from_all_events():
    # Gaps in training: 10, 20 and 40; before the later events: 1,000, 4,000 and 9,000.
    times = np.array([0, 10, 30, 1_030, 5_030, 100, 140, 9_140])
    starts = np.array([0, 5, 8])
    log = EventLog(np.ones(8, dtype=np.int32), times, starts, np.array([3, 7]), np.array([4, 7]))
    assert invented_times(SimpleNamespace(events=log)) == InventedTimes(last=9_140, gap=20)
    single = EventLog(np.ones(1, dtype=np.int32), np.array([7]), *(np.array(n) for n in ([0, 1], [1], [1])))
    assert invented_times(SimpleNamespace(events=single)) == InventedTimes(last=7, gap=0)
    nothing = np.zeros(0, dtype=np.int64)
    empty = EventLog(nothing.astype(np.int32), nothing, np.zeros(1, dtype=np.int64), nothing, nothing)
    assert invented_times(SimpleNamespace(events=empty)) == InventedTimes(last=0, gap=0)


# Order and unknown ids


def test_histories_are_put_in_order_and_what_happened_at_once_stays():
    told = [("c", 9), ("a", 5), ("b", 9), ("a", 9)]
    assert events(find(histories=told)) == [[(1, 5), (3, 9), (2, 9), (1, 9)]]
    assert events(find("u", [("a", 200), ("b", 150)])) == [[(1, 100), (2, 150), (2, 200), (3, 200), (1, 200)]]


def test_unknown_ids_are_told_once_in_the_given_order():
    requests = find(histories=[["z", "a", "y", "z"], ["b"], ["x"]])
    assert list(requests.unknown) == [("z", "y"), (), ("x",)]
    assert [len(history) for history in events(requests)] == [1, 1, 0]
    assert list(requests.names) == [1, 2, 3]
    assert requests.users.tolist() == [-1, -1, -1]
    timed = find(histories=[("z", 30), ("a", 10), ("y", 20), ("b", 5)])
    assert events(timed) == [[(2, 5), (1, 10)]]


def test_users_keep_their_names_and_numbers_in_the_order_asked_for():
    requests = find(["v", "u", "v"])
    assert (list(requests.names), requests.users.tolist()) == (["v", "u", "v"], [1, 0, 1])
    assert requests.seen(1).tolist() == [1, 2, 3]
    assert find(["v"], [["a"]]).users.tolist() == [1]


# What a model reads


def test_the_newest_events_are_read_and_the_others_remembered():
    padded = find(["u", "v"]).padded(np.array([0, 1]), 2)
    assert padded.items.tolist() == [[2, 3], [2, 0]]
    assert padded.times.tolist() == [[200, 200], [50, 50]]
    assert padded.lengths.tolist() == [2, 1]
    assert padded.earlier.tolist() == [[1], [0]]
    assert [seen.tolist() for seen in padded.seen()] == [[1, 2, 3], [2]]
    (whole,) = find(["u"]).padded(np.array([0]), 3).items.tolist()
    assert whole == [1, 2, 3]


def test_histories_are_joined_as_if_they_had_been_padded_together():
    requests = find(["v", "u"])
    together = requests.padded(np.array([0, 1]), 2)
    apart = joined([requests.padded(np.array([row]), 2) for row in (0, 1)])
    for name in ("items", "times", "lengths", "users", "asked", "earlier"):
        assert getattr(apart, name).tolist() == getattr(together, name).tolist(), name


def test_even_gaps_are_between_the_same_ends_in_whole_seconds():
    told = [
        [("a", 0), ("b", 7), ("c", 101)],
        [("a", 5)],
        [("a", 8), ("b", 8)],
        [("a", 10), ("b", 13), ("c", 20), ("a", 30)],
    ]
    requests = find(histories=told)
    even = with_even_gaps(requests.padded(np.arange(4), 9))
    assert even.times.tolist() == [[0, 50, 101, 101], [5, 5, 5, 5], [8, 8, 8, 8], [10, 16, 23, 30]]
    assert requests.evenly().padded(np.arange(4), 9).times.tolist() == even.times.tolist()
