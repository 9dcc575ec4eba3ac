"""Timing recommendations leaves the model as it was."""

from types import SimpleNamespace

import pytest
import torch
from test_training import experiment_on, make_dataset

from hm4sr.evaluation import speed
from hm4sr.training.loop import build_model

CPU = torch.device("cpu")


def test_a_thousand_histories_are_encoded_in_every_repeat(tmp_path, monkeypatch):
    dataset = make_dataset(tmp_path / "walks")
    model = build_model(experiment_on(dataset, "sasrec"), dataset, CPU).train()
    model.matmul_dtype = torch.bfloat16
    seen = []

    def scores(batch, candidates):
        assert not model.training
        assert model.matmul_dtype == torch.float32
        seen.append(len(batch.items))
        return type(model).scores(model, batch, candidates)

    monkeypatch.setattr(model, "scores", scores)
    assert speed.seconds_per_thousand(model, dataset.events, CPU) > 0
    assert sum(seen) == 4 * 1_000
    assert model.training
    assert model.matmul_dtype == torch.bfloat16
    assert not model._fixed


def test_the_repeat_that_warms_up_does_not_count(tmp_path, monkeypatch):
    dataset = make_dataset(tmp_path / "walks")
    model = build_model(experiment_on(dataset, "sasrec"), dataset, CPU)
    ticks = iter(
        [0.0, 1.0, 10.0, 15.0, 20.0, 23.0, 30.0, 34.0]
    )  # the first repeat takes 1, the others 5, 3 and 4
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert speed.seconds_per_thousand(model, dataset.events, CPU) == 3


def test_users_without_a_history_cannot_be_timed(tmp_path):
    dataset = make_dataset(tmp_path / "single", lengths=(1, 2))
    model = build_model(experiment_on(dataset, "sasrec"), dataset, CPU)
    with pytest.raises(ValueError, match="no user"):
        speed.seconds_per_thousand(model, dataset.events, CPU)
