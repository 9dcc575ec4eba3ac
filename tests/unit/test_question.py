"""The moment of the question: in batches, in hm4sr-plus, and in what a recommender answers."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hm4sr.data.batches import evaluation_batches, make_batch, training_windows
from hm4sr.data.dataset import Dataset, EventLog
from hm4sr.models import get_model
from hm4sr.nn.question import QuestionTime
from hm4sr.serving.recommender import Recommender
from hm4sr.training.optimizer import Optimizer
from hm4sr.types import Catalog, Clock, SeqBatch

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import DAY, START, USERS, make_dataset, make_run


def log_of(times: list[list[int]]) -> EventLog:
    items = np.concatenate([np.arange(1, len(user) + 1) for user in times]).astype(np.int32)
    starts = np.cumsum([0, *map(len, times)]).astype(np.int64)
    return EventLog(items, np.concatenate(times).astype(np.int64), starts, starts[1:] - 2, starts[1:] - 1)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_question_is_asked_when_its_target_happens(parallel):
    log = log_of([[10, 20, 40, 80, 160], [5, 6, 8, 12, 20, 36]])
    batch = make_batch(log, training_windows(log, 50, parallel))
    learned = batch.targets > 0
    # Items count the events of a user from 1, so a target's number tells its moment.
    users = batch.users[:, None].expand_as(learned)[learned].numpy()
    expected = log.times[log.starts[users] + batch.targets[learned].numpy() - 1]
    assert batch.asked[learned].tolist() == expected.tolist()
    assert bool((batch.asked[~batch.valid] == batch.times[~batch.valid]).all())


def test_a_judged_question_is_asked_when_the_judged_event_happens():
    log = log_of([[10, 20, 40, 80, 160], [5, 6, 8, 12, 20, 36]])
    (windows,) = evaluation_batches(log, log.targets("test"), 50, 8)
    batch = make_batch(log, windows)
    newest = batch.asked.gather(1, batch.lengths[:, None] - 1)[:, 0]
    assert sorted(newest.tolist()) == [36, 160]


def plus() -> torch.nn.Module:
    clock = Clock(0, 400 * DAY, 100 * DAY)
    config = get_model("hm4sr-plus").Config(dim=16, inner=32, dropout=0.1, attention_dropout=0.1)
    return get_model("hm4sr-plus")(
        config, Catalog(6, clock=clock, max_length=4), torch.Generator().manual_seed(1)
    )


def questions(waits: list[int], targets: list[int]) -> SeqBatch:
    """The same history of two events each time, asked after different waits."""
    B = len(waits)
    times = torch.tensor([[0, 10 * DAY]]).repeat(B, 1)
    return SeqBatch(
        items=torch.tensor([[1, 2]]).repeat(B, 1),
        times=times,
        lengths=torch.full((B,), 2),
        targets=torch.stack([torch.zeros(B, dtype=torch.long), torch.tensor(targets)], 1),
        users=torch.arange(B),
        asked=times + torch.tensor(waits)[:, None],
    )


def test_it_learns_what_only_the_moment_of_the_question_tells():
    """After one and the same history item 3 follows at once and item 4 after months."""
    model = plus()
    optimizer = Optimizer(model, 0.01, 0.0, False)
    waits, targets = [60, 200 * DAY] * 8, [3, 4] * 8
    for _ in range(60):
        optimizer.step(torch.stack(list(model.losses(questions(waits, targets)).values())).sum())
    model.eval()
    with torch.no_grad():
        best = model.scores(questions([90, 190 * DAY], [3, 4]), model.item_vectors()).argmax(1)
    assert best.tolist() == [3, 4]


def test_hm4sr_itself_does_not_look_at_the_question():
    config = get_model("hm4sr").Config(dim=16, inner=32)
    model = get_model("hm4sr")(config, Catalog(6, max_length=4), torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        first, second = model.last_hidden(questions([60, 200 * DAY], [3, 4]))
    assert torch.equal(first, second)


def test_moments_outside_the_training_time_count_as_its_ends():
    question = QuestionTime(8, 4, Clock(0, 100 * DAY, DAY), 4.0, 10_000.0, torch.Generator().manual_seed(0))
    hidden, newest = torch.ones(3, 8), torch.full((3,), -10_000 * DAY)
    asked = torch.tensor([100 * DAY, 5_000 * DAY, 50 * DAY])
    last, later, within = question(hidden, newest, asked)
    assert torch.equal(last, later)
    assert not torch.equal(last, within)


def test_without_a_moment_the_question_follows_at_once():
    model = plus().eval()
    asked = questions([0, 0], [3, 4])
    unsaid = SeqBatch(asked.items, asked.times, asked.lengths, asked.targets, asked.users)
    with torch.no_grad():
        assert torch.equal(model.encode(asked), model.encode(unsaid))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    make_dataset(folder / "data")
    dataset = Dataset.open(folder / "data")
    for name in ("hm4sr", "hm4sr-plus"):
        make_run(folder / name, dataset, name)
    return {name: Recommender.load(folder / name) for name in ("hm4sr", "hm4sr-plus")}


def test_the_moment_of_a_request_reaches_the_model_that_reads_it(shop):
    history = [("i9", START), ("007", START + DAY)]
    for name, same in (("hm4sr", True), ("hm4sr-plus", False)):
        soon, late = (
            shop[name].score(["i9", "7"], histories=history, at_time=START + days * DAY) for days in (1, 30)
        )
        assert np.array_equal(soon, late) == same


def test_a_batch_of_moments_gives_each_request_its_own(shop):
    moments = [START + DAY, START + 9 * DAY, START + 30 * DAY]
    together = shop["hm4sr-plus"].score("7", users=[USERS[0]] * 3, at_time=moments)
    alone = [shop["hm4sr-plus"].score("7", users=USERS[0], at_time=moment) for moment in moments]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5)


def test_a_request_without_a_moment_is_asked_at_the_newest_of_the_data(shop):
    recommender = shop["hm4sr-plus"]
    history = [("i9", START), ("007", START + DAY)]
    unsaid = recommender.score("7", histories=history)
    said = recommender.score("7", histories=history, at_time=recommender.invented.last)
    np.testing.assert_array_equal(unsaid, said)
