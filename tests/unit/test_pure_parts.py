"""Metrics, losses and splits on examples whose answer is worked out by hand, or by a loop."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hm4sr.data.interactions import Interactions
from hm4sr.data.split import (
    TEST,
    TRAIN,
    VALID,
    Moments,
    choose_moments,
    describe_split,
    drop_cold,
    history_ends,
    parts_by_time,
)
from hm4sr.errors import UserError
from hm4sr.evaluation.metrics import Metric, hit_gains, mrr_gains, ndcg_gains
from hm4sr.nn import losses
from hm4sr.nn.losses import in_batch_contrastive, nt_xent, one_against_one, softmax_loss

SEEDS = st.integers(0, 2**31)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Losses


@given(SEEDS, st.integers(1, 6), st.integers(1, 5), st.floats(0.1, 2), st.booleans())
def test_contrast_of_two_views_is_its_loop(seed, rows, width, temperature, cosine):
    first, second = drawn(seed, rows, width), drawn(seed + 1, rows, width)
    views = torch.cat([first, second]).double()
    if cosine:
        views = views / views.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(2 * rows):
        exponents = [float(views[i] @ views[j]) / temperature for j in range(2 * rows) if j != i]
        twin = float(views[i] @ views[(i + rows) % (2 * rows)]) / temperature
        most = max(exponents)
        total += most + math.log(sum(math.exp(value - most) for value in exponents)) - twin
    actual = nt_xent(first, second, temperature, cosine)
    assert actual.item() == pytest.approx(total / (2 * rows), rel=1e-4, abs=1e-4)


def test_views_are_compared_by_length_too_unless_cosines_are_asked_for():
    first, second = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    assert nt_xent(first, second, 1.0) == nt_xent(first, second, 1.0, cosine=False)
    assert nt_xent(first, second, 1.0) != nt_xent(first, second, 1.0, cosine=True)


@given(SEEDS, st.integers(1, 6), st.integers(1, 5))
def test_one_negative_a_target(seed, rows, width):
    hidden, good, bad = (drawn(seed + shift, rows, width) for shift in range(3))

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    pairs = [
        (float(h @ g), float(h @ b))
        for h, g, b in zip(hidden.double(), good.double(), bad.double(), strict=True)
    ]
    bpr = sum(-math.log(sigmoid(p - n)) for p, n in pairs) / rows
    bce = sum(-math.log(sigmoid(p)) - math.log(1 - sigmoid(n)) for p, n in pairs) / rows
    assert one_against_one(hidden, good, bad, "bpr").item() == pytest.approx(bpr, rel=1e-4, abs=1e-5)
    assert one_against_one(hidden, good, bad, "bce").item() == pytest.approx(bce, rel=1e-4, abs=1e-5)


def test_pairs_that_are_no_negatives_are_left_out_unless_told_otherwise():
    queries, keys = drawn(1, 4, 3), drawn(2, 4, 3)
    same = torch.zeros(4, 4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    left_out = in_batch_contrastive(queries, keys, same, 0.2)
    assert left_out == in_batch_contrastive(queries, keys, same, 0.2, exclude=True)
    assert left_out != in_batch_contrastive(queries, keys, same, 0.2, exclude=False)
    assert same.sum() == 2, "the caller's mask is not changed"


def test_a_softmax_of_several_chunks_fills_up_the_last_one(monkeypatch):
    hidden, vectors = drawn(3, 130, 4).requires_grad_(), drawn(4, 9, 4).requires_grad_()
    targets = torch.arange(130) % 8 + 1
    whole = softmax_loss(hidden, vectors, targets)
    expected = torch.autograd.grad(whole, [hidden, vectors])
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", 64 * 9)
    assert losses.chunk_rows(130, 9) == 64
    parts = softmax_loss(hidden, vectors, targets)
    for one, other in zip(torch.autograd.grad(parts, [hidden, vectors]), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("rows", "items", "chunk"),
    [(1, 10, 64), (64, 10, 64), (65, 10, 128), (1000, 8000, 1000), (1001, 8000, 512), (5, 9_000_000, 1)],
)
def test_chunks_are_equal_and_of_whole_blocks(rows, items, chunk):
    assert losses.chunk_rows(rows, items) == chunk


def test_only_the_gradients_that_are_wanted_are_made():
    hidden, vectors, targets = drawn(5, 3, 4), drawn(6, 7, 4), torch.tensor([1, 2, 6])
    softmax_loss(hidden.requires_grad_(), vectors, targets).backward()
    assert hidden.grad is not None
    other = vectors.clone().requires_grad_()
    softmax_loss(hidden.detach(), other, targets).backward()
    assert other.grad is not None
    assert vectors.grad is None


# Metrics


def test_gains_of_each_target():
    ranks = np.array([1, 2, 3, 4])
    assert ndcg_gains(ranks, 3).tolist() == pytest.approx([1, 1 / math.log2(3), 0.5, 0])
    assert mrr_gains(ranks, 3).tolist() == pytest.approx([1, 0.5, 1 / 3, 0])
    assert hit_gains(ranks, 3).tolist() == [1, 1, 1, 0]
    assert {gains(ranks, 3).dtype for gains in (ndcg_gains, mrr_gains, hit_gains)} == {np.dtype("float64")}
    assert Metric("mrr", 2).gains(ranks).tolist() == [1, 0.5, 0, 0]


def test_names_of_metrics():
    metric = Metric.parse("ndcg@10")
    assert metric == Metric("ndcg", 10)
    assert (str(metric), metric.title) == ("ndcg@10", "NDCG@10")
    assert [Metric(kind, 5).title for kind in ("mrr", "hit")] == ["MRR@5", "Hit@5"]
    assert Metric.parse("hit@1").k == 1
    for name in ("ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "ndcg@1.5", "recall@5", "@5", "ndcg@ten", ""):
        with pytest.raises(UserError) as caught:
            Metric.parse(name)
        assert str(caught.value) == (
            f"{name!r} is not a metric: write ndcg, mrr, hit with a cut-off, as in ndcg@10."
        )


# Splits


def test_parts_begin_at_their_moments():
    ticks = np.array([0, 9_999, 10_000, 19_999, 20_000, 99_000])
    parts = parts_by_time(ticks, 1_000, Moments(10, 20))
    assert parts.tolist() == [TRAIN, TRAIN, VALID, VALID, TEST, TEST]
    assert parts.dtype == np.int8


def test_each_part_has_at_least_one_event():
    seconds = np.array([5, 1, 3])
    assert choose_moments(seconds, 0.01, 0.01) == Moments(3, 5)
    with pytest.raises(UserError, match=r"1970-01-01T00:00:01Z.*leaves a part empty.*from .*01Z to .*05Z"):
        choose_moments(seconds, 0.9, 0.9)
    first = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    with pytest.raises(UserError, match="leaves a part empty"):
        choose_moments(seconds, 0.3, 0.3, valid_from=first)
    last = datetime(1970, 1, 1, 0, 0, 6, tzinfo=UTC)
    with pytest.raises(UserError, match="--valid-from and --test-from, or other shares"):
        choose_moments(seconds, 0.3, 0.3, test_from=last)


def test_both_dates_in_place_of_both_shares():
    seconds = np.arange(100)
    dates = [datetime(1970, 1, 1, 0, 0, second, tzinfo=UTC) for second in (20, 50)]
    assert choose_moments(seconds, 0.1, 0.1, *dates) == Moments(20, 50)
    with pytest.raises(UserError, match="leaves a part empty"):
        choose_moments(seconds, 0.1, 0.1, dates[0], dates[0])


def test_cold_events_are_counted_once():
    log = Interactions(
        np.array([0, 0, 1, 1, 2], dtype=np.int32),
        np.array([0, 1, 0, 2, 2], dtype=np.int32),
        np.arange(5),
    )
    parts = np.array([TRAIN, TRAIN, TRAIN, VALID, TEST], dtype=np.int8)
    kept, removed = drop_cold(log, parts, "drop", "drop")
    assert kept.tolist() == [True, True, True, False, False]
    assert removed == {"cold_users": 1, "cold_items": 1}, "user 2's event is gone before items are looked at"
    kept, removed = drop_cold(log, parts, "keep", "drop")
    assert removed == {"cold_items": 2}
    kept, removed = drop_cold(log, parts, "keep", "keep")
    assert kept.all()
    assert kept.dtype == np.bool_
    assert removed == {}
    empty = Interactions(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64))
    kept, removed = drop_cold(empty, np.zeros(0, np.int8), "drop", "drop")
    assert (len(kept), removed) == (0, {"cold_users": 0, "cold_items": 0})


def test_ends_of_histories_and_the_description():
    users = np.array([0, 0, 0, 1, 1, 2], dtype=np.int32)
    parts = np.array([TRAIN, VALID, TEST, TRAIN, TRAIN, TEST], dtype=np.int8)
    ends = history_ends(users, parts)
    assert {name: counts.tolist() for name, counts in ends.items()} == {
        "events": [3, 2, 1],
        "train_end": [1, 2, 0],
        "valid_end": [2, 2, 0],
    }
    assert {counts.dtype for counts in ends.values()} == {np.dtype("int64")}
    nobody = history_ends(np.zeros(0, np.int32), np.zeros(0, np.int8))
    assert {name: len(counts) for name, counts in nobody.items()} == dict.fromkeys(ends, 0)
    assert describe_split(parts, None) == {"events_in": {"train": 3, "valid": 1, "test": 2}}
    told = describe_split(parts[:2], Moments(60, 3600))
    assert told["events_in"] == {"train": 1, "valid": 1, "test": 0}
    assert told["valid_from"] == "1970-01-01T00:01:00Z"
    assert told["test_from"] == "1970-01-01T01:00:00Z"
