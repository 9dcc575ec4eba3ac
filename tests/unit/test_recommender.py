import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hm4sr.data.batches import Windows, make_batch
from hm4sr.errors import UserError
from hm4sr.serving.recommender import Recommender
from hm4sr.training.run import Run

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import DAY, ITEMS, START, USERS, make_dataset, make_run

NEW = [("Käse", START), ("i9", START + DAY), ("007", START + 5 * DAY)]


@pytest.fixture(scope="module", params=["sasrec", "hm4sr"])
def recommender(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    run = make_run(folder / "run", make_dataset(folder / "data"), request.param)
    return Recommender.load(run.path)


def ids(answer):
    return [item.item_id for item in answer.items]


def scores(answer):
    return [item.score for item in answer.items]


def model_scores(recommender, user):
    """Scores of every item by the model itself, from the newest events of a user."""
    log, row = recommender.dataset.events, USERS.index(user)
    model = Run.open(recommender.dataset.path.parent / "run").load_model(recommender.dataset)
    end = log.starts[row + 1]
    length = min(end - log.starts[row], model.catalog.max_length)
    windows = Windows(*(np.array([value]) for value in (end - length, length, length, row)))
    with torch.inference_mode():
        return model.scores(make_batch(log, windows), model.item_vectors())[0].numpy()


@pytest.mark.parametrize("user", USERS[:4])
def test_scores_are_those_of_the_model_in_falling_order(recommender, user):
    expected = model_scores(recommender, user)
    answer = recommender.recommend(user, k=len(ITEMS), filter_seen=False)[0]
    assert answer.request == user
    assert answer.source == "model"
    assert sorted(ids(answer)) == sorted(ITEMS)
    assert [item.rank for item in answer.items] == list(range(1, len(ITEMS) + 1))
    for item in answer.items:
        assert item.score == pytest.approx(expected[ITEMS.index(item.item_id) + 1], abs=1e-5)
    assert scores(answer) == sorted(scores(answer), reverse=True)


@pytest.mark.parametrize("filter_seen", [True, False])
def test_a_batch_equals_its_rows(recommender, filter_seen, monkeypatch):
    monkeypatch.setattr("hm4sr.serving.recommender._CHUNK_REQUESTS", 5)
    batch = recommender.recommend(USERS[::-1], k=7, filter_seen=filter_seen)
    assert len(batch) == len(USERS)
    for user, answer in zip(USERS[::-1], batch, strict=True):
        alone = recommender.recommend(user, k=7, filter_seen=filter_seen)[0]
        assert ids(alone) == ids(answer)
        assert scores(alone) == pytest.approx(scores(answer), abs=1e-5)
        assert alone.request == answer.request == user


def test_a_batch_of_histories_equals_its_rows(recommender):
    histories = [NEW, [], ["i9", "nobody", "i9"], NEW[:1], ["nobody"], [*NEW * 5]]
    batch = recommender.recommend(histories=histories, k=5)
    assert [answer.request for answer in batch] == [1, 2, 3, 4, 5, 6]
    for history, answer in zip(histories, batch, strict=True):
        alone = recommender.recommend(histories=history, k=5)[0]
        assert ids(alone) == ids(answer)
        assert (alone.source, alone.unknown) == (answer.source, answer.unknown)
        assert scores(alone) == pytest.approx(scores(answer), abs=1e-5)


def test_a_known_user_equals_the_same_history(recommender):
    known = recommender.recommend(USERS, k=20)
    told = recommender.recommend(histories=[recommender.history(user) for user in USERS], k=20)
    for one, other in zip(known, told, strict=True):
        assert ids(one) == ids(other)
        assert scores(one) == pytest.approx(scores(other), abs=1e-5)


def test_seen_items_are_left_out_even_beyond_the_window(recommender):
    for user, answer in zip(USERS, recommender.recommend(USERS, k=100), strict=True):
        seen = {item for item, _ in recommender.history(user)}
        assert set(ids(answer)) == set(ITEMS) - seen
    kept = recommender.recommend(USERS, k=100, filter_seen=False)
    assert all(set(ids(answer)) == set(ITEMS) for answer in kept)


def test_excluded_items_never_occur(recommender):
    batch = recommender.recommend(USERS, k=100, filter_seen=False, exclude=["7", "日本", "gone"])
    assert all(set(ids(answer)) == set(ITEMS) - {"7", "日本"} for answer in batch)
    assert batch.unknown_excluded == ("gone",)
    popular = recommender.recommend(histories=[], k=100, exclude="7")[0]
    assert set(ids(popular)) == set(ITEMS) - {"7"}


def test_nothing_left_is_an_empty_answer(recommender):
    batch = recommender.recommend([USERS[0]], exclude=ITEMS)
    assert batch[0].items == ()
    assert batch.table().is_empty()


@pytest.mark.parametrize("history", [[], ["nobody", "nothing", "nobody"], [("nobody", 5)]])
def test_without_a_known_item_the_most_popular_ones_are_told(recommender, history):
    answer = recommender.recommend(histories=[history], k=len(ITEMS))[0]
    log = recommender.dataset.events
    counts = np.bincount(log.items[log.train_mask()], minlength=len(ITEMS) + 1)[1:]
    expected = sorted(range(len(ITEMS)), key=lambda number: (-counts[number], number))
    assert answer.source == "popularity"
    assert ids(answer) == [ITEMS[number] for number in expected]
    assert scores(answer) == [counts[number] for number in expected]
    assert len(set(answer.unknown)) == len(answer.unknown)


def test_unknown_items_are_reported_and_change_nothing(recommender):
    with_unknown = [NEW[0], ("zzz", START + 1), *NEW[1:], ("aaa", START), ("zzz", START)]
    plain, other = recommender.recommend(histories=[NEW, with_unknown])
    assert plain.unknown == ()
    assert other.unknown == ("zzz", "aaa")
    assert ids(plain) == ids(other)


def test_events_are_put_in_the_order_of_time_and_ties_stay(recommender):
    tied = [("i9", START), ("007", START), ("Käse", START - DAY)]
    answers = recommender.recommend(
        histories=[NEW, NEW[::-1], tied, [tied[2], tied[0], tied[1]], [tied[2], tied[1], tied[0]]]
    )
    table = answers.scores
    assert table[0] == pytest.approx(table[1])
    assert table[2] == pytest.approx(table[3])
    assert table[2] != pytest.approx(table[4])


def test_histories_without_times_are_evenly_apart(recommender):
    log = recommender.dataset.events
    gaps = [np.diff(log.times[start:end]) for start, end in zip(log.starts[:-1], log.train_end, strict=True)]
    gap, last = int(np.median(np.concatenate(gaps))), int(log.times.max())
    told = [("Käse", last - 2 * gap), ("i9", last - gap), ("007", last)]
    plain, timed = recommender.recommend(histories=[["Käse", "i9", "007"], told])
    assert ids(plain) == ids(timed)
    assert scores(plain) == pytest.approx(scores(timed))


def test_the_newest_events_count(recommender):
    long = [(f"i{6 + number % 12}", START + number * DAY) for number in range(30)]
    first, second = recommender.recommend(histories=[long, long[-6:]], filter_seen=False)
    assert ids(first) == ids(second)


def test_more_than_the_catalogue_is_capped(recommender):
    assert len(recommender.recommend(USERS[0], k=10**9, filter_seen=False)[0].items) == len(ITEMS)


def test_the_table_holds_raw_ids_and_titles(recommender):
    table = recommender.recommend(["42", "0042"], k=3).table()
    assert table.columns == ["user_id", "rank", "item_id", "title", "score", "source"]
    assert table["user_id"].to_list() == ["42"] * 3 + ["0042"] * 3
    assert table["rank"].to_list() == [1, 2, 3] * 2
    every = recommender.recommend("Zoë", k=99, filter_seen=False).table()
    titles = dict(zip(every["item_id"], every["title"], strict=True))
    assert titles == {item: None if item == "i8" else f"Title of {item}" for item in ITEMS}
    assert recommender.recommend(histories=[NEW, []], k=2).table()["history"].to_list() == [1, 1, 2, 2]
    assert recommender.recommend([]).table().is_empty()


def test_a_request_changes_no_later_one(recommender):
    before = recommender.recommend(USERS).table()
    recommender.recommend(USERS, filter_seen=False, exclude=ITEMS[:5])
    recommender.recommend(histories=[NEW, []])
    assert before.equals(recommender.recommend(USERS).table())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"users": "nobody"}, "user 'nobody' is not among the 12 users of"),
        ({"users": ["42", "nobody"]}, "user 'nobody' is not among"),
        ({"users": [42]}, "write '42'"),
        ({}, "either users or histories"),
        ({"users": "42", "histories": []}, "either users or histories"),
        ({"users": "42", "k": 0}, "k = 0"),
        ({"users": "42", "k": -3}, "k = -3"),
        ({"users": "42", "k": 2.5}, "k = 2.5"),
        ({"users": "42", "k": True}, "k = True"),
        ({"histories": "007"}, "is not a history"),
        ({"histories": 7}, "is not a history"),
        ({"histories": [7, 8]}, "history 1 = 7 is not a history"),
        ({"histories": [["007"], [7]]}, "history 2, event 1: 7 is no event"),
        ({"histories": [("007", START), "7"]}, "history 1, event 2: '7' has no time"),
        ({"histories": [[("007", "2014-07-14")]]}, "history 1, event 1"),
        ({"histories": [("007", float("nan"))]}, "seconds since 1970"),
        ({"histories": [("007", START * 1000)]}, "not milliseconds"),
    ],
)
def test_mistakes_are_one_sentence(recommender, arguments, says):
    with pytest.raises(UserError) as error:
        recommender.recommend(**arguments)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_item_vectors_are_computed_once(recommender, monkeypatch):
    monkeypatch.setattr(type(recommender._model), "item_vectors", None)
    assert len(recommender.recommend(USERS)) == len(USERS)


def test_a_model_that_diverged_is_refused(recommender, monkeypatch):
    monkeypatch.setattr(recommender, "_candidates", recommender._candidates * float("nan"))
    with pytest.raises(UserError, match="diverged"):
        recommender.recommend(USERS)
