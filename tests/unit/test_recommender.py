import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hm4sr.data.batches import Windows, make_batch
from hm4sr.errors import UserError
from hm4sr.models.base import SeqRecModel
from hm4sr.serving.recommender import Recommender
from hm4sr.training.run import Run

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import DAY, ITEMS, START, USERS, add_features, make_dataset, make_run

NEW = [("Käse", START), ("i9", START + DAY), ("007", START + 5 * DAY)]


@pytest.fixture(scope="module", params=["sasrec", "hm4sr"])
def recommender(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    run = make_run(folder / "run", make_dataset(folder / "data"), request.param)
    return Recommender.load(run.path)


LIGHT = """
import sys
from hm4sr import Recommender
assert Recommender.load(sys.argv[1]).recommend(histories=["i9", "007"], k=3)[0].items
print("torch._dynamo" in sys.modules)
"""


def test_recommending_does_not_load_the_compiler(recommender):
    """It takes two seconds and 70 MB, at every start of a service."""
    line = [sys.executable, "-c", LIGHT, str(Path(recommender.dataset.path).parent / "run")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


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
    monkeypatch.setattr("hm4sr.serving.base._CHUNK_REQUESTS", 5)
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


def test_what_lies_within_a_second_is_in_the_order_of_its_fractions(recommender):
    early, late = ("i9", START + 0.25), ("007", START + 0.75)
    answers = recommender.recommend(
        histories=[
            [late, early],
            [early, late],
            [("i9", START), ("007", START)],
            [("007", START), ("i9", START)],
        ]
    )
    assert answers.scores[0] == pytest.approx(answers.scores[1])
    assert answers.scores[0] == pytest.approx(answers.scores[2])
    assert answers.scores[0] != pytest.approx(answers.scores[3])


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
        ({"users": ["42", "Zoë"], "histories": ["007"]}, "2 users but 1 histories"),
        ({"users": 42}, "users = 42 is neither a raw id nor a list of them"),
        ({"users": "42", "include": 7}, "include = 7 is not a list of raw ids"),
        ({"users": "42", "include": [7]}, "include: 7 is not text"),
        ({"users": "42", "exclude": [7]}, "exclude: 7 is not text"),
        ({"users": "42", "categories": "evne"}, "did you mean 'even'?"),
        ({"users": "42", "categories": ["even", 7]}, "7 is not a category"),
        ({"users": "42", "at_time": START * 1000}, "at_time = 1405296000000"),
        ({"users": "42", "at_time": "2014-07-14"}, "at_time = '2014-07-14'"),
        ({"users": "42", "at_time": [START, START]}, "2 moments for 1 requests"),
        ({"users": "42", "at_time": float("inf")}, "at_time = inf"),
        ({"users": "42", "without": "sound"}, "without = 'sound'"),
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
    monkeypatch.setattr(type(recommender.model), "item_vectors", None)
    assert len(recommender.recommend(USERS)) == len(USERS)


def test_a_model_that_diverged_is_refused(recommender, monkeypatch):
    served = recommender.served
    broken = replace(served.ranker, vectors=served.ranker.vectors * np.float32("nan"))
    monkeypatch.setattr(recommender, "served", replace(served, ranker=broken))
    with pytest.raises(UserError, match="diverged"):
        recommender.recommend(USERS)


def test_only_included_items_occur_and_keep_their_scores(recommender):
    every = recommender.recommend(USERS, k=99, filter_seen=False)
    some = recommender.recommend(
        USERS, k=99, filter_seen=False, include=["i7", "7", "gone", "日本"], exclude="7"
    )
    assert some.unknown_included == ("gone",)
    for whole, part in zip(every, some, strict=True):
        wanted = [item for item in whole.items if item.item_id in ("i7", "日本")]
        assert ids(part) == [item.item_id for item in wanted]
        assert scores(part) == pytest.approx([item.score for item in wanted], abs=1e-5)
    popular = recommender.recommend(histories=[], include=["i7", "7"], k=99)[0]
    assert set(ids(popular)) == {"i7", "7"}
    assert recommender.recommend(USERS[0], include=[])[0].items == ()
    assert recommender.recommend(USERS[0], include=["gone"])[0].items == ()


def test_categories_restrict_and_join_the_other_limits(recommender):
    even = {item for number, item in enumerate(ITEMS) if number % 2 == 0}
    assert recommender.categories == ["even", "odd"]
    answers = recommender.recommend(USERS, k=99, filter_seen=False, categories="even")
    assert all(set(ids(answer)) == even for answer in answers)
    both = recommender.recommend(USERS[0], k=99, filter_seen=False, categories=["odd", "even"])[0]
    assert set(ids(both)) == set(ITEMS)
    inner = recommender.recommend(
        USERS, k=99, filter_seen=False, categories=["even"], include=ITEMS[:5], exclude=ITEMS[:1]
    )
    assert all(set(ids(answer)) == even & set(ITEMS[1:5]) for answer in inner)
    for user, answer in zip(USERS, recommender.recommend(USERS, k=99, categories="odd"), strict=True):
        seen = {item for item, _ in recommender.history(user)}
        assert set(ids(answer)) == set(ITEMS) - even - seen


def test_events_after_the_moment_of_the_question_are_not_known(recommender):
    for user in USERS:
        events = recommender.history(user)
        moment = events[len(events) // 2][1]
        early = [event for event in events if event[1] <= moment]
        for asked in ({"users": user}, {"histories": events}):
            answer = recommender.recommend(**asked, k=99, at_time=moment + 0.5)[0]
            expected = recommender.recommend(histories=early, k=99)[0]
            assert ids(answer) == ids(expected)
            assert scores(answer) == pytest.approx(scores(expected), abs=1e-5)
            assert answer.later == len(events) - len(early)
    before_everything = recommender.recommend(USERS[0], at_time=0)[0]
    assert (before_everything.source, before_everything.later) == ("popularity", 4)


def test_each_request_may_have_a_moment_of_its_own(recommender):
    moments = [recommender.history(user)[2][1] for user in USERS]
    batch = recommender.recommend(USERS, at_time=moments, k=5)
    for user, moment, answer in zip(USERS, moments, batch, strict=True):
        assert ids(answer) == ids(recommender.recommend(user, at_time=moment, k=5)[0])


def test_bare_ids_end_at_the_moment_of_the_question(recommender):
    gap = recommender.invented.gap
    told = [("Käse", START - gap), ("i9", START)]
    plain, timed = (
        recommender.recommend(histories=history, at_time=START)[0] for history in (["Käse", "i9"], told)
    )
    assert plain.later == 0
    assert scores(plain) == pytest.approx(scores(timed))


def test_new_events_join_the_stored_history(recommender):
    stored = recommender.history("42")
    last, gap = stored[-1][1], recommender.invented.gap
    new = [("i9", last + 5), ("nobody", last), ("Käse", stored[0][1] - 1)]
    joined = recommender.recommend("42", new, k=99)[0]
    told = recommender.recommend(histories=[*stored, new[0], new[2]], k=99)[0]
    assert (joined.request, joined.unknown) == ("42", ("nobody",))
    assert ids(joined) == ids(told)
    assert scores(joined) == pytest.approx(scores(told), abs=1e-5)
    bare = recommender.recommend("42", ["i9", "Käse"], k=99)[0]
    timed = recommender.recommend("42", [("i9", last + gap), ("Käse", last + 2 * gap)], k=99)[0]
    assert scores(bare) == pytest.approx(scores(timed), abs=1e-5)
    asked_then = recommender.recommend("42", ["i9", "Käse"], k=99, at_time=last)[0]
    at_once = recommender.recommend("42", [("i9", last), ("Käse", last)], k=99)[0]
    assert scores(asked_then) == pytest.approx(scores(at_once), abs=1e-5)
    unchanged = recommender.recommend(["42", "Zoë"], [[], []], k=99)
    plain = recommender.recommend(["42", "Zoë"], k=99)
    assert [ids(answer) for answer in unchanged] == [ids(answer) for answer in plain]


def test_questions_of_different_askers_are_answered_together_as_alone(recommender, monkeypatch):
    monkeypatch.setattr("hm4sr.serving.base._CHUNK_REQUESTS", 4)
    questions = [
        {"users": USERS, "k": 3},
        {"histories": [NEW, [], NEW[:1]], "k": 7, "categories": "odd"},
        {"users": "42", "k": 99, "filter_seen": False, "exclude": ["7"]},
        {"histories": ["nobody"], "k": 2},
        {"users": [], "k": 2},
        {"users": USERS[:3], "without": ["time"], "include": ITEMS[:9]},
    ]
    together = recommender.answer([recommender.prepare(**question) for question in questions])
    for question, found in zip(questions, together, strict=True):
        alone = recommender.recommend(**question)
        assert found.numbers.tolist() == alone.numbers.tolist()
        assert found.scores == pytest.approx(alone.scores, abs=1e-5)
        assert list(found.sources) == list(alone.sources)
    assert recommender.answer([]) == []


def test_scores_of_given_items_are_those_of_the_list(recommender):
    wanted = ["i9", "7", "i9"]
    found = recommender.score(wanted, users=USERS[:5])
    assert found.shape == (5, 3)
    for row, answer in zip(found, recommender.recommend(USERS[:5], k=99, filter_seen=False), strict=True):
        listed = {item.item_id: item.score for item in answer.items}
        assert row == pytest.approx([listed[item] for item in wanted], abs=1e-5)
    nothing, something = recommender.score("7", histories=[[], NEW])
    assert np.isnan(nothing).all()
    assert np.isfinite(something).all()
    with pytest.raises(UserError, match="item 'gone' is not among the 20 items"):
        recommender.score("gone", users="42")


def test_similar_items_are_those_of_the_largest_cosine(recommender):
    vectors = recommender.served.ranker.vectors[1:].astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    batch = recommender.similar_items(ITEMS, k=5)
    for row, answer in enumerate(batch):
        best = np.argsort(-cosines[row])[:5]
        assert (answer.request, answer.source) == (ITEMS[row], "model")
        assert ids(answer) == [ITEMS[number] for number in best]
        assert scores(answer) == pytest.approx(cosines[row][best], abs=1e-5)
        assert ids(recommender.similar_items(ITEMS[row], k=5)[0]) == ids(answer)
    odd = recommender.similar_items("7", k=99, categories="odd", exclude="i7")[0]
    assert set(ids(odd)) == set(ITEMS[1::2]) - {"7", "i7"}
    with pytest.raises(UserError, match="item 'gone' is not among"):
        recommender.similar_items("gone")


def test_a_model_whose_scores_are_no_dot_products_isserved_by_its_own_scores(recommender, monkeypatch):
    kind = type(recommender.model)

    def scores_of_its_own(self, batch, candidates):
        table = SeqRecModel.scores(self, batch, candidates)
        return torch.where(table.isfinite(), -table, table)

    monkeypatch.setattr(kind, "scores", scores_of_its_own)
    other = Recommender(recommender.model, recommender.dataset)
    plain = recommender.recommend(USERS, k=99, filter_seen=False, categories="odd")
    turned = other.recommend(USERS, k=99, filter_seen=False, categories="odd")
    for one, two in zip(plain, turned, strict=True):
        assert ids(one) == ids(two)[::-1]
    assert other.score("7", "42") == pytest.approx(-recommender.score("7", "42"), abs=1e-5)
    assert other.modalities == []


def test_a_modality_is_left_out_by_dropping_its_term(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modalities")
    dataset = make_dataset(folder / "data")
    add_features(dataset)
    recommender = Recommender.load(make_run(folder / "run", dataset, "hm4sr").path)
    assert recommender.modalities == ["id", "image", "text"]
    options = {"k": 99, "filter_seen": False}
    whole = recommender.recommend("42", **options)[0]
    alone = {
        name: recommender.recommend("42", without=set(recommender.modalities) - {name}, **options)[0]
        for name in recommender.modalities
    }
    for item in whole.items:
        terms = [
            part.score for answer in alone.values() for part in answer.items if part.item_id == item.item_id
        ]
        assert item.score == pytest.approx(sum(terms), abs=1e-5)
    with pytest.raises(UserError, match="nothing is left to rank by"):
        recommender.recommend("42", without=recommender.modalities)
    events = recommender.history("42")
    first, last = events[0][1], events[-1][1]
    assert len(events) <= recommender.max_length
    even = [
        (item, first + (last - first) * number // (len(events) - 1))
        for number, (item, _) in enumerate(events)
    ]
    spread = recommender.recommend(histories=even, **options)[0]
    without_time = recommender.recommend("42", without="time", **options)[0]
    assert scores(without_time) == pytest.approx(scores(spread), abs=1e-5)
    assert scores(without_time) != pytest.approx(scores(whole), abs=1e-7)
