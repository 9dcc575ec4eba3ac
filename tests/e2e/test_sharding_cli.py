"""`train.shard_items` at the command line: the run of two processes is that of one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from e2e.test_parallel_cli import experiment_on, torchrun
from hm4sr.data.dataset import Dataset
from hm4sr.experiments.records import Record
from hm4sr.nn.ranks import current
from hm4sr.training.loop import train
from hm4sr.training.run import Run, train_run
from processes import in_processes
from unit.test_training import interrupt_after, make_dataset

LOSSES = ["full", "sampled"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("sharding") / "walks")


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model.safetensors")


def assert_close(run: Path, expected: Path) -> None:
    """Losses within rounding, an item table within what rounding makes of it, ranks of all targets.

    Over hundreds of steps without dropout Adam magnifies rounding where gradients are next to nothing; single
    steps are compared closely in tests/contract/test_sharding.py.
    """
    one, other = Run.open(run), Run.open(expected)
    for row, wanted in zip(one.metrics(), other.metrics(), strict=True):
        assert row["losses"] == pytest.approx(wanted["losses"], rel=2e-3, abs=2e-3)
    assert weights(run).keys() == weights(expected).keys()
    for name, tensor in weights(expected).items():
        assert weights(run)[name].shape == tensor.shape
    table, wanted = (weights(path)["items.weight"] for path in (run, expected))
    assert (table - wanted).norm() < 0.05 * wanted.norm()
    ranks, wanted_ranks = one.ranks(), other.ranks()
    assert np.array_equal(ranks["user"], wanted_ranks["user"])
    assert (ranks["rank"] != wanted_ranks["rank"]).mean() < 0.2  # a few change places by rounding
    assert one.report["parameters"] == other.report["parameters"]


@pytest.mark.parametrize("batch", [8, 64])  # of 8, many batches have fewer rows than there are processes
def test_full_loss_of_two_processes_is_that_of_one(dataset, tmp_path, batch):
    experiment = experiment_on(dataset.path, batch_targets=batch)
    train_run(experiment, tmp_path / "one")
    sharded = experiment_on(dataset.path, batch_targets=batch, shard_items=True)
    done = torchrun(tmp_path, sharded, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert_close(tmp_path / "two", tmp_path / "one")
    assert "this process keeps" in done.stdout
    Run.open(tmp_path / "two").load_model(dataset)
    # What is spread over processes decides nothing: it is the same run.
    assert Record.open(tmp_path / "two").identity == Record.open(tmp_path / "one").identity


@pytest.mark.parametrize("name", ["sasrec", "hm4sr-plus"])
def test_sampled_loss_is_that_of_two_processes_with_whole_tables(dataset, tmp_path, name):
    for run, shard in (("whole", False), ("parts", True)):
        experiment = experiment_on(dataset.path, name, loss="sampled", negatives=9, shard_items=shard)
        done = torchrun(tmp_path, experiment, "--out", str(tmp_path / run))
        assert done.returncode == 0, done.stderr
    assert_close(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("loss", LOSSES)
def test_one_process_and_two_continue_each_other(dataset, tmp_path, loss):
    experiment = experiment_on(dataset.path, epochs=3, loss=loss, shard_items=True)
    train_run(experiment, tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        train_run(experiment, tmp_path / "run", on_epoch=interrupt_after(1))
    first = Run.open(tmp_path / "one").metrics()[0]
    two = experiment_on(dataset.path, epochs=2, loss=loss, shard_items=True)
    found = in_processes(2, tmp_path, continued, two, str(dataset.path), str(tmp_path / "run" / "resume"))
    assert found[0]["epochs"].tolist() == found[1]["epochs"].tolist() == [1, 2]
    resumed = train_run(experiment, tmp_path / "run", resume=True)
    assert resumed.metrics()[0]["losses"] == first["losses"]
    assert len(resumed.metrics()) == 3
    if loss == "full":  # the draws of a sampled loss are each process's own
        assert_close(tmp_path / "run", tmp_path / "one")


def continued(experiment: Any, data: str, folder: str) -> dict[str, Tensor]:
    """Go on with a run in this process, whose state the first one reads and saves."""
    state = None if current().rank else Path(folder)
    trained = train(experiment, Dataset.open(Path(data)), state, resume=True)
    return {"epochs": torch.tensor([row["epoch"] for row in trained.progress.metrics])}


def test_one_process_alone_shards_nothing(dataset, tmp_path):
    for run, shard in (("off", False), ("on", True)):
        train_run(experiment_on(dataset.path, "sasrec", shard_items=shard), tmp_path / run)
    one, other = (tmp_path / run / "model.safetensors" for run in ("off", "on"))
    assert one.read_bytes() == other.read_bytes()
