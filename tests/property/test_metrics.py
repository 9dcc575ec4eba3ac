"""Metrics against ir-measures, ranks against a brute-force ranking."""

from dataclasses import replace

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, Qrel, ScoredDoc, Success, nDCG

from contract.catalogs import small_catalog, small_model
from hm4sr.data.dataset import EventLog
from hm4sr.errors import UserError
from hm4sr.evaluation.metrics import hit_at_k, mrr_at_k, ndcg_at_k, summarise
from hm4sr.evaluation.ranking import rank_events, rank_part, target_ranks

SEEDS = st.integers(0, 2**31)


def distinct_scores(seed: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores without ties, padding at minus infinity, and one relevant item a row."""
    rng = np.random.default_rng(seed)
    scores = np.stack([rng.permutation(columns) for _ in range(rows)]).astype(np.float32) / 7
    scores[:, 0] = -np.inf
    return torch.from_numpy(scores), torch.from_numpy(rng.integers(1, columns, rows))


@given(SEEDS, st.integers(1, 8), st.integers(2, 40))
def test_metrics_are_those_of_an_independent_library(seed, rows, columns):
    scores, targets = distinct_scores(seed, rows, columns)
    ranks = target_ranks(scores, targets).numpy()
    relevant = [Qrel(str(row), str(int(target)), 1) for row, target in enumerate(targets)]
    run = [
        ScoredDoc(str(row), str(item), float(scores[row, item]))
        for row in range(rows)
        for item in range(1, columns)
    ]
    ours = {nDCG: ("ndcg", ndcg_at_k), RR: ("mrr", mrr_at_k), Success: ("hit", hit_at_k)}
    theirs = ir_measures.calc_aggregate(
        [measure @ k for measure in ours for k in (1, 5, 10, 20)], relevant, run
    )
    summary = summarise(ranks, (1, 5, 10, 20))
    assert len(summary) == 12
    for measure, (name, function) in ours.items():
        for k in (1, 5, 10, 20):
            assert function(ranks, k) == pytest.approx(theirs[measure @ k], abs=1e-9)
            assert summary[f"{name}@{k}"] == function(ranks, k)


def test_metrics_of_known_ranks():
    ranks = np.array([1, 3, 11])
    assert ndcg_at_k(ranks, 10) == pytest.approx((1 + 0.5 + 0) / 3)
    assert mrr_at_k(ranks, 10) == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert hit_at_k(ranks, 10) == pytest.approx(2 / 3)
    assert hit_at_k(ranks, 11) == 1.0
    assert summarise(np.zeros(0, dtype=np.int64), (5, 10)) == {}


@given(SEEDS, st.integers(1, 6), st.integers(2, 30), st.integers(1, 4))
def test_ties_count_against_the_model(seed, rows, columns, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (rows, columns)).astype(np.float32)
    targets = rng.integers(0, columns, rows)
    ranks = target_ranks(torch.from_numpy(scores), torch.from_numpy(targets))
    for row, target in enumerate(targets):
        worst = sorted(scores[row].tolist(), reverse=True)
        assert ranks[row] == len(worst) - worst[::-1].index(scores[row, target])


def test_a_model_that_scores_everything_alike_is_last():
    scores = torch.zeros(3, 50)
    assert target_ranks(scores, torch.tensor([1, 20, 49])).tolist() == [50, 50, 50]
    scores[:, 0] = -torch.inf
    assert target_ranks(scores, torch.tensor([1, 20, 49])).tolist() == [49, 49, 49]


def test_a_score_that_is_not_a_number_is_refused():
    scores, targets = distinct_scores(1, 4, 9)
    scores[2, targets[2]] = torch.nan
    with pytest.raises(UserError, match=r"not a number.*learning_rate"):
        target_ranks(scores, targets)


def tiny_log(seed: int, num_users: int, num_items: int) -> EventLog:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, num_users)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    ends = starts[1:]
    return EventLog(
        items=rng.integers(1, num_items + 1, int(starts[-1])).astype(np.int32),
        times=1_400_000_000 + np.sort(rng.integers(0, 10**7, int(starts[-1]))).astype(np.int64),
        starts=starts,
        train_end=np.maximum(ends - 2, starts[:-1]),
        valid_end=np.maximum(ends - 1, starts[:-1]),
    )


@pytest.mark.parametrize("name", ["sasrec", "hm4sr"])
@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("chunk", [None, 100])
def test_rank_part_is_a_brute_force_ranking(name, part, chunk, monkeypatch):
    if chunk:
        monkeypatch.setattr("hm4sr.evaluation.ranking._CHUNK_SCORES", chunk)
    model, log = small_model(name, small_catalog(30, max_length=4)).train(), tiny_log(5, 25, 30)
    ranked = rank_part(model, log, part, torch.device("cpu"))
    assert model.training, "ranking leaves the model in the mode it was in"
    model.eval()
    expected = []
    for user in range(log.num_users):
        first, end = (int(edges[user]) for edges in log.bounds(part))
        for event in range(first, end):
            history = slice(max(int(log.starts[user]), event - 4), event)
            if history.start == event:
                continue
            expected.append((user, int(log.items[event]), brute_force_rank(model, log, history, event)))
    assert len(expected) > 15
    assert list(zip(ranked.users, ranked.items, ranked.ranks, strict=True)) == expected
    table = ranked.table(part)
    assert table.columns == ["part", "user", "item", "rank"]
    assert table["rank"].to_list() == [rank for *_, rank in expected]


def test_several_targets_of_a_user_stay_in_the_order_of_time():
    model, log = small_model("sasrec", small_catalog(30, max_length=6)), tiny_log(6, 12, 30)
    log = replace(log, train_end=log.starts[:-1], valid_end=log.starts[:-1])  # so that all events are targets
    ranked = rank_part(model, log, "test", torch.device("cpu"))
    events = [event for event in range(log.num_events) if event not in log.starts]
    assert ranked.items.tolist() == log.items[events].tolist()
    assert ranked.users.tolist() == log.users[events].tolist()
    alone = [rank_events(model, log, np.array([event]), torch.device("cpu")).ranks[0] for event in events]
    assert ranked.ranks.tolist() == alone


def brute_force_rank(model, log: EventLog, history: slice, event: int) -> int:
    from hm4sr.types import SeqBatch

    items = torch.from_numpy(log.items[history].astype(np.int64))[None]
    times = torch.from_numpy(log.times[history])[None]
    length = torch.tensor([items.shape[1]])
    batch = SeqBatch(items, times, length, torch.zeros_like(items), torch.tensor([0]))
    with torch.no_grad():
        scores = model.scores(batch, model.item_vectors())[0]
    order = scores[1:].argsort(descending=True) + 1
    return order.tolist().index(int(log.items[event])) + 1
