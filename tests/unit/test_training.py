"""Training runs: the best epoch is kept, runs repeat to the byte, and damage is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from hm4sr.config import to_toml
from hm4sr.data.dataset import Dataset, EventLog, save_dataset
from hm4sr.errors import UserError
from hm4sr.evaluation.metrics import summarise
from hm4sr.evaluation.ranking import RankedTargets, rank_events, rank_part
from hm4sr.features.store import save_features
from hm4sr.files import sha256
from hm4sr.training import loop
from hm4sr.training.loop import train
from hm4sr.training.run import FILES, Run, train_run
from hm4sr.training.settings import Experiment
from hm4sr.types import ItemFeatures

NUM_USERS, NUM_ITEMS = 60, 25


def make_dataset(path: Path, seed: int = 0, lengths: tuple[int, int] = (5, 12)) -> Dataset:
    """Users who walk from item to the next one, with a stumble now and then."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(*lengths, NUM_USERS)
    users = np.repeat(np.arange(NUM_USERS), counts)
    walks = [(rng.integers(NUM_ITEMS) + np.arange(n) + (rng.random(n) < 0.1)) % NUM_ITEMS + 1 for n in counts]
    times = [1_400_000_000 + np.sort(rng.integers(0, 10**7, n)) for n in counts]
    items = {
        "item_id": [f"i{i}" for i in range(1, NUM_ITEMS + 1)],
        "title": [f"Item {i}" for i in range(1, NUM_ITEMS + 1)],
        "brand": [None] * NUM_ITEMS,
        "categories": [[f"c{i % 3}"] for i in range(NUM_ITEMS)],
        "text": [f"item {i}" for i in range(1, NUM_ITEMS + 1)],
        "image": [None] * NUM_ITEMS,
    }
    dataset = save_dataset(
        path,
        events=pl.DataFrame(
            {"user": users, "item": np.concatenate(walks), "time": np.concatenate(times)},
            schema={"user": pl.Int32, "item": pl.Int32, "time": pl.Int64},
        ),
        users=pl.DataFrame(
            {
                "user_id": [f"u{u}" for u in range(NUM_USERS)],
                "events": counts,
                "train_end": np.maximum(counts - 2, 0),
                "valid_end": np.maximum(counts - 1, 0),
            }
        ),
        items=pl.DataFrame(items, schema_overrides={"brand": pl.String, "image": pl.String}),
        rules={},
        statistics={},
    )
    vectors = torch.randn(NUM_ITEMS + 1, 6, generator=torch.Generator().manual_seed(seed))
    present = torch.ones(NUM_ITEMS + 1, dtype=torch.bool)
    present[[0, 4]] = False
    save_features(dataset, "text", ItemFeatures(vectors * present[:, None], present), {"encoder": "random"})
    return dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("training") / "walks")


def experiment_on(dataset: Dataset, name: str = "hm4sr", **train: Any) -> Experiment:
    values = {
        "data": {"path": str(dataset.path), "max_length": 8},
        "model": {"name": name, "dim": 8, "inner": 16, "dropout": 0.1, "attention_dropout": 0.1},
        "train": {
            "epochs": 5,
            "batch_targets": 64,
            "learning_rate": 0.01,
            "threads": 1,
            "device": "cpu",
            **train,
        },
        "seed": 4,
    }
    return Experiment.build(values, "test")


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory) -> Run:
    """A finished run that tests only read."""
    return train_run(experiment_on(dataset), tmp_path_factory.mktemp("runs") / "finished")


def copied(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "copy"
    path.mkdir()
    for file in run.path.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def interrupt_after(epochs: int):
    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] == epochs:
            raise KeyboardInterrupt

    return on_epoch


# The loop


def test_it_learns(dataset, run):
    chance = summarise(np.arange(1, NUM_ITEMS + 1), [5])["hit@5"]
    assert run.report["test"]["hit@5"] > 2 * chance
    losses = [row["losses"]["main"] for row in run.metrics()]
    assert losses[-1] < losses[0]
    assert list(run.metrics()[0]["losses"]) == ["main", "cp", "idcl", "pcl"]


