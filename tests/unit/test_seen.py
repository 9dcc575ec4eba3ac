"""The term for items of the history: in the loss, in judging, and in what a recommender answers."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hm4sr.data.batches import evaluation_batches, make_batch, training_windows
from hm4sr.data.dataset import EventLog
from hm4sr.evaluation.ranking import rank_events
from hm4sr.models import get_model
from hm4sr.nn import losses
from hm4sr.nn.losses import softmax_loss
from hm4sr.nn.seen import seen_at_end, seen_at_targets
from hm4sr.serving.recommender import Recommender
from hm4sr.training.optimizer import Optimizer
from hm4sr.types import Catalog, Clock

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import USERS, make_dataset, make_run

HISTORIES = [[3, 1, 3, 2, 5, 1, 4, 6, 6, 2], [2, 2, 2, 2, 7], [1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5]]
NUM_ITEMS = 8


def log_of(histories: list[list[int]]) -> EventLog:
    lengths = [len(items) for items in histories]
    starts = np.cumsum([0, *lengths]).astype(np.int64)
    times = np.concatenate([np.arange(n) for n in lengths]).astype(np.int64) * 86_400
    return EventLog(np.concatenate(histories).astype(np.int32), times, starts, starts[1:] - 2, starts[1:] - 1)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("max_length", [2, 4, 50])
def test_seen_is_what_stands_before_the_target(parallel, max_length):
    log = log_of(HISTORIES)
    windows = training_windows(log, max_length, parallel)
    batch = make_batch(log, windows)
    found = seen_at_targets(batch)
    row, place = batch.target_places // batch.items.shape[1], batch.target_places % batch.items.shape[1]
    assert len(found) == sum(len(items) - 3 for items in HISTORIES)
    for items, r, p in zip(found.tolist(), row.tolist(), place.tolist(), strict=True):
        user = HISTORIES[windows.users[r]]
        before = user[: windows.starts[r] - log.starts[windows.users[r]] + p + 1]
        assert sorted(item for item in items if item) == sorted(set(before))


def test_the_whole_history_counts_in_judging():
    log = log_of(HISTORIES)
    for windows in evaluation_batches(log, log.targets("test"), 3, 8):
        for user, items in zip(windows.users, seen_at_end(make_batch(log, windows)).tolist(), strict=True):
            assert sorted(item for item in items if item) == sorted(set(HISTORIES[user][:-1]))


def test_no_more_than_the_newest_thousand_earlier_events_count():
    log = log_of([[1] * 5 + [2] * 1_010])
    (windows,) = evaluation_batches(log, log.targets("test"), 3, 8)
    batch = make_batch(log, windows)
    assert batch.earlier.shape == (1, 1_000)
    assert set(batch.earlier.flatten().tolist()) == {2}


@pytest.mark.parametrize("score_padding", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_and_its_gradients_are_those_of_plain_logits(monkeypatch, score_padding, weighted):
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", 900)
    rng = torch.Generator().manual_seed(3)
    hidden = torch.randn(37, 8, generator=rng, requires_grad=True)
    vectors = torch.randn(90, 8, generator=rng, requires_grad=True)
    targets = torch.randint(1, 90, (37,), generator=rng)
    by = torch.tensor(0.7, requires_grad=True)
    raised = torch.stack([torch.randperm(89, generator=rng)[:6] + 1 for _ in range(37)])
    raised[:, -2:] = 0
    raised[3, 0] = targets[3]  # somebody comes back
    log_weights = torch.rand(90, generator=rng) if weighted else None
    mask = torch.zeros(37, 90).scatter(1, raised, 1.0)
    mask[:, 0] = 0
    logits = hidden @ vectors.T + by * mask
    if log_weights is not None:
        logits = logits + log_weights * (1 - F.one_hot(targets, 90))
    if not score_padding:
        logits[:, 0] = -torch.inf
    parameters = (hidden, vectors, by)
    expected = torch.autograd.grad(F.cross_entropy(logits, targets), parameters)
    loss = softmax_loss(
        hidden,
        vectors,
        targets,
        score_padding=score_padding,
        log_weights=log_weights,
        raised=raised,
        by=by,
    )
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets))
    for found, wanted in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    fixed = (hidden.detach(), vectors.detach(), targets, torch.float32, score_padding, log_weights)
    frozen = softmax_loss(*fixed, raised=raised, by=by)
    (alone,) = torch.autograd.grad(frozen, by)
    torch.testing.assert_close(alone, expected[2], atol=1e-6, rtol=1e-5)


def plus(**settings: object) -> torch.nn.Module:
    config = get_model("hm4sr-plus").Config(dim=16, inner=32, dropout=0.1, attention_dropout=0.1, **settings)
    log = log_of(HISTORIES)
    counts = torch.bincount(torch.from_numpy(log.items.astype(np.int64)), minlength=NUM_ITEMS + 1)
    catalog = Catalog(NUM_ITEMS, clock=Clock(0, 86_400 * 12, 86_400), max_length=4, target_counts=counts)
    return get_model("hm4sr-plus")(config, catalog, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("negatives", [0, 3])
@pytest.mark.parametrize(
    ("histories", "sign"),
    [
        ([list(range(first, first + 6)) for first in (1, 2, 3)], -1),  # always something new
        ([[1, 2, 1, 2, 1, 2, 1, 2], [5, 6, 5, 6, 5, 6, 5, 6]], 1),  # always something known
    ],
)
def test_it_learns_whether_people_come_back(histories, sign, negatives):
    log = log_of(histories)
    model = plus()
    model.negatives = negatives
    optimizer = Optimizer(model, 0.01, 0.0, False, 0.0)
    batch = make_batch(log, training_windows(log, 4, True))
    assert model.seen_bias() == 0
    for _ in range(15):
        optimizer.step(torch.stack(list(model.losses(batch).values())).sum())
    assert model.seen_bias() * sign > 0.5


def test_scores_differ_by_the_term_alone():
    model = plus()
    model.eval()
    log = log_of(HISTORIES)
    (windows,) = evaluation_batches(log, log.targets("test"), 4, 8)
    batch = make_batch(log, windows)
    with torch.no_grad(), model.fixed_items() as candidates:
        plain = model.scores(batch, candidates)
        model.seen.weight.fill_(-0.3)
        raised = model.scores(batch, candidates)
    for row, user in enumerate(windows.users):
        seen = sorted(set(HISTORIES[user][:-1]))
        others = [item for item in range(1, NUM_ITEMS + 1) if item not in seen]
        torch.testing.assert_close(raised[row, seen], plain[row, seen] - 3.0)
        assert torch.equal(raised[row, others], plain[row, others])


def test_a_part_can_be_left_out():
    names = {name for name, _ in plus(seen_bias=False, question=False).named_parameters()}
    assert not [name for name in names if name.startswith(("seen", "question"))]
    paper = get_model("hm4sr")(plus().config, plus().catalog, torch.Generator().manual_seed(1))
    assert names == {name for name, _ in paper.named_parameters()}


@pytest.fixture(scope="module")
def recommender(tmp_path_factory) -> Recommender:
    folder = tmp_path_factory.mktemp("seen")
    run = make_run(folder / "run", make_dataset(folder / "data"), "hm4sr-plus", max_length=3)
    found = Recommender.load(run.path)
    with torch.no_grad():
        found.model.seen.weight.fill_(0.2)
    found.served = replace(found.served, ranker=found._ranker())
    return found


def test_answers_are_those_of_the_model(recommender):
    """With items of the history allowed, lists and scores are the model's own."""
    users = list(USERS)
    assert recommender.served.ranker.seen_bias == pytest.approx(2.0)
    answers = recommender.recommend(users=users, k=5, filter_seen=False)
    requests = recommender.prepare(users).requests
    table = recommender._table(requests.padded(np.arange(len(users)), recommender.max_length))
    order = np.argsort(-table, axis=1, kind="stable")[:, :5]
    assert np.array_equal(answers.numbers, order)
    np.testing.assert_allclose(answers.scores, np.take_along_axis(table, order, 1), rtol=1e-5, atol=1e-6)
    ids = [recommender.served.shelf.ids[number - 1] for number in order[0]]
    scores = recommender.score(ids, users=users[0])
    np.testing.assert_allclose(scores[0], table[0, order[0]], rtol=1e-5, atol=1e-6)


