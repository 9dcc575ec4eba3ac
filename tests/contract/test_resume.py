"""Every registered model: stopped in the middle of an epoch and resumed, it ends with the same bytes."""

import signal

import pytest
import torch

from hm4sr.models import registered_models
from hm4sr.training.checkpoint import saved_states
from hm4sr.training.run import train_run
from training_kit import experiment_on, make_dataset, steps_of_an_epoch, stop_at, weights_of

NAMES = list(registered_models())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("resume") / "shop")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_stopped_within_an_epoch_ends_with_the_bytes_of_one_that_was_not(dataset, tmp_path, name):
    experiment = experiment_on(dataset.path, name)
    whole = train_run(experiment, tmp_path / "whole")
    steps = steps_of_an_epoch(dataset, experiment)
    stopped, begun = stop_at(steps + steps // 2, experiment, tmp_path / "stopped")
    assert begun == steps + steps // 2, "the step under way is finished, and no other begun"
    assert stopped.exit_code == 128 + signal.SIGTERM
    assert f"step {steps // 2} of epoch 2" in stopped.where
    torch.manual_seed(99)  # the global generator has no say
    resumed = train_run(experiment, tmp_path / "stopped", resume=True)
    assert weights_of(tmp_path / "stopped") == weights_of(tmp_path / "whole")
    assert resumed.ranks().equals(whole.ranks())
    assert [row["losses"] for row in resumed.metrics()] == [row["losses"] for row in whole.metrics()]


@pytest.mark.parametrize("settings", [{"loss": "sampled", "negatives": 8}, {"average": 0.0}, {"threads": 2}])
def test_so_does_one_with_another_optimiser_or_more_threads(dataset, tmp_path, settings):
    before = torch.get_num_threads()
    try:
        experiment = experiment_on(dataset.path, "hm4sr", **settings)
        train_run(experiment, tmp_path / "whole")
        stop_at(5, experiment, tmp_path / "stopped")
        train_run(experiment, tmp_path / "stopped", resume=True)
        assert weights_of(tmp_path / "stopped") == weights_of(tmp_path / "whole")
    finally:
        torch.set_num_threads(before)


def test_a_run_stopped_three_times_and_saved_after_every_step_ends_with_the_same_bytes(dataset, tmp_path):
    train_run(experiment_on(dataset.path), tmp_path / "whole")
    often = experiment_on(dataset.path, save_minutes=1e-9)
    for step in (2, 3, 11):
        stop_at(step, often, tmp_path / "stopped", resume=True, number=signal.SIGINT)
        assert len(saved_states(tmp_path / "stopped" / "resume")) == 1
    train_run(experiment_on(dataset.path, save_minutes=5), tmp_path / "stopped", resume=True)
    assert weights_of(tmp_path / "stopped") == weights_of(tmp_path / "whole")