def test_training_stops_when_patience_is_over_and_keeps_the_best_epoch(dataset, monkeypatch):
    played = [9, 5, 3, 3, 4, 8, 2]
    real, weights = rank_events, []

    def fake(model, log, targets, device) -> RankedTargets:
        ranked = real(model, log, targets, device)
        weights.append({key: value.clone() for key, value in model.state_dict().items()})
        return RankedTargets(ranked.users, ranked.items, np.full_like(ranked.ranks, played[len(weights) - 1]))

    monkeypatch.setattr(loop, "rank_events_together", fake)
    trained = train(experiment_on(dataset, "sasrec", epochs=50, patience=3), dataset)
    # Ranks 9, 5, 3 improve; an equal 3 does not, nor do 4 and 8: patience 3 is over after epoch 6.
    assert trained.progress.epoch == 6
    assert trained.progress.best_epoch == trained.report["best_epoch"] == 3
    assert trained.report["epochs"] == 6
    for key, value in trained.model.state_dict().items():
        assert torch.equal(value, weights[2][key])


def test_the_last_epoch_is_the_limit(dataset):
    rows: list[dict[str, Any]] = []
    trained = train(experiment_on(dataset, "sasrec", epochs=2, patience=50), dataset, on_epoch=rows.append)
    assert trained.progress.epoch == 2
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows == trained.progress.metrics


def test_training_leaves_the_model_ready_to_score(dataset):
    trained = train(experiment_on(dataset, "sasrec", epochs=1), dataset)
    assert not trained.model.training


def test_prefixes_can_be_learned_one_by_one(dataset):
    trained = train(experiment_on(dataset, "sasrec", epochs=1, parallel=False), dataset)
    assert trained.progress.metrics[0]["losses"]["main"] > 0


def test_windows_of_a_long_history_share_as_many_events_as_told(tmp_path, monkeypatch):
    long = make_dataset(tmp_path / "long", lengths=(22, 30))
    real, learned = loop.TrainingBatches, []

    def spy(log, windows, batch_targets):
        taken = windows.take(np.arange(len(windows)))
        first, end = log.bounds("train")
        assert (taken.lengths - taken.first_target).sum() == (end - first - 1).sum()
        learned.append(int(taken.first_target.max()))
        return real(log, windows, batch_targets)

    monkeypatch.setattr(loop, "TrainingBatches", spy)
    experiment = experiment_on(long, "sasrec", epochs=1)
    for context in (0, 4, 7):
        data = experiment.data.model_copy(update={"window_context": context})
        train(experiment.model_copy(update={"data": data}), long)
    assert learned == [0, 4, 7]


def test_a_loss_that_is_not_a_number_is_explained(dataset):
    with pytest.raises(UserError, match=r"not a number.*learning_rate"):
        train(experiment_on(dataset, "sasrec", learning_rate=1e20, precision="float32"), dataset)


def test_histories_that_are_too_short_are_explained(tmp_path):
    dataset = make_dataset(tmp_path / "short", lengths=(1, 2))
    with pytest.raises(UserError, match="no training targets"):
        train(experiment_on(dataset, "sasrec"), dataset)