def test_terms_sum_to_the_score_of_an_item_of_the_history(recommender):
    (found,) = recommender.explain(users=next(iter(USERS)), k=5, filter_seen=False)
    assert any("seen" in item.terms for item in found.items)
    for item in found.items:
        assert sum(item.terms.values()) == pytest.approx(item.score, abs=1e-5)
        assert sum(abs(share) for share in item.shares.values()) == pytest.approx(1.0, abs=1e-5)


def test_ranks_among_unseen_items_are_those_of_a_table_without_the_others():
    model, log = plus(), log_of(HISTORIES)
    targets = log.targets("test")
    ranked = rank_events(model, log, targets, torch.device("cpu"), unseen=True)
    everything = rank_events(model, log, targets, torch.device("cpu"))
    model.eval()
    (windows,) = evaluation_batches(log, targets, 4, 8)
    with torch.no_grad(), model.fixed_items() as candidates:
        table = model.scores(make_batch(log, windows), candidates)
    for row, user in enumerate(windows.users):
        *seen, target = HISTORIES[user]
        others = [item for item in range(1, NUM_ITEMS + 1) if item not in seen and item != target]
        expected = 1 + int((table[row, others] >= table[row, target]).sum())
        assert ranked.ranks[list(ranked.users).index(user)] == expected
    assert (ranked.ranks <= everything.ranks).all()
    assert (ranked.ranks < everything.ranks).any()
