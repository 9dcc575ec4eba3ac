"""The best of many scores against a slow version: ties, limits, and what the history adds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hm4sr.errors import UserError
from hm4sr.serving.ranker import DotProductRanker, TableRanker
from hm4sr.serving.requests import PaddedHistories
from hm4sr.serving.search import Limits, best_of, best_of_items, best_of_table, merged

NUM_ITEMS = 24  # few enough allowed ones are searched alone
SEEDS = st.integers(0, 2**31)
NONE = np.zeros(0, dtype=np.int64)


def limits(blocked: list[int], allowed: list[int] | None = None) -> Limits:
    return Limits(np.array(blocked, dtype=np.int64), None if allowed is None else np.array(allowed))


def slow_best(scores: np.ndarray, k: int, limit: Limits) -> tuple[list[int], list[float]]:
    """Item numbers and scores, best first, ties by number, filled up."""
    allowed = range(1, len(scores)) if limit.allowed is None else limit.allowed.tolist()
    left = [item for item in allowed if item not in limit.blocked and item > 0]
    best = sorted(left, key=lambda item: (-scores[item], item))[:k]
    rest = k - len(best)
    return best + [0] * rest, [float(scores[item]) for item in best] + [-np.inf] * rest


def drawn_limits(rng: np.random.Generator, few: bool) -> Limits:
    blocked = rng.choice(NUM_ITEMS + 1, rng.integers(0, 6), replace=False)
    size = rng.integers(0, 7) if few else rng.integers(7, NUM_ITEMS)
    allowed = np.sort(rng.choice(np.arange(1, NUM_ITEMS + 1), size, replace=False))
    return Limits(np.sort(blocked), allowed)


@given(SEEDS, st.integers(1, 30))
def test_the_best_are_in_order_and_equal_scores_by_number(seed, k):
    rng = np.random.default_rng(seed)
    row = rng.integers(0, 5, NUM_ITEMS).astype(np.float32)
    row[rng.integers(0, NUM_ITEMS, 3)] = -np.inf
    expected = sorted(np.flatnonzero(row > -np.inf).tolist(), key=lambda place: (-row[place], place))
    assert best_of(row, k).tolist() == expected[:k]


def test_what_is_no_number_is_refused():
    row = np.array([0, 1, np.nan, 3, 4], dtype=np.float32)
    for k in (1, 5, 9):
        with pytest.raises(UserError, match="diverged"):
            best_of(row, k)


@given(SEEDS, st.integers(1, 30), st.booleans())
def test_a_table_is_searched_within_its_limits(seed, k, restricted):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 6, (4, NUM_ITEMS + 1)).astype(np.float32)
    table[:, 0] = 99  # padding
    some = [drawn_limits(rng, False) for _ in table]
    if not restricted:
        some = [Limits(limit.blocked) for limit in some]
    expected = [slow_best(row, k, limit) for row, limit in zip(table, some, strict=True)]
    numbers, scores = best_of_table(table.copy(), k, some)
    assert numbers.tolist() == [best for best, _ in expected]
    assert scores.tolist() == [values for _, values in expected]


@given(SEEDS, st.integers(1, 9), st.booleans())
def test_some_items_are_searched_alone_as_in_the_whole_table(seed, k, few):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (NUM_ITEMS + 1, 3)).astype(np.float32)
    vectors[0] = 99
    queries = rng.integers(-2, 3, (3, 3)).astype(np.float32)
    allowed = drawn_limits(rng, few).allowed
    some = [Limits(drawn_limits(rng, few).blocked, allowed) for _ in queries]
    numbers, scores = best_of_items(queries, vectors, k, some)
    expected = [slow_best(row, k, limit) for row, limit in zip(queries @ vectors.T, some, strict=True)]
    assert numbers.tolist() == [best for best, _ in expected]
    assert scores.tolist() == [values for _, values in expected]


def test_two_answers_are_merged_by_score_and_then_by_number():
    found = np.array([7, 2, 0]), np.array([3.0, 1.0, -np.inf])
    numbers, scores = merged(found, (np.array([9, 4, 1]), np.array([3.0, 3.0, 0.5], dtype=np.float32)))
    assert numbers.tolist() == [4, 7, 9]
    assert scores.tolist() == [3.0, 3.0, 3.0]
    with pytest.raises(UserError, match="diverged"):
        merged(found, (np.array([1]), np.array([np.nan], dtype=np.float32)))


# Items of the history, to whose scores something is added


def histories_of(*rows: list[int]) -> PaddedHistories:
    width = max(map(len, rows))
    items = np.array([row + [0] * (width - len(row)) for row in rows], dtype=np.int64)
    lengths = np.array([len(row) for row in rows])
    zeros = np.zeros(len(rows), dtype=np.int64)
    earlier = np.array([[5], [0]], dtype=np.int64)[: len(rows)]
    return PaddedHistories(items, np.zeros_like(items), lengths, zeros, zeros, earlier)


@pytest.mark.parametrize("bias", [0.0, 1.5, -1.5])
@pytest.mark.parametrize(
    "limit",
    [
        limits([]),
        limits([3, 5]),  # as if they were left out for having been seen
        limits([1, 7]),
        limits([], [2, 3, 5, 9]),
        limits([3], [3, 5]),
        limits([], [1, 2]),
        limits([], list(range(1, NUM_ITEMS + 1, 2))),
    ],
)
def test_what_is_added_for_items_of_the_history_respects_the_limits(bias, limit):
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((NUM_ITEMS + 1, 4)).astype(np.float32)
    histories = histories_of([3, 8, 3], [2])
    queries = rng.standard_normal((2, 4)).astype(np.float32)
    ranker = DotProductRanker(lambda _: queries.copy(), vectors, {}, seen_bias=bias)
    numbers, scores = ranker.top(histories, 6, [limit, limit])
    table = (queries @ vectors.T).astype(np.float64)
    table[0, [3, 5, 8]] += bias  # item 5 stands before what the model reads
    table[1, 2] += bias
    for row in range(2):
        best, values = slow_best(table[row], 6, limit)
        assert numbers[row].tolist() == best
        assert scores[row] == pytest.approx(values, abs=1e-5)
    given = ranker.scores(histories, np.array([5, 2, 3]))
    assert given == pytest.approx(table[:, [5, 2, 3]], abs=1e-5)


def test_lifts_are_above_the_mean_of_the_catalogue_without_padding():
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((NUM_ITEMS + 1, 4)).astype(np.float32)
    vectors[0] = 50
    queries = rng.standard_normal((2, 4)).astype(np.float32)
    ranker = DotProductRanker(lambda _: queries.copy(), vectors, {}, seen_bias=2.0)
    lifts = ranker.lifts(histories_of([3, 8], [2]), np.array([3, 4]))
    table = queries @ vectors.T
    expected = table[:, [3, 4]] - table[:, 1:].mean(axis=1, keepdims=True)
    expected[0, 0] += 2.0
    assert lifts == pytest.approx(expected, abs=1e-4)


def test_lifts_of_a_table_leave_its_padding_out_too():
    table = np.array([[-np.inf, 1.0, 2.0, 6.0], [-np.inf, 0.0, 0.0, 3.0]], dtype=np.float32)
    ranker = TableRanker(lambda _: table.copy(), np.zeros((4, 1), dtype=np.float32))
    histories, items = histories_of([1], [2]), np.array([3, 1])
    assert ranker.lifts(histories, items).tolist() == [[3.0, -2.0], [2.0, -1.0]]
    assert ranker.scores(histories, items).tolist() == [[6.0, 1.0], [3.0, 0.0]]
    numbers, scores = ranker.top(histories, 2, [limits([3]), limits([])])
    assert numbers.tolist() == [[2, 1], [3, 1]]
    assert scores.tolist() == [[2.0, 1.0], [3.0, 0.0]]


def test_nothing_is_found_among_nothing():
    table = np.ones((1, 4), dtype=np.float32)
    numbers, scores = best_of_table(table, 2, [limits([1, 2, 3])])
    assert numbers.tolist() == [[0, 0]]
    assert scores.tolist() == [[-np.inf, -np.inf]]
    assert best_of(np.full(3, -np.inf, dtype=np.float32), 2).tolist() == NONE.tolist()