def test_a_modality_that_was_never_extracted_is_explained_before_anything_is_written(dataset, tmp_path):
    values = experiment_on(dataset).resolved()
    values["data"]["features"] = ["text", "image"]
    with pytest.raises(UserError, match="image"):
        train_run(Experiment.build(values, "test"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# The run folder


def test_the_run_folder_holds_what_it_promises(dataset, run):
    assert sorted(file.name for file in run.path.iterdir()) == sorted([*FILES, "manifest.json"])
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["files"] == {name: sha256(run.path / name) for name in FILES}
    expected = experiment_on(dataset).resolved()
    expected["data"]["features"] = ["text"]  # spelt out, so that features extracted later change nothing
    assert run.config == expected
    assert run.items["item_id"].to_list() == [f"i{i}" for i in range(1, NUM_ITEMS + 1)]
    data = json.loads((run.path / "data.json").read_text())
    assert data["files"] == dataset.hashes
    assert list(data["features"]) == ["text"]


def test_the_report_is_complete(run):
    report = run.report
    names = {f"{metric}@{k}" for metric in ("ndcg", "mrr", "hit") for k in (5, 10, 20)}
    assert report["valid"].keys() == report["test"].keys() == names
    assert (report["model"], report["dataset"], report["seed"]) == ("hm4sr", "walks", 4)
    assert report["epochs"] == len(run.metrics()) == 5
    assert report["seconds_per_epoch"] > 0
    assert report["parameters"] > 0


def test_the_report_judges_the_best_epoch(dataset, run):
    rows = run.metrics()
    best = max(rows, key=lambda row: row["valid"]["ndcg@20"])
    assert run.report["best_epoch"] == best["epoch"]
    assert run.report["valid"] == best["valid"]
    model = run.load_model(run.dataset())
    for part in ("valid", "test"):
        ranked = rank_part(model, dataset.events, part, torch.device("cpu"))
        assert summarise(ranked.ranks, (5, 10, 20)) == run.report[part]
        kept = run.ranks().filter(pl.col("part") == part)
        assert kept["rank"].to_list() == ranked.ranks.tolist()
        assert kept["user"].to_list() == ranked.users.tolist() == list(range(NUM_USERS))


def test_the_same_seed_gives_the_same_bytes(dataset, run, tmp_path):
    again = train_run(experiment_on(dataset), tmp_path / "again")
    assert sha256(again.path / "model.safetensors") == sha256(run.path / "model.safetensors")
    assert sha256(again.path / "ranks.parquet") == sha256(run.path / "ranks.parquet")
    values = {**experiment_on(dataset).resolved(), "seed": 5}
    other = train_run(Experiment.build(values, "test"), tmp_path / "other")
    assert sha256(other.path / "model.safetensors") != sha256(run.path / "model.safetensors")


@pytest.mark.parametrize("epochs", [1, 3, 5])
def test_an_interrupted_run_resumes_to_the_same_bytes(dataset, run, tmp_path, epochs):
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_run(experiment_on(dataset), path, on_epoch=interrupt_after(epochs))
    with pytest.raises(UserError, match=r"interrupted: continue it with .*--resume"):
        Run.open(path)
    with pytest.raises(UserError, match="--resume to continue it or --force to replace it"):
        train_run(experiment_on(dataset), path)
    rows: list[dict[str, Any]] = []
    resumed = train_run(experiment_on(dataset), path, resume=True, on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == list(range(epochs + 1, 6))
    assert sha256(path / "model.safetensors") == sha256(run.path / "model.safetensors")
    assert resumed.report["test"] == run.report["test"]
    assert [row["losses"] for row in resumed.metrics()] == [row["losses"] for row in run.metrics()]
    assert not (path / "resume").exists()


@pytest.fixture
def interrupted(dataset, tmp_path) -> Path:
    path = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        train_run(experiment_on(dataset), path, on_epoch=interrupt_after(2))
    return path


def test_resuming_with_other_settings_is_refused(dataset, interrupted):
    before = sorted(file.name for file in interrupted.rglob("*"))
    with pytest.raises(UserError, match=r"other settings \(train differ\)"):
        train_run(experiment_on(dataset, learning_rate=0.02), interrupted, resume=True)
    assert sorted(file.name for file in interrupted.rglob("*")) == before


def test_resuming_on_other_data_is_refused(tmp_path):
    dataset = make_dataset(tmp_path / "walks", seed=1)
    with pytest.raises(KeyboardInterrupt):
        train_run(experiment_on(dataset), tmp_path / "run", on_epoch=interrupt_after(1))
    changed = make_dataset(tmp_path / "walks", seed=2)
    with pytest.raises(UserError, match="other data"):
        train_run(experiment_on(changed), tmp_path / "run", resume=True)


def test_resuming_on_other_features_is_refused(tmp_path):
    dataset = make_dataset(tmp_path / "walks", seed=1)
    with pytest.raises(KeyboardInterrupt):
        train_run(experiment_on(dataset), tmp_path / "run", on_epoch=interrupt_after(1))
    ones = torch.ones(NUM_ITEMS + 1, 6)
    present = torch.arange(NUM_ITEMS + 1) > 0
    save_features(dataset, "text", ItemFeatures(ones, present), {"encoder": "ones"})
    with pytest.raises(UserError, match=r"other data \(features differ\)"):
        train_run(experiment_on(dataset), tmp_path / "run", resume=True)


def test_a_damaged_state_is_not_resumed(dataset, interrupted):
    (state,) = (interrupted / "resume").iterdir()
    flip_a_byte(state / "optimizer.safetensors")
    with pytest.raises(UserError, match="has changed since it was written"):
        train_run(experiment_on(dataset), interrupted, resume=True)


def test_resuming_what_was_never_saved_begins_at_the_beginning(dataset, tmp_path):
    run = train_run(experiment_on(dataset, epochs=1), tmp_path / "nothing", resume=True)
    assert run.report["epochs"] == 1


def test_resuming_a_finished_run_changes_nothing(dataset, run, tmp_path):
    path = copied(run, tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    again = train_run(experiment_on(dataset), path, resume=True)
    assert again.report == run.report
    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == before
    with pytest.raises(UserError, match="other settings"):
        train_run(experiment_on(dataset, epochs=6), path, resume=True)


def test_force_is_needed_to_replace_a_run(dataset, run, tmp_path):
    path = copied(run, tmp_path)
    with pytest.raises(UserError, match="--force to replace it"):
        train_run(experiment_on(dataset, epochs=1), path)
    assert Run.open(path).report == run.report
    replaced = train_run(experiment_on(dataset, epochs=1), path, force=True)
    assert replaced.report["epochs"] == 1


def test_a_mistake_in_the_settings_does_not_cost_the_run_that_was_to_be_replaced(dataset, run, tmp_path):
    path = copied(run, tmp_path)
    values = experiment_on(dataset).resolved()
    values["model"]["heads"] = 3
    with pytest.raises(ValueError, match="heads"):
        train_run(Experiment.build(values, "test"), path, force=True)
    assert Run.open(path).report == run.report


def test_some_users_are_validated_with_all_their_targets():
    """A split at one moment leaves some with several."""
    ends = (np.array([1, 6, 12]), np.array([4, 8, 15]))
    log = EventLog(np.ones(20, np.int32), np.arange(20), np.array([0, 5, 10, 20]), *ends)
    assert log.targets("valid").tolist() == [1, 2, 3, 6, 7, 12, 13, 14]
    owners = set()
    for seed in range(20):
        settings = SimpleNamespace(seed=seed, train=SimpleNamespace(validation_users=2))
        chosen = loop._validation_targets(settings, SimpleNamespace(events=log))
        users = set(log.users_of(chosen).tolist())
        assert len(users) == 2
        assert chosen.tolist() == [
            event for event in log.targets("valid") if int(log.users_of(event)) in users
        ]
        owners |= users
    assert owners == {0, 1, 2}
    settings.train.validation_users = 3
    assert len(loop._validation_targets(settings, SimpleNamespace(events=log))) == 8


def test_a_run_interrupted_within_its_first_validation_is_continued(dataset, tmp_path, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "rank_events_together", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_run(experiment_on(dataset, epochs=1), path)
    with pytest.raises(UserError, match="--resume to continue"):
        train_run(experiment_on(dataset, epochs=1), path)
    assert train_run(experiment_on(dataset, epochs=1), path, resume=True).report["epochs"] == 1


def interrupt(*_: Any) -> RankedTargets:
    raise KeyboardInterrupt


def test_a_folder_of_something_else_is_never_replaced(dataset, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(UserError, match="not a run folder"):
        train_run(experiment_on(dataset), tmp_path, force=True)
    assert (tmp_path / "photo.jpg").read_text() == "mine"


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused(run, tmp_path, name):
    path = copied(run, tmp_path)
    assert Run.open(path).report == run.report
    flip_a_byte(path / name)
    with pytest.raises(UserError, match=rf"{name} has changed since it was written"):
        Run.open(path)


def test_a_missing_file_and_a_folder_that_is_no_run_are_refused(run, tmp_path):
    path = copied(run, tmp_path)
    (path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        Run.open(path)
    with pytest.raises(UserError, match="is not a folder"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a finished run"):
        Run.open(tmp_path)


def test_the_data_of_a_run_can_move_but_not_change(run, dataset, tmp_path):
    moved = make_dataset(tmp_path / "moved")
    assert run.dataset(moved.path).hashes == dataset.hashes
    other = make_dataset(tmp_path / "other", seed=9)
    with pytest.raises(UserError, match="not the data"):
        run.dataset(other.path)


def test_weights_are_plain_tensors(run):
    weights = load_file(run.path / "model.safetensors")
    assert "items.weight" in weights
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_compiled_losses_learn_the_same(dataset, tmp_path):
    """In a process of its own: shapes in signatures are not enforced there, which cannot be compiled."""
    plain = train(experiment_on(dataset, "sasrec", epochs=1), dataset)
    experiment = experiment_on(dataset, "sasrec", epochs=1, compile=True)
    config = tmp_path / "config.toml"
    config.write_text(to_toml(experiment.resolved()), encoding="utf-8")
    command = [sys.executable, "-m", "hm4sr.cli", "train", str(config), "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, capture_output=True)
    losses = Run.open(tmp_path / "run").metrics()[0]["losses"]
    assert losses == pytest.approx(plain.progress.metrics[0]["losses"], rel=1e-3, abs=1e-3)
