"""Data with something taken away: fewer users to learn from, times that are not exact."""

import numpy as np
import pytest
from test_training import experiment_on, make_dataset

from hm4sr.data.changes import blurred_times, training_events
from hm4sr.data.dataset import Dataset, EventLog
from hm4sr.errors import UserError
from hm4sr.evaluation.metrics import summarise
from hm4sr.evaluation.ranking import rank_part
from hm4sr.experiments.records import identity
from hm4sr.runtime import choose_device
from hm4sr.training.events import learned_events, seen_events
from hm4sr.training.loop import train
from hm4sr.training.run import train_run
from hm4sr.training.settings import Experiment


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("changes") / "walks")


def changed(dataset: Dataset, **data: object) -> Experiment:
    values = experiment_on(dataset, epochs=1).resolved()
    return Experiment.build({**values, "data": {**values["data"], **data}}, "test")


def kept_users(log: EventLog) -> set[int]:
    return set(np.flatnonzero(np.diff(log.starts) > 0).tolist())


def test_a_smaller_share_of_users_is_part_of_a_larger_one(dataset):
    log = dataset.events
    logs = {share: training_events(log, share, np.random.default_rng(3)) for share in (0.2, 0.5, 1.0)}
    assert kept_users(logs[0.2]) < kept_users(logs[0.5]) < kept_users(logs[1.0])
    assert len(kept_users(logs[0.2])) == round(0.2 * log.num_users)
    for some in logs.values():
        assert some.num_users == log.num_users
        for user in kept_users(some):
            whole = slice(log.starts[user], log.train_end[user])
            part = slice(some.starts[user], some.starts[user + 1])
            assert some.items[part].tolist() == log.items[whole].tolist()
            assert some.times[part].tolist() == log.times[whole].tolist()
        assert not len(some.targets("valid"))
        assert not len(some.targets("test"))


@pytest.mark.parametrize(("share", "kept"), [(1e-9, 1), (0.37, 1), (0.38, 2), (0.9, 4), (1.0, 4)])
def test_a_share_is_rounded_and_of_those_who_have_training_events(share, kept):
    starts = np.array([0, 2, 4, 5, 8, 9])  # the third user has no training event
    train_end = np.array([1, 3, 4, 6, 9])
    log = EventLog(np.arange(1, 10, dtype=np.int32), np.arange(9), starts, train_end, train_end)
    some = training_events(log, share, np.random.default_rng(5))
    assert len(kept_users(some)) == kept
    assert 2 not in kept_users(some)


def test_all_users_leave_the_training_part_as_it_is(dataset):
    log = dataset.events
    whole = training_events(log, 1.0, np.random.default_rng(0))
    assert whole.items.tolist() == log.items[log.train_mask()].tolist()


def test_noise_keeps_the_order_and_does_not_look_ahead(dataset):
    log = dataset.events
    noisy = blurred_times(log, 20.0, np.random.default_rng(1))
    assert noisy.items is log.items
    for user in range(log.num_users):
        part = slice(log.starts[user], log.starts[user + 1])
        assert (np.diff(noisy.times[part]) >= 0).all()
    first = noisy.times[log.starts[:-1]] - log.times[log.starts[:-1]]
    assert first.std() == pytest.approx(20 * 86_400, rel=0.4)
    # The times up to an event are the same whatever comes after it.
    later = log.times.copy()
    later[log.starts[1:] - 1] += 10**9
    other = blurred_times(EventLog(log.items, later, log.starts, log.train_end, log.valid_end), 20.0,
                          np.random.default_rng(1))  # fmt: skip
    earlier = np.ones(log.num_events, dtype=bool)
    earlier[log.starts[1:] - 1] = False
    assert noisy.times[earlier].tolist() == other.times[earlier].tolist()


def test_by_default_the_log_is_the_data_set_s_own(dataset):
    settings = changed(dataset).data
    assert seen_events(dataset, settings) is dataset.events
    assert learned_events(dataset.events, settings) is dataset.events


def test_fewer_users_are_learned_from_and_all_are_judged(dataset):
    few = train(changed(dataset, train_users=0.3), dataset)
    all_users = train(changed(dataset), dataset)
    assert len(few.ranks["test"].ranks) == len(all_users.ranks["test"].ranks)
    assert few.report["test"] != all_users.report["test"]
    log = learned_events(dataset.events, changed(dataset, train_users=0.3).data)
    assert few.model.catalog.counts.tolist() == log.train_counts(dataset.num_items).tolist()
    assert few.model.catalog.target_counts.tolist() == log.target_counts(dataset.num_items).tolist()
    assert few.model.catalog.clock == log.clock()


def test_a_run_with_noise_is_judged_with_its_noise_again(dataset, tmp_path):
    run = train_run(changed(dataset, time_noise_days=100.0), tmp_path / "run")
    seen = seen_events(dataset, run.experiment.data)
    assert seen.times.tolist() != dataset.events.times.tolist()
    ranks = rank_part(run.load_model(dataset), seen, "test", choose_device("cpu")).ranks
    assert summarise(ranks, (5, 10, 20)) == pytest.approx(run.report["test"])


def test_seeds_of_changes(dataset):
    def seen(seed: int) -> list[int]:
        return seen_events(
            dataset, changed(dataset, time_noise_days=1.0, change_seed=seed).data
        ).times.tolist()

    assert seen(1) == seen(1) != seen(2)


@pytest.mark.parametrize("values", [{"train_users": 0.0}, {"train_users": 1.5}, {"time_noise_days": -1.0}])
def test_shares_and_errors_out_of_range(dataset, values):
    with pytest.raises(UserError, match=next(iter(values))):
        changed(dataset, **values)


def test_runs_from_before_these_settings_keep_their_identity(dataset):
    data = {"files": {}, "features": {}}
    config = changed(dataset).resolved()
    old = {
        **config,
        "data": {k: v for k, v in config["data"].items() if k not in ("train_users", "change_seed")},
    }
    assert identity(old, data) == identity(config, data)
    assert identity(changed(dataset, train_users=0.5).resolved(), data) != identity(config, data)
