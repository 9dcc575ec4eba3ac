import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hm4sr.errors import UserError
from hm4sr.serving.index import ApproximateIndex, IndexConfig, build_index
from hm4sr.serving.recommender import Recommender
from hm4sr.serving.search import ExactIndex

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import ITEMS, USERS, make_dataset, make_run

pytest.importorskip("faiss", reason="faiss, of the extra `faiss`, is not installed")

WIDTH, ITEMS_IN_ALL = 16, 5_000


@pytest.fixture(scope="module")
def vectors():
    """Items around 40 centres; row 0 is padding, and would be the best of all."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((40, WIDTH))
    points = centres[rng.integers(0, 40, ITEMS_IN_ALL)] + 0.5 * rng.standard_normal((ITEMS_IN_ALL, WIDTH))
    return np.concatenate([np.full((1, WIDTH), 99.0), points]).astype(np.float32)


def queries(count):
    return np.random.default_rng(2).standard_normal((count, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def index(vectors):
    index = build_index(IndexConfig(kind="faiss", queries=64), vectors, queries)
    assert isinstance(index, ApproximateIndex)
    return index


def nothing(count):
    return [np.zeros(0, dtype=np.int64)] * count


def share_found(found, exact):
    pairs = [(row, truth[truth > 0]) for row, truth in zip(found, exact, strict=True)]
    return np.mean([np.isin(truth, row).mean() if len(truth) else 1.0 for row, truth in pairs])


def test_the_recall_is_as_measured_and_scores_are_exact(index, vectors):
    asked = np.random.default_rng(3).standard_normal((200, WIDTH)).astype(np.float32)
    found, scores = index.top(asked, 20, nothing(200))
    exact, _ = ExactIndex(vectors).top(asked, 20, nothing(200))
    assert index.recall >= 0.99
    assert share_found(found, exact) >= 0.98
    expected = np.einsum("nkq,nq->nk", vectors[found], asked)
    assert scores == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert found.min() >= 1


def test_blocked_items_are_replaced_by_further_ones(index, vectors):
    asked = queries(50)
    best = ExactIndex(vectors).top(asked, 60, nothing(50))[0]
    blocked = [np.sort(row[:40]) for row in best]
    found = index.top(asked, 20, blocked)[0]
    for row, seen, expected in zip(found, blocked, best[:, 40:], strict=True):
        assert not np.isin(row, seen).any()
        assert len(np.intersect1d(row, expected)) >= 18


@pytest.mark.parametrize("num_blocked", [300, 4_990, 5_000])
def test_nearly_everything_may_be_blocked(index, vectors, num_blocked):
    asked = queries(3)
    blocked = [np.sort(np.random.default_rng(row).permutation(5_000)[:num_blocked] + 1) for row in range(3)]
    found, scores = index.top(asked, 20, blocked)
    exact, expected = ExactIndex(vectors).top(asked, 20, blocked)
    assert share_found(found, exact) >= 0.98
    assert ((found > 0).sum(1) == min(20, 5_000 - num_blocked)).all()
    assert (np.isinf(scores) == np.isinf(expected)).all()


def test_groups_that_hold_too_little_are_filled_up_exactly(vectors):
    small = build_index(IndexConfig(kind="faiss", lists=1_000, recall_at=1, queries=64), vectors, queries)
    small.faiss.nprobe = 1  # a group holds five items on average
    found = small.top(queries(5), 200, nothing(5))[0]
    exact = ExactIndex(vectors).top(queries(5), 200, nothing(5))[0]
    assert (found == exact).all()


def test_items_added_later_are_found(index):
    new = 3.0 * queries(4)
    longer = index.extended(new)
    found = longer.top(queries(4), 3, nothing(4))[0]
    assert (found[:, 0] == np.arange(5_001, 5_005)).all()
    assert not np.isin(
        longer.top(queries(4), 3, [np.arange(5_001, 5_005)] * 4)[0], np.arange(5_001, 5_005)
    ).any()


def test_an_index_that_finds_too_little_is_refused(vectors):
    config = IndexConfig(kind="faiss", lists=500, probes=1)
    with pytest.raises(UserError, match=r"finds 0\.\d+ of the exact answers .* raise index.probes"):
        build_index(config, vectors, queries)
    with pytest.raises(UserError, match="min_recall"):
        IndexConfig.parse({"min_recall": 0.5}, "test")


def test_the_configuration_chooses(vectors, monkeypatch, caplog):
    assert build_index(IndexConfig(), vectors, queries) is None
    assert build_index(IndexConfig(kind="exact", exact_items=5), vectors, queries) is None
    assert build_index(IndexConfig(exact_items=4_999), vectors, queries) is not None
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'hm4sr\[faiss\]'"):
        build_index(IndexConfig(kind="faiss"), vectors, queries)
    assert build_index(IndexConfig(exact_items=4_999), vectors, queries) is None
    assert "searched exactly" in caplog.text


def test_an_index_is_kept_and_rebuilt_when_it_no_longer_fits(vectors, tmp_path, monkeypatch):
    config = IndexConfig(kind="faiss", folder=tmp_path / "kept", queries=32)
    first = build_index(config, vectors, queries)
    asked = queries(20)

    def no_queries(count):
        raise AssertionError("built anew")

    again = build_index(config, vectors, no_queries)
    assert (again.top(asked, 9, nothing(20))[0] == first.top(asked, 9, nothing(20))[0]).all()
    assert again.recall == first.recall
    with pytest.raises(AssertionError, match="built anew"):
        build_index(config, vectors + 1, no_queries)
    with pytest.raises(AssertionError, match="built anew"):
        build_index(IndexConfig(**{**config.model_dump(), "lists": 50}), vectors, no_queries)
    file = tmp_path / "kept" / "index.faiss"
    damaged = bytearray(file.read_bytes())
    damaged[1000] ^= 1
    file.write_bytes(damaged)
    build_index(config, vectors, queries)
    assert json.loads((tmp_path / "kept" / "index.json").read_text())["recall"] == first.recall
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be kept"):
        build_index(IndexConfig(kind="faiss", folder=tmp_path / "file"), vectors, queries)


def test_a_recommender_answers_through_an_index(tmp_path):
    run = make_run(tmp_path / "run", make_dataset(tmp_path / "data"))
    exact = Recommender.load(run.path)
    config = IndexConfig(kind="faiss", recall_at=1)
    indexed = Recommender.load(run.path, index=config)
    assert isinstance(indexed.served.ranker.index, ApproximateIndex)
    for options in ({"k": 5}, {"k": 1, "exclude": ["7", "i9"]}, {"k": 3, "categories": "odd"}):
        one, two = (recommender.recommend(USERS, **options) for recommender in (exact, indexed))
        assert one.numbers.tolist() == two.numbers.tolist()
    assert len(indexed.recommend(USERS[0], k=99, filter_seen=False)[0].items) == len(ITEMS)
