import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.serving.recommender import Recommender

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import DAY, ITEMS, START, add_features, make_dataset, make_run

HISTORY = [("Käse", START), ("i9", START + DAY), ("007", START + 50 * DAY), ("i9", START + 50 * DAY + 5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    add_features(make_dataset(folder / "data"))
    return folder


@pytest.fixture(scope="module")
def recommender(folder):
    return Recommender.load(make_run(folder / "hm4sr", Dataset.open(folder / "data"), "hm4sr").path)


@pytest.fixture(scope="module")
def plain(folder):
    return Recommender.load(make_run(folder / "sasrec", Dataset.open(folder / "data"), "sasrec").path)


def lifts(recommender, history):
    """Scores of all items minus their mean, by the public interface."""
    scores = recommender.score(ITEMS, histories=history)[0]
    return dict(zip(ITEMS, scores - scores.mean(), strict=True))


def evenly(history):
    first, last, gaps = history[0][1], history[-1][1], len(history) - 1
    return [(item, first + (last - first) * place // gaps) for place, (item, _) in enumerate(history)]


def test_the_answer_is_that_of_recommend(recommender):
    options = {"histories": [HISTORY, HISTORY[:2]], "k": 5, "exclude": ["7"], "filter_seen": False}
    expected = recommender.recommend(**options)
    found = recommender.explain(**options)
    for explanation, answer in zip(found, expected, strict=True):
        assert [item.item_id for item in explanation.answer.items] == [item.item_id for item in answer.items]
        assert [item.item_id for item in explanation.items] == [item.item_id for item in answer.items]
        assert [item.rank for item in explanation.items] == [1, 2, 3, 4, 5]


def test_terms_sum_to_the_score_and_shares_to_one(recommender):
    (explanation,) = recommender.explain(histories=HISTORY, k=9)
    expected = lifts(recommender, HISTORY)
    for item in explanation.items:
        assert list(item.terms) == list(item.shares) == ["id", "image", "text"]
        assert sum(item.terms.values()) == pytest.approx(item.score, abs=1e-5)
        assert item.lift == pytest.approx(expected[item.item_id], abs=1e-5)
        assert sum(abs(share) for share in item.shares.values()) == pytest.approx(1)


def test_a_share_is_the_part_of_the_lift_with_its_sign(recommender):
    (explanation,) = recommender.explain(histories=HISTORY, items=ITEMS)
    parts = {}
    for name in recommender.modalities:
        others = [other for other in recommender.modalities if other != name]
        alone = recommender.recommend(
            histories=HISTORY, k=99, filter_seen=False, without=others, include=ITEMS
        )
        scores = {item.item_id: item.score for item in alone[0].items}
        mean = np.mean(list(scores.values()))
        parts[name] = {item: score - mean for item, score in scores.items()}
    for item in explanation.items:
        total = sum(abs(part[item.item_id]) for part in parts.values())
        for name, share in item.shares.items():
            assert share == pytest.approx(parts[name][item.item_id] / total, abs=1e-3)
    assert any(share < 0 for item in explanation.items for share in item.shares.values())


def test_a_modality_that_is_left_out_is_not_told(recommender):
    (explanation,) = recommender.explain(histories=HISTORY, k=3, without="text")
    for item in explanation.items:
        assert list(item.terms) == ["id", "image"]
        assert sum(item.terms.values()) == pytest.approx(item.score, abs=1e-5)


@pytest.mark.parametrize("which", ["recommender", "plain"])
def test_reasons_are_what_changes_without_an_event(which, request):
    recommender = request.getfixturevalue(which)
    (explanation,) = recommender.explain(histories=HISTORY, k=4, num_reasons=99)
    whole = lifts(recommender, HISTORY)
    shorter = [lifts(recommender, HISTORY[:event] + HISTORY[event + 1 :]) for event in range(len(HISTORY))]
    for item in explanation.items:
        assert sorted(reason.event for reason in item.reasons) == [0, 1, 2, 3]
        changes = [abs(reason.change) for reason in item.reasons]
        assert changes == sorted(changes, reverse=True)
        for reason in item.reasons:
            expected = whole[item.item_id] - shorter[reason.event][item.item_id]
            assert reason.change == pytest.approx(expected, abs=1e-5)
            assert reason.item_id == HISTORY[reason.event][0]
    (short,) = recommender.explain(histories=HISTORY, k=4, num_reasons=2)
    assert [len(item.reasons) for item in short.items] == [2] * 4


def test_a_single_event_is_the_whole_reason(recommender):
    (explanation,) = recommender.explain(histories=HISTORY[:1], k=3)
    for item in explanation.items:
        assert [reason.change for reason in item.reasons] == pytest.approx([item.lift])


def test_the_effect_of_time_is_against_even_gaps(recommender):
    (explanation,) = recommender.explain(histories=HISTORY, k=6, filter_seen=False)
    even = recommender.recommend(histories=evenly(HISTORY), k=6, filter_seen=False)[0]
    even_ids = [item.item_id for item in even.items]
    assert [item.item_id for item in explanation.time.even] == even_ids
    expected = lifts(recommender, evenly(HISTORY))
    stayed = [item for item in explanation.items if item.item_id in even_ids]
    assert explanation.time.overlap == len(stayed) / 6
    for item in explanation.items:
        assert item.lift_with_even_gaps == pytest.approx(expected[item.item_id], abs=1e-5)
        rank = even_ids.index(item.item_id) + 1 if item.item_id in even_ids else None
        assert item.rank_with_even_gaps == rank
    assert any(abs(item.lift - item.lift_with_even_gaps) > 1e-6 for item in explanation.items)


def test_ranks_are_shifted_by_their_absolute_differences(plain, monkeypatch):
    """Of the whole catalogue all items stay, and what some gain in rank the others lose."""
    width = plain.served.ranker.vectors.shape[1]

    def by_gap(histories):  # as a model might that reads nothing but the first gap
        days = (histories.times[:, 1] - histories.times[:, 0]) / DAY
        return np.cos(days[:, None] * np.arange(1, width + 1)).astype(np.float32)

    timed = replace(plain.served, ranker=replace(plain.served.ranker, encode=by_gap))
    monkeypatch.setattr(plain, "served", timed)
    (explanation,) = plain.explain(histories=HISTORY, k=len(ITEMS), filter_seen=False)
    even = [
        item.item_id for item in plain.recommend(histories=evenly(HISTORY), k=99, filter_seen=False)[0].items
    ]
    shifts = [even.index(item.item_id) + 1 - item.rank for item in explanation.items]
    assert shifts == [item.rank_with_even_gaps - item.rank for item in explanation.items]
    assert sum(shifts) == 0
    assert explanation.time.overlap == 1
    assert explanation.time.mean_shift == pytest.approx(np.mean(np.abs(shifts)))
    assert explanation.time.mean_shift > 0


def test_a_model_without_time_is_not_changed_by_it(plain):
    (explanation,) = plain.explain(histories=HISTORY, k=6)
    assert (explanation.time.overlap, explanation.time.mean_shift) == (1.0, 0.0)
    for item in explanation.items:
        assert (item.terms, item.shares) == ({}, {})
        assert item.lift == pytest.approx(item.lift_with_even_gaps)
    assert all(event.gates == {} for event in explanation.events)


def test_gates_are_told_for_each_event_that_was_read(recommender):
    long = [(f"i{6 + number % 12}", START + number * number * DAY) for number in range(9)]
    (explanation,) = recommender.explain(histories=long, k=1)
    assert [(event.item_id, event.time) for event in explanation.events] == long[-6:]
    assert explanation.events[0].title == "Title of i9"
    for event in explanation.events:
        names = ["interactive id", "interactive image", "interactive text", "temporal"]
        assert sorted(event.gates) == names
        for weights in event.gates.values():
            assert len(weights) == 4
            assert sum(weights) == pytest.approx(1)
    (other,) = recommender.explain(histories=[(item, second // 2) for item, second in long], k=1)
    for one, two in zip(explanation.events[1:], other.events[1:], strict=True):
        assert one.gates["interactive text"] == pytest.approx(two.gates["interactive text"])
        assert one.gates["temporal"] != pytest.approx(two.gates["temporal"], abs=1e-7)


def test_what_popularity_answers_has_no_reasons(recommender):
    (explanation,) = recommender.explain(histories=[[]], k=2)
    assert explanation.source == "popularity"
    assert len(explanation.answer.items) == 2
    assert (explanation.items, explanation.events, explanation.time) == ((), (), None)


def test_a_known_user_is_explained_and_mistakes_are_told(recommender):
    (explanation,) = recommender.explain("42", k=2)
    assert explanation.answer.request == "42"
    (chosen,) = recommender.explain("42", items=["7", "i9"])
    assert {item.item_id for item in chosen.items} == {"7", "i9"}
    with pytest.raises(UserError, match="item 'gone' is not among"):
        recommender.explain("42", items=["gone"])
    with pytest.raises(UserError, match="num_reasons = -1"):
        recommender.explain("42", num_reasons=-1)
