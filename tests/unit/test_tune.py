"""Searches: the winner is the best on validation, a search goes on where it stopped, mistakes come first."""

import csv
import errno
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_training import make_dataset

from hm4sr.config import read_toml, to_toml
from hm4sr.data.dataset import Dataset
from hm4sr.errors import DivergedError, StoppedError, UserError, WritingError
from hm4sr.experiments import launch
from hm4sr.experiments import trial as trial_module
from hm4sr.experiments.space import Space, placed, point_key
from hm4sr.experiments.tune import Search
from hm4sr.models import registered_models
from hm4sr.training import checkpoint
from hm4sr.training.checkpoint import saved_states
from hm4sr.training.run import train_run
from hm4sr.training.settings import Experiment


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("tune") / "walks")


def base_of(dataset: Dataset, **train: Any) -> dict[str, Any]:
    return {
        "data": {"path": str(dataset.path), "max_length": 8},
        "model": {"name": "sasrec", "dim": 8, "inner": 16, "dropout": 0.1},
        "train": {"epochs": 2, "batch_targets": 128, "threads": 1, "device": "cpu", **train},
    }


def space_of(tmp_path: Path, text: str) -> Space:
    file = tmp_path / "space.toml"
    file.write_text("[search]\n" + text)
    return Space.load(file)


RATES = '"train.learning_rate" = [1e-6, 0.02, 1e-5]\n'


def test_the_winner_is_an_ordinary_configuration_with_the_best_validation_score(dataset, tmp_path):
    space = space_of(tmp_path, RATES)
    search = Search(base_of(dataset), "base.toml", space, tmp_path / "out", pruner="none")
    trials = search.run(10)
    assert sorted(trial.point["train.learning_rate"] for trial in trials) == [1e-6, 1e-5, 0.02]
    assert trials[0].point == {"train.learning_rate": 0.02}
    assert [trial.score for trial in trials] == sorted((trial.score for trial in trials), reverse=True)
    best = tmp_path / "out" / "best.toml"
    assert read_toml(best) == placed(base_of(dataset), trials[0].point)
    run = train_run(Experiment.load(best), tmp_path / "run")
    assert max(row["valid"]["ndcg@20"] for row in run.metrics()) == trials[0].score
    with (tmp_path / "out" / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["ndcg@20"]) for row in rows] == [trial.score for trial in trials]
    assert rows[0]["train.learning_rate"] == "0.02"
    assert not any((tmp_path / "out" / "states").iterdir())


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_no_point_is_tried_twice(dataset, tmp_path, sampler, monkeypatch):
    tried = []
    monkeypatch.setattr(
        trial_module, "train", fake_training(tried, lambda experiment: [experiment.train.learning_rate])
    )
    space = space_of(tmp_path, '"train.learning_rate" = [0.1, 0.2, 0.3]\n"model.dropout" = [0.1, 0.3]\n')
    search = Search(base_of(dataset, learning_rate=0.3), "base.toml", space, tmp_path / "out", sampler)
    assert len(search.run(4)) == 4
    assert len(search.run(50)) == space.size == 6
    points = [(experiment.train.learning_rate, experiment.model["dropout"]) for experiment in tried]
    assert points[0] == (0.3, 0.1), "the configuration's own point comes first"
    assert len(set(points)) == len(points) == 6


def test_a_large_space_is_drawn_from_and_not_listed(dataset, tmp_path, monkeypatch):
    tried, listed = [], Space.points
    monkeypatch.setattr(
        trial_module, "train", fake_training(tried, lambda experiment: [experiment.train.learning_rate])
    )
    monkeypatch.setattr(Space, "points", lambda self: islice(listed(self), 100))
    values = ", ".join(f"0.{digit}" for digit in range(1, 10))
    keys = ("model.dropout", "model.attention_dropout", "train.learning_rate", "train.weight_decay")
    space = space_of(tmp_path, "".join(f'"{key}" = [{values}]\n' for key in keys))
    huge = Space(tmp_path, {str(key): list(range(100)) for key in range(40)})
    assert huge.size > 2**63
    assert len(set(huge.draw(np.random.default_rng(0)).values())) > 10
    search = Search(base_of(dataset, learning_rate=0.3), "base.toml", space, tmp_path / "out", "grid")
    assert len(search.run(12)) == 12
    beyond = {experiment.model["dropout"] for experiment in tried} - {0.1}
    assert beyond, "a list cut off after 100 points has none of them"


