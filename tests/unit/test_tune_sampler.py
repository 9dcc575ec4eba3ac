"""How a search samples: anew at every start, elsewhere than what is under way; what a trial scores."""

import csv
from pathlib import Path
from typing import Any

import optuna
import pytest
from test_training import make_dataset
from test_tune import base_of, fake_training, space_of

from hm4sr.data.dataset import Dataset
from hm4sr.experiments import trial as trial_module
from hm4sr.experiments import tune
from hm4sr.experiments.tune import Search
from hm4sr.training.settings import Experiment

WIDE = (
    f'"train.learning_rate" = {[round(1e-4 * step, 4) for step in range(1, 41)]}\n'
    f'"model.dropout" = {[round(0.01 * step, 2) for step in range(40)]}\n'
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("sampler") / "walks")


@pytest.fixture
def samplers(monkeypatch) -> list[dict[str, Any]]:
    """What each sampler was made with."""
    made: list[dict[str, Any]] = []
    real = optuna.samplers.TPESampler

    def recorded(**options: Any) -> Any:
        if options:  # Optuna makes one itself for a study that is opened without
            made.append(options)
        return real(**options)

    monkeypatch.setattr(optuna.samplers, "TPESampler", recorded)
    return made


def score_of(experiment: Experiment) -> list[float]:
    return [experiment.model["dropout"] / 10]


def test_a_search_that_goes_on_does_not_propose_what_it_has_proposed(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(trial_module, "train", fake_training([], score_of))
    space = space_of(tmp_path, WIDE)
    for trials in (3, 6):
        found = Search(base_of(dataset), "base.toml", space, tmp_path / "out", pruner="none").run(trials)
    # A proposal that was tried before is thrown away together with its number.
    assert sorted(trial.number for trial in found) == list(range(6))


def test_each_start_samples_under_a_seed_of_its_own(dataset, tmp_path, monkeypatch, samplers):
    monkeypatch.setattr(trial_module, "train", fake_training([], score_of))
    space = space_of(tmp_path, WIDE)
    for trials in (3, 5):
        Search(base_of(dataset), "base.toml", space, tmp_path / "out", pruner="none", seed=70).run(trials)
    assert [options["seed"] for options in samplers] == [70, 73]


def test_two_searches_of_one_seed_try_the_same_points(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(trial_module, "train", fake_training([], score_of))
    space = space_of(tmp_path, WIDE)
    points = [
        [
            trial.point
            for trial in Search(base_of(dataset), "base.toml", space, tmp_path / out, seed=seed).run(3)
        ]
        for out, seed in (("one", 1), ("again", 1), ("other", 2))
    ]
    assert points[0] == points[1] != points[2]


def test_trials_beside_each_other_keep_away_from_what_is_under_way(dataset, tmp_path, monkeypatch, samplers):
    monkeypatch.setattr(trial_module, "train", fake_training([], score_of))
    space = space_of(tmp_path, WIDE)

    def beside(tasks: Any, workers: int, address: str | None) -> Any:
        yield from ((task, None) for task in tasks)

    monkeypatch.setattr(tune, "side_by_side", beside)
    Search(base_of(dataset), "base.toml", space, tmp_path / "alone").run(1)
    search = Search(base_of(dataset), "base.toml", space, tmp_path / "beside")
    with pytest.raises(tune.UserError, match="none was begun"):  # nobody has trained them
        search.run(1, workers=2)
    assert [options["constant_liar"] for options in samplers] == [False, True]


def test_a_pruned_trial_scores_its_best_epoch(dataset, tmp_path, monkeypatch):
    curves = {
        0.1: [0.5] * 8,
        0.3: [0.06, 0.04, 0.03, 0.02, 0.01, 0.9],
        0.5: [0.01, 0.02, 0.05, 0.04, 0.03, 0.9],
    }
    monkeypatch.setattr(trial_module, "_STARTUP_TRIALS", 1)
    monkeypatch.setattr(
        trial_module, "train", fake_training([], lambda experiment: curves[experiment.model["dropout"]])
    )
    space = space_of(tmp_path, '"model.dropout" = [0.1, 0.3, 0.5]\n')
    trials = Search(base_of(dataset, epochs=8), "base.toml", space, tmp_path / "out").run(3)
    assert [(trial.point["model.dropout"], trial.score, trial.pruned, trial.epochs) for trial in trials] == [
        (0.1, 0.5, False, 8),
        (0.3, 0.06, True, 5),
        (0.5, 0.05, True, 5),
    ]
    with Path(tmp_path / "out" / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(float(row["ndcg@20"]), row["pruned"]) for row in rows] == [(0.5, "0"), (0.06, "1"), (0.05, "1")]
