"""TiCoSeRec's operators, its similarity and its lists of users against brute force, row by row."""

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contract.catalogs import SPRING, histories, small_catalog, small_model
from hm4sr.nn.histories import TargetIndex, item_neighbours, regular_users, vector_neighbours
from hm4sr.nn.time_views import TimedRows, crop, insert, mask, most_even_window, reorder, substitute
from hm4sr.types import Catalog, Histories, SeqBatch

HISTORY = st.lists(st.integers(0, 5), min_size=2, max_size=14)
"""Gaps after each event, so small that ties are frequent."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows_of(*gaps: list[int], extra: int = 0) -> TimedRows:
    """Rows of items 1, 2, 3, ...; `gaps[i]` lies between event i and the one after it."""
    width = max(map(len, gaps)) + extra
    items, times, after = (torch.zeros(len(gaps), width, dtype=torch.int64) for _ in range(3))
    for row, own in enumerate(gaps):
        points = SPRING + torch.tensor([0, *own]).cumsum(0)
        times[row], after[row] = points[-2], points[-2]
        items[row, : len(own)] = torch.arange(1, len(own) + 1)
        times[row, : len(own)], after[row, : len(own)] = points[:-1], points[1:]
    return TimedRows(items, times, after, torch.tensor([len(own) for own in gaps]))


def similar(items: torch.Tensor) -> torch.Tensor:
    return torch.where(items > 0, items + 100, 0)


def events(row: torch.Tensor) -> list[int]:
    return [int(item) for item in row if item > 0]


def even_window(times: list[int], size: int) -> int:
    """The latest window whose intervals vary least, its last event aside."""
    best, found = math.inf, 0
    for start in range(len(times) - size, -1, -1):
        points = times[start : start + size - 1]
        apart = [b - a for a, b in itertools.pairwise(points)]
        variance = statistics.pvariance(apart) if apart else 0.0
        if variance < best - 1e-9:
            best, found = variance, start
    return found


@given(HISTORY, st.floats(0.1, 0.99), st.integers(0, 3))
def test_crop_keeps_the_most_even_window(gaps, rate, extra):
    rows, n = rows_of(gaps, extra=extra), len(gaps)
    size = int(rate * n)
    kept = events(crop(rows, rate, generator())[0])
    if size <= 2:
        assert len(kept) == 1
        assert kept[0] <= n
        return
    start = even_window(rows.times[0, :n].tolist(), size)
    assert kept == list(range(start + 1, start + size + 1))


def test_one_event_of_a_short_history_may_be_any_of_it():
    rows = rows_of(*[[5, 9, 2]] * 200)
    kept = crop(rows, 0.7, generator())  # two of three would be too few for a window
    assert (kept[:, 1:] == 0).all()
    assert kept[:, 0].unique().tolist() == [1, 2, 3]


@given(HISTORY, st.floats(0.0, 0.99), st.integers(0, 3))
def test_reorder_shuffles_the_most_even_window(gaps, rate, extra):
    rows, n = rows_of(gaps, extra=extra), len(gaps)
    size = int(rate * n)
    start = even_window(rows.times[0, :n].tolist(), size) if size else 0
    orders = [events(reorder(rows, rate, generator(seed))[0]) for seed in range(8)]
    for order in orders:
        assert order[:start] == list(range(1, start + 1))
        assert sorted(order[start : start + size]) == list(range(start + 1, start + size + 1))
        assert order[start + size :] == list(range(start + size + 1, n + 1))
    assert size < 3 or len({tuple(order) for order in orders}) > 1


@given(HISTORY, st.floats(0.0, 0.99), st.booleans())
def test_mask_makes_holes(gaps, rate, largest_gaps):
    rows, n = rows_of(gaps, extra=2), len(gaps)
    masked = mask(rows, rate, generator(), largest_gaps)[0]
    holes = [place for place in range(n) if masked[place] == 0]
    assert len(holes) == int(rate * n)
    assert all(int(masked[place]) == place + 1 for place in range(n) if place not in holes)
    if largest_gaps:
        assert sorted(gaps[place] for place in holes) == sorted(gaps)[n - len(holes) :]


@given(HISTORY, st.floats(0.0, 0.99))
def test_substitute_replaces_where_the_next_event_comes_soonest(gaps, rate):
    rows, n = rows_of(gaps, extra=1), len(gaps)
    changed = substitute(rows, rate, generator(), similar)[0]
    new = [place for place in range(n) if changed[place] > 100]
    assert len(new) == max(int(rate * n), 1)
    assert sorted(gaps[place] for place in new) == sorted(gaps)[: len(new)]
    assert all(int(changed[place]) in (place + 1, place + 101) for place in range(n))
    assert int(changed[n]) == 0


@given(HISTORY, st.floats(0.0, 0.99))
def test_insert_adds_after_the_events_before_the_longest_times(gaps, rate):
    rows, n = rows_of(gaps, extra=1), len(gaps)
    longer = events(insert(rows, rate, generator(), similar)[0])
    added = [item - 101 for item in longer if item > 100]
    assert len(added) == max(int(rate * n), 1)
    assert sorted(gaps[place] for place in added) == sorted(gaps)[n - len(added) :]
    expected = []
    for place in range(n):
        expected += [place + 1, place + 101] if place in added else [place + 1]
    assert longer == expected


def test_a_row_does_not_depend_on_the_others_or_on_padding():
    gaps = [[5, 1, 9, 3, 3, 7, 2, 8], [4, 4], [1, 2, 3, 10, 11, 12, 13, 20, 26, 33, 41, 50]]
    for row, own in enumerate(gaps):
        size = torch.tensor([max(1, len(g) // 2) for g in gaps])
        alone = most_even_window(rows_of(own), size[row : row + 1])
        together = most_even_window(rows_of(*gaps, extra=3), size)
        assert int(alone[0]) == int(together[row])


def test_ties_are_broken_at_random():
    rows = rows_of([3, 3, 3, 3, 3, 3])
    chosen = {int((insert(rows, 0.1, generator(seed), similar)[0] > 100).nonzero()[0]) for seed in range(60)}
    assert len(chosen) == 6


def test_a_history_of_one_event_keeps_it():
    rows = rows_of([4], [2])
    for view in (
        crop(rows, 0.7, generator()),
        reorder(rows, 0.2, generator()),
        mask(rows, 0.9, generator(), False),
        substitute(rows, 0.1, generator(), similar),
    ):
        assert view[:, 0].tolist() == [1, 1]
    assert insert(rows, 0.5, generator(), similar).tolist() == [[1, 101], [1, 101]]


# What the training histories say


def some_histories(
    num_users: int = 12, num_items: int = 9, seed: int = 0
) -> tuple[Histories, list[list[int]]]:
    rng = generator(seed)
    lengths = torch.randint(1, 8, (num_users,), generator=rng).tolist()
    lists = [(torch.randperm(num_items, generator=rng)[:n] + 1).tolist() for n in lengths]
    times = [SPRING + torch.randint(0, 10**7, (n,), generator=rng).sort().values for n in lengths]
    items = torch.tensor(list(itertools.chain(*lists)))
    starts = torch.tensor([0, *itertools.accumulate(lengths)])
    return Histories(items, torch.cat(times), starts), lists


@pytest.mark.parametrize("chunk", [1, 20, 10**6])
def test_neighbours_are_those_of_item_based_filtering(chunk, monkeypatch):
    monkeypatch.setattr("hm4sr.nn.histories._CHUNK_PAIRS", chunk)
    data, lists = some_histories()
    similarity: dict[tuple[int, int], float] = {}
    for own in lists:
        for i, j in itertools.permutations(own, 2):
            similarity[i, j] = similarity.get((i, j), 0.0) + 1 / math.log(1 + len(own))
    popularity = {i: sum(i in own for own in lists) for i in range(1, 11)}
    for i, j in similarity:
        similarity[i, j] /= math.sqrt(popularity[i] * popularity[j])
    low, high = min(similarity.values()), max(similarity.values())
    best, score = item_neighbours(data, 11)
    for i in range(1, 11):
        own = {j: value for (first, j), value in similarity.items() if first == i}
        if not own:
            assert int(best[i]) == 0
            continue
        assert own[int(best[i])] == pytest.approx(max(own.values()))
        assert float(score[i]) == pytest.approx((max(own.values()) - low) / (high - low), abs=1e-6)


@pytest.mark.parametrize("pairs", [1, 20, 1_000])
def test_learned_neighbours_are_the_nearest_and_neither_padding_nor_the_item_itself(pairs, monkeypatch):
    monkeypatch.setattr("hm4sr.nn.histories._CHUNK_PAIRS", pairs)
    table = torch.randn(9, 4, generator=generator())
    best, score = vector_neighbours(table)
    for i in range(1, 9):
        products = {j: float(table[i] @ table[j]) for j in range(1, 9) if j != i}
        assert int(best[i]) == max(products, key=products.__getitem__)
    assert float(score[1:].max()) == pytest.approx(1.0)
    assert (score[1:] >= 0).all()


def test_regular_users_are_those_of_the_least_variance():
    data, lists = some_histories(num_users=20)
    variances = []
    for u in range(20):
        own = data.times[data.starts[u] : data.starts[u + 1]].tolist()
        apart = [b - a for a, b in itertools.pairwise(own)]
        variances.append(statistics.pvariance(apart) if apart else 0.0)
    regular = regular_users(data, 0.5, generator())
    assert int(regular.sum()) == 10
    assert max(v for v, r in zip(variances, regular, strict=True) if r) <= min(
        v for v, r in zip(variances, regular, strict=True) if not r
    )
    short = [u for u in range(20) if len(lists[u]) <= 2]  # no variance at all: ties
    drawn = {
        u for seed in range(30) for u in regular_users(data, 0.05, generator(seed)).nonzero()[:, 0].tolist()
    }
    assert drawn == set(short)


def test_the_index_finds_what_a_search_finds():
    data, lists = some_histories(num_users=30)
    index = TargetIndex(data)
    for user, item in itertools.product(range(30), range(1, 10)):
        items, users = torch.tensor([item] * 200), torch.tensor([user] * 200)
        others = {u for u, own in enumerate(lists) if u != user and item in own[1:]}
        found, there = index.others(items, users, generator())
        assert bool(there.all() if others else not there.any())
        if not others:
            continue
        owners = torch.searchsorted(data.starts, found, right=True) - 1
        assert set(owners.tolist()) == others
        assert (data.items[found] == item).all()
        before, lengths = index.before(found, 3)
        for row in range(5):
            own = lists[int(owners[row])]
            newest = own[: own.index(item)][-3:]
            assert before[row, : int(lengths[row])].tolist() == newest
            assert (before[row, int(lengths[row]) :] == 0).all()
    assert not index.others(torch.tensor([99]), torch.tensor([-1]), generator())[1].any()


# The views as the models use them


def catalog_with_histories() -> tuple[Catalog, list[list[int]]]:
    data, lists = some_histories(num_users=8, num_items=40, seed=5)
    plain = small_catalog()
    return Catalog(**{**vars(plain), "histories": data}), lists


def test_regular_users_get_no_view_and_the_last_gap_is_that_to_the_target():
    catalog, lists = catalog_with_histories()
    model = small_model("ticoserec", catalog, regular_share=0.5)
    model.start_epoch(1)
    users = [u for u, own in enumerate(lists) if len(own) > 1]
    starts, data = catalog.histories.starts, catalog.histories
    width = max(len(lists[u]) for u in users) - 1
    batch = histories([len(lists[u]) - 1 for u in users])
    batch = SeqBatch(
        torch.zeros(len(users), width, dtype=torch.int64),
        torch.zeros(len(users), width, dtype=torch.int64),
        torch.tensor([len(lists[u]) - 1 for u in users]),
        torch.zeros(len(users), width, dtype=torch.int64),
        torch.tensor(users),
        asked=torch.zeros(len(users), width, dtype=torch.int64),
    )
    for row, u in enumerate(users):
        n = len(lists[u]) - 1
        batch.asked[row, :n] = data.times[starts[u] + 1 : starts[u + 1]]
        batch.items[row, :n], batch.targets[row, :n] = torch.tensor(lists[u])[:-1], torch.tensor(lists[u])[1:]
        batch.times[row] = data.times[starts[u] + n - 1]
        batch.times[row, :n] = data.times[starts[u] : starts[u] + n]
    after = model._next_times(batch)
    for row, u in enumerate(users):
        n = len(lists[u]) - 1
        assert after[row, :n].tolist() == data.times[starts[u] + 1 : starts[u + 1]].tolist()
    view = model.view_of(batch)
    for row, u in enumerate(users):
        if model.regular[u]:
            assert torch.equal(view[row, :width], batch.items[row])
        else:
            assert not torch.equal(view[row, :width], batch.items[row])
    assert 0 < int(model.regular[users].sum()) < len(users)


def test_holes_are_hidden_and_views_are_aligned_at_the_newest_event():
    model = small_model("ticoserec").eval()
    view = torch.tensor([[7, 0, 9, 4, 0, 0], [7, 3, 9, 4, 0, 0], [5, 6, 0, 0, 0, 0]])
    with torch.no_grad():
        flat = model._flat(view).view(3, 6, -1)
        positions = torch.tensor([0, 2, 3])  # as if the second event were not there
        kept = model.items(torch.tensor([7, 9, 4])) + model.positions(positions)
        expected = model.encoder(kept[None])[0]
    torch.testing.assert_close(flat[0, [2, 4, 5]], expected, rtol=1e-4, atol=1e-5)
    assert (flat[0, [0, 1, 3]] == 0).all()
    assert (flat[2, :4] == 0).all()
    assert (flat[2, 4:] != 0).any(1).all()


def test_views_longer_than_the_model_sees_keep_the_newest_events():
    model = small_model("ticoserec", small_catalog(max_length=4)).eval()
    view = torch.tensor([[1, 2, 3, 4, 5, 6, 0]])
    with torch.no_grad():
        flat, newest = model._flat(view), model._flat(torch.tensor([[3, 4, 5, 6]]))
    torch.testing.assert_close(flat, newest)


def test_contrast_waits_for_the_end_of_the_warm_up():
    model = small_model("ticoserec", catalog_with_histories()[0], warm_up=2, hybrid_after=3).train()
    batch = histories([5, 3, 4])
    names = []
    for epoch in range(1, 5):
        model.start_epoch(epoch)
        names.append(set(model.losses(batch)))
    assert names == [{"main"}, {"main"}, {"main", "contrast"}, {"main", "contrast"}]


def test_fearec_contrasts_with_histories_of_the_same_target():
    catalog, lists = catalog_with_histories()
    model = small_model("fearec", catalog).eval()
    item = next(i for i in range(1, 41) if sum(i in own[1:] for own in lists) == 2)
    user, other = (u for u, own in enumerate(lists) if item in own[1:])
    batch = histories([3], parallel=False)
    batch = SeqBatch(batch.items, batch.times, batch.lengths, batch.targets.clone(), torch.tensor([user]))
    batch.targets[0, 2] = item
    before = lists[other][: lists[other].index(item)]
    with torch.no_grad():
        found = model._same_target(batch)
        expected = model._last(torch.tensor([before]), torch.tensor([len(before)]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