def fake_training(tried: list[Experiment], scores: Any) -> Any:
    """Training that takes no time: each epoch's validation score is given."""

    def train(experiment, dataset, state_folder, resume, on_epoch) -> None:
        tried.append(experiment)
        for epoch, score in enumerate(scores(experiment), start=1):
            on_epoch(
                {"epoch": epoch, "valid": {"ndcg@20": score}, "train_seconds": 1.0, "valid_seconds": 0.5}
            )

    return train


def test_an_interrupted_search_goes_on_with_the_same_trial(dataset, tmp_path, monkeypatch):
    space = space_of(tmp_path, RATES)
    search = Search(base_of(dataset), "base.toml", space, tmp_path / "out", pruner="none")
    real, calls = trial_module.train, []

    def interrupted(experiment, dataset, folder, resume, on_epoch):
        def stop(row: dict[str, Any]) -> None:
            on_epoch(row)
            raise KeyboardInterrupt

        calls.append((experiment.train.learning_rate, resume))
        return real(experiment, dataset, folder, resume, stop if len(calls) == 2 else on_epoch)

    monkeypatch.setattr(trial_module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search.run(3)
    assert (tmp_path / "out" / "best.toml").is_file(), "what was finished can be used"
    again = Search(base_of(dataset), "base.toml", space, tmp_path / "out", pruner="none")
    trials = again.run(3)
    assert calls[2] == (calls[1][0], True)
    assert len(calls) == 4
    assert [trial.epochs for trial in trials] == [2, 2, 2]
    # An interruption changes no score.
    whole = Search(base_of(dataset), "base.toml", space, tmp_path / "whole", pruner="none").run(3)
    scores = {point_key(trial.point): trial.score for trial in whole}
    assert {point_key(trial.point): trial.score for trial in trials} == scores


def test_a_signal_ends_a_search_with_the_way_to_go_on(dataset, tmp_path, monkeypatch):
    space = space_of(tmp_path, RATES)
    search = Search(base_of(dataset), "base.toml", space, tmp_path / "out", pruner="none")

    def stopped(*arguments: Any) -> None:
        raise StoppedError(signal.SIGTERM, "after step 3 of epoch 2")

    with monkeypatch.context() as patch:
        patch.setattr(trial_module, "train", stopped)
        with pytest.raises(StoppedError) as error:
            search.run(1)
    told = "stopped in trial 0 after step 3 of epoch 2; what was finished is kept: the same command goes on."
    assert (error.value.where, error.value.exit_code) == (told, 143)
    assert len(search.run(1)) == 1


def test_a_full_disk_is_no_reason_to_name_an_option_that_a_search_has_not(dataset, tmp_path, monkeypatch):
    space = space_of(tmp_path, RATES)
    search = Search(base_of(dataset), "base.toml", space, tmp_path / "out", pruner="none")

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(WritingError, match=r"No space left.*mend the rights, and call again\.$"):
            search.run(1)
    assert len(search.run(1)) == 1


def test_a_trial_that_a_killed_search_left_running_is_waited_for(dataset, tmp_path):
    space, out = space_of(tmp_path, RATES), tmp_path / "out"
    search = Search(base_of(dataset), "base.toml", space, out, "grid", "none")
    search.run(1, workers=2)
    (lock,) = (out / "trials").glob("*.lock")
    journal = out / "journal.log"
    (out / "journal.log.lock").touch()
    waiting: list[str] = []

    class Free(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "is being trained by another process" in record.getMessage():
                waiting.append(record.getMessage())
                assert (out / "journal.log.lock").exists(), "taken from under its owner"
                assert journal.read_text().endswith("half a line"), "cut while it was written"
                fcntl.flock(held, fcntl.LOCK_UN)

    logger, free = logging.getLogger("hm4sr.experiments.launch"), Free()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(free)
    try:
        with lock.open("w") as held, journal.open("a") as file:
            file.write("half a line")
            file.flush()
            fcntl.flock(held, fcntl.LOCK_EX)
            assert len(search.run(2)) == 2
    finally:
        logger.removeHandler(free)
        logger.setLevel(level)
    assert len(waiting) == 1


def test_a_file_system_without_locks_keeps_nobody_out(dataset, tmp_path, monkeypatch):
    def no_locks(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    search = Search(base_of(dataset), "base.toml", space_of(tmp_path, RATES), tmp_path / "out")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert len(search.run(2, workers=2)) == 2
    assert len(search.run(3)) == 3


def test_hopeless_trials_are_pruned_and_cannot_win(dataset, tmp_path, monkeypatch):
    def scores(experiment: Experiment) -> list[float]:
        good = experiment.model["dropout"] < 0.5
        return [0.1] * 20 if good else [0.01] * 10 + [0.9] * 10

    monkeypatch.setattr(trial_module, "train", fake_training([], scores))
    monkeypatch.setattr(trial_module, "_STARTUP_TRIALS", 1)
    space = space_of(tmp_path, '"model.dropout" = [0.1, 0.3, 0.5, 0.7]\n')
    trials = Search(base_of(dataset, epochs=20), "base.toml", space, tmp_path / "out").run(4)
    pruned = [trial for trial in trials if trial.pruned]
    assert sorted(trial.point["model.dropout"] for trial in pruned) == [0.5, 0.7]
    assert {trial.epochs for trial in pruned} == {5}, "the first epoch that may decide"
    assert trials[-2:] == pruned, "the pruned come last, whatever they scored"


def test_a_point_that_diverges_counts_and_scores_nothing(dataset, tmp_path, monkeypatch):
    def train(experiment, dataset, state_folder, resume, on_epoch) -> None:
        row = {"epoch": 1, "valid": {"ndcg@20": 0.4}, "train_seconds": 1.0, "valid_seconds": 0.5}
        on_epoch(row)
        if experiment.train.learning_rate > 0.01:
            raise DivergedError("the loss is not a number in epoch 2: lower train.learning_rate.")

    monkeypatch.setattr(trial_module, "train", train)
    space = space_of(tmp_path, RATES)
    trials = Search(base_of(dataset), "base.toml", space, tmp_path / "out").run(3)
    assert [trial.score for trial in trials] == [0.4, 0.4, 0.0]
    assert trials[-1].point == {"train.learning_rate": 0.02}


def test_where_every_point_diverges_there_is_no_winner(dataset, tmp_path):
    space = space_of(tmp_path, '"train.learning_rate" = [1e30, 1e35]\n')
    with pytest.raises(UserError, match=r"no point of .*space.toml could be trained.* not a number"):
        Search(base_of(dataset), "base.toml", space, tmp_path / "out").run(3)
    assert not (tmp_path / "out" / "best.toml").exists()
    rows = list(csv.DictReader((tmp_path / "out" / "trials.csv").open()))
    assert [float(row["ndcg@20"]) for row in rows] == [0.0, 0.0], "they count all the same"
    assert [(row["pruned"], row["diverged"]) for row in rows] == [("0", "1")] * 2


def test_where_no_point_goes_together_there_is_no_winner(dataset, tmp_path):
    base = base_of(dataset)
    base["model"]["heads"] = 2
    space = space_of(tmp_path, '"model.dim" = [18, 8]\n"model.heads" = [4, 2]\n')
    search = Search(base, "base.toml", space, tmp_path / "out")
    space.choices.update({"model.dim": [18], "model.heads": [4]})  # which `Space.check` refuses otherwise
    with pytest.raises(UserError, match=r"no point of .* could be trained.*heads"):
        search.run(3)
    assert not (tmp_path / "out" / "best.toml").exists()


def test_values_that_clash_with_the_configuration_alone_are_a_space(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(trial_module, "train", fake_training([], lambda experiment: [0.1]))
    space = space_of(tmp_path, '"model.heads" = [3]\n"model.dim" = [24, 48]\n')
    trials = Search(base_of(dataset), "base.toml", space, tmp_path / "out").run(4)
    assert sorted(trial.point["model.dim"] for trial in trials) == [24, 48]


def test_a_device_that_is_not_here_costs_no_point(dataset, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    space = space_of(tmp_path, RATES)
    base = base_of(dataset, device="cuda")
    with pytest.raises(UserError, match="device 'cuda' is not available"):
        Search(base, "base.toml", space, tmp_path / "out").run(3)
    assert not (tmp_path / "out" / "trials.csv").exists()


def test_a_mistake_in_the_configuration_is_not_laid_to_the_space(dataset, tmp_path):
    base = base_of(dataset)
    base["model"]["nosuch"] = 1
    with pytest.raises(UserError, match=r"^base.toml.*nosuch"):
        Search(base, "base.toml", space_of(tmp_path, RATES), tmp_path / "out")


def test_a_journal_that_ends_in_half_a_line_is_mended(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(trial_module, "train", fake_training([], lambda experiment: [0.1]))
    space = space_of(tmp_path, RATES)
    Search(base_of(dataset), "base.toml", space, tmp_path / "out").run(1)
    journal = tmp_path / "out" / "journal.log"
    journal.write_bytes(journal.read_bytes()[:-20])
    trials = Search(base_of(dataset), "base.toml", space, tmp_path / "out").run(3)
    assert sorted(trial.point["train.learning_rate"] for trial in trials) == [1e-6, 1e-5, 0.02]


def test_a_journal_that_is_damaged_is_named(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(trial_module, "train", fake_training([], lambda experiment: [0.1]))
    space = space_of(tmp_path, RATES)
    Search(base_of(dataset), "base.toml", space, tmp_path / "out").run(1)
    journal = tmp_path / "out" / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], b"no JSON\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"journal.log is damaged"):
        Search(base_of(dataset), "base.toml", space, tmp_path / "out").run(3)


def test_values_that_do_not_go_together_are_passed_over(dataset, tmp_path, monkeypatch):
    tried: list[Experiment] = []
    monkeypatch.setattr(trial_module, "train", fake_training(tried, lambda experiment: [0.1]))
    space = space_of(tmp_path, '"model.dim" = [8, 12]\n"model.heads" = [2, 3]\n')
    trials = Search(base_of(dataset), "base.toml", space, tmp_path / "out").run(4)
    assert len(trials) == len(tried) == 3
    assert {"model.dim": 8, "model.heads": 3} not in [trial.point for trial in trials]


def test_values_may_be_lists(dataset, tmp_path, monkeypatch):
    tried: list[Experiment] = []
    monkeypatch.setattr(trial_module, "train", fake_training(tried, lambda experiment: [0.1]))
    base = base_of(dataset)
    base["model"] = {"name": "hm4sr", "dim": 8, "inner": 16}
    space = space_of(tmp_path, '"data.features" = [[], ["text"]]\n')
    trials = Search(base, "base.toml", space, tmp_path / "out").run(2)
    assert {experiment.data.features for experiment in tried} == {(), ("text",)}
    assert sorted(trial.point["data.features"] for trial in trials) == [[], ["text"]]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('"model.dropuot" = [0.1]', "dropuot"),
        ('"model.dropout" = 0.1', "must be a list"),
        ('"model.dropout" = []', "must be a list"),
        ('"model.dropout" = [0.1, 0.1]', "twice"),
        ("model.dropout = [0.1]", "in quotes"),
        ('"model.name.x" = [1]', "section"),
        ('"model.dropout" = ["much"]', "much"),
        ('"data.path" = ["x"]', "cannot be searched"),
        ('"train.monitor" = ["ndcg@10", "ndcg@20"]', "cannot be searched"),
        ('"model.dropout" = [0, 0.0, 0.1]', "twice"),
        ('"model.dropout" = [nan, 0.1]', "finite"),
        ('"model.dropout" = [1979-05-27]', "only finite numbers"),
        ('"model.heads" = [3]\n"model.dim" = [8, 16]', "heads"),
        ("", "one table"),
    ],
)
def test_mistakes_in_a_space_are_found_before_anything_is_written(dataset, tmp_path, text, named):
    with pytest.raises(UserError, match=named):
        Search(base_of(dataset), "base.toml", space_of(tmp_path, text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_search_is_not_continued(dataset, tmp_path):
    space = space_of(tmp_path, RATES)
    Search(base_of(dataset), "base.toml", space, tmp_path / "out")
    Search(base_of(dataset), "base.toml", space, tmp_path / "out")
    with pytest.raises(UserError, match="other space"):
        Search(base_of(dataset), "base.toml", space_of(tmp_path, '"model.dim" = [8]'), tmp_path / "out")
    with pytest.raises(UserError, match="other settings"):
        Search(base_of(dataset, epochs=3), "base.toml", space, tmp_path / "out")
    with pytest.raises(UserError, match="other sampler and pruner"):
        Search(base_of(dataset), "base.toml", space, tmp_path / "out", "grid", "hyperband")
    (tmp_path / "full").mkdir()
    shutil.copy(tmp_path / "space.toml", tmp_path / "full")
    with pytest.raises(UserError, match="is not empty"):
        Search(base_of(dataset), "base.toml", space, tmp_path / "full")


def test_two_searches_in_one_folder_are_refused(dataset, tmp_path):
    space = space_of(tmp_path, RATES)
    search = Search(base_of(dataset), "base.toml", space, tmp_path / "out")
    with search._alone(), pytest.raises(UserError, match="another process"):
        search.run(1)


def test_several_processes_try_the_same_points_with_the_same_scores(dataset, tmp_path):
    space = space_of(tmp_path, RATES)
    alone = Search(base_of(dataset), "base.toml", space, tmp_path / "alone", "grid", "none").run(3)
    search = Search(base_of(dataset), "base.toml", space, tmp_path / "beside", "grid", "none")
    assert len(search.run(2, workers=2)) == 2
    beside = search.run(3, workers=2)
    scores = {point_key(trial.point): (trial.score, trial.epochs) for trial in alone}
    assert {point_key(trial.point): (trial.score, trial.epochs) for trial in beside} == scores
    assert len(list((tmp_path / "beside" / "trials").glob("*.log"))) == 3
    best = [read_toml(tmp_path / folder / "best.toml") for folder in ("alone", "beside")]
    assert best[0] == best[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_a_search_ends_its_processes(dataset, tmp_path, number, code):
    config = tmp_path / "base.toml"
    config.write_text(to_toml(base_of(dataset, epochs=5000, patience=5000)))
    space_of(tmp_path, RATES)
    line = [sys.executable, "-m", "hm4sr.cli", "tune", config, "--space", tmp_path / "space.toml"]
    line += ["--out", tmp_path / "out", "--trials", "2", "--workers", "2", "--pruner", "none"]
    before = signal.signal(number, signal.SIG_DFL)  # children of `nohup make test` would not hear of SIGHUP
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    signal.signal(number, before)
    while process.poll() is None:
        states = list((tmp_path / "out" / "states").glob("*"))
        if len(states) == 2 and all(map(saved_states, states)):
            break
        time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate()
    assert process.returncode == code
    assert told.strip() == "hm4sr: stopped; whole epochs are kept: the same command goes on."
    for lock in (tmp_path / "out" / "trials").glob("*.lock"):
        with lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody is left


def test_several_interrupted_processes_go_on_after_their_last_epochs(dataset, tmp_path, monkeypatch):
    space = space_of(tmp_path, RATES)
    base, out = base_of(dataset, epochs=40, patience=40), tmp_path / "out"
    real = launch.wait

    def interrupted(pending: Any, **options: Any) -> Any:
        states = (out / "states").glob("*")
        if sum(bool(saved_states(state)) for state in states) == 2:
            raise KeyboardInterrupt
        return real(pending, **options)

    with monkeypatch.context() as patch:
        patch.setattr(launch, "wait", interrupted)
        with pytest.raises(StoppedError, match="whole epochs are kept: the same command goes on"):
            Search(base, "base.toml", space, out, "grid", "none").run(2, workers=2)
    begun = {state.name for state in (out / "states").iterdir()}
    trials = Search(base, "base.toml", space, out, "grid", "none").run(2, workers=2)
    assert [trial.epochs for trial in trials] == [40, 40]
    logs = [file.read_text() for file in sorted((out / "trials").glob("*.log"))]
    assert sum("resumed after" in log for log in logs) == len(begun) == 2


def test_a_process_that_fails_ends_the_search_and_its_trial_is_tried_again(dataset, tmp_path, monkeypatch):
    space = space_of(tmp_path, RATES)
    search = Search(base_of(dataset), "base.toml", space, tmp_path / "out", "grid", "none")
    with monkeypatch.context() as patch:
        script = tmp_path / "dies.sh"
        script.write_text("#!/bin/sh\necho 'hm4sr: no memory is left' >&2\nexit 1\n")
        script.chmod(0o755)
        patch.setattr(trial_module.sys, "executable", str(script))
        with pytest.raises(
            UserError, match=r"has stopped, .*trial 0 \(no memory is left, see .*00000\.log\)"
        ):
            search.run(3, workers=2)
    trials = search.run(3, workers=2)
    assert len(trials) == 3
    assert {trial.epochs for trial in trials} == {2}


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parents[2].glob("configs/search/*.toml")), ids=lambda f: f.stem
)
def test_the_spaces_that_come_with_the_project_fit_their_models(file, dataset):
    space = Space.load(file)
    assert space.size > 1
    models = registered_models()
    for name in [file.stem] if file.stem in models else models:
        space.check({"data": {"path": str(dataset.path)}, "model": {"name": name}})


def test_toml_is_read_back(tmp_path):
    values = {
        "seed": 1,
        "model": {"name": 'a "b"\\ \n \x7f é \u2028', "deep": {"rates": [1e-5, 2.0], "on": True}},
        "none": {},
    }
    (tmp_path / "x.toml").write_text(to_toml(values))
    assert read_toml(tmp_path / "x.toml") == values
