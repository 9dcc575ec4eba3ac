"""Lists of runs: known by content, found, shared, continued; published copies hold what tables need."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from record_kit import record as hand_made
from test_training import experiment_on, interrupt_after, make_dataset

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.evaluation.metrics import Metric, summarise
from hm4sr.evaluation.segments import target_facts
from hm4sr.experiments import runs as runs_module
from hm4sr.experiments.compare import (
    default_ours,
    expect_one_dataset,
    facts_about,
    label_entries,
    obtain_in_two_rounds,
    published_records,
)
from hm4sr.experiments.launch import Job
from hm4sr.experiments.records import DatasetFacts, Record, find_facts, finished, identity, publish
from hm4sr.experiments.runs import Entry, Shelf, best_on_validation, obtain, with_seed
from hm4sr.files import hash_files
from hm4sr.manifest import read_manifest, write_manifest
from hm4sr.training.run import train_run
from hm4sr.training.settings import Experiment

NDCG = Metric("ndcg", 10)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("runs") / "walks")


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Runs are trained in this process; the list tells which."""
    names: list[str] = []

    def run_jobs(jobs: list[Job], workers: int, on_finished: Any, address: str | None) -> None:
        for job in jobs:
            names.append(job.path.name + ("+" if job.resume else ""))
            train_run(job.experiment, job.path, resume=job.resume)
            on_finished(job.path)

    monkeypatch.setattr(runs_module, "run_jobs", run_jobs)
    return names


def short(dataset: Dataset, name: str = "sasrec", **train: Any) -> Experiment:
    return experiment_on(dataset, name, **{"epochs": 1, "batch_targets": 256, **train})


def changed(experiment: Experiment, section: str, **values: Any) -> Experiment:
    old = getattr(experiment, section)
    new = {**old, **values} if isinstance(old, dict) else old.model_copy(update=values)
    return experiment.model_copy(update={section: new})


# Identity


def test_identity_is_what_decides_the_result(dataset):
    data = {"path": "here", "files": {"events.parquet": "1"}, "features": {}}
    base = short(dataset)

    def key(experiment: Experiment, **other: Any) -> str:
        return identity(experiment.resolved(), {**data, **other})

    same = [
        with_seed(base, 7),
        changed(base, "train", threads=3, device="auto"),
        changed(base, "data", path=Path("elsewhere")),
        changed(base, "evaluate", ks=(1,)),
    ]
    assert {key(experiment) for experiment in same} == {key(base)}
    assert key(base, path="there") == key(base)
    others = [
        changed(base, "train", learning_rate=0.02),
        changed(base, "train", epochs=7),
        changed(base, "model", dim=4),
        changed(base, "data", max_length=7),
    ]
    keys = {key(experiment) for experiment in others} | {key(base)}
    keys |= {key(base, files={"events.parquet": "2"}), key(base, features={"text": {}})}
    assert len(keys) == len(others) + 3


# Found, shared, trained


def test_missing_runs_are_trained_once_and_found_afterwards(dataset, tmp_path, trained):
    entries = [
        Entry("a", short(dataset)),
        Entry("again", short(dataset)),
        Entry("b", short(dataset, epochs=2)),
    ]
    records = obtain(entries, [2], Shelf(tmp_path))
    assert len(trained) == 2
    assert all(name.startswith("walks-sasrec-") for name in trained)
    assert records["a"][2].path == records["again"][2].path != records["b"][2].path
    assert records["a"][2].seed == 2
    assert obtain(entries, [2], Shelf(tmp_path), train=False)["b"][2].report == records["b"][2].report
    assert len(trained) == 2


def test_a_run_made_by_hand_is_found_whatever_its_folder_is_called(dataset, tmp_path, trained):
    train_run(with_seed(short(dataset), 3), tmp_path / "by-hand")
    records = obtain([Entry("a", short(dataset))], [3], Shelf(tmp_path))
    assert records["a"][3].path == tmp_path / "by-hand"
    assert not trained


def test_a_setting_added_since_then_has_its_default(dataset, tmp_path, trained):
    run = train_run(with_seed(short(dataset), 1), tmp_path / "old")
    config = json.loads((run.path / "config.json").read_text())
    del config["train"]["validation_users"]
    older = Record.open(run.path)
    (run.path / "config.json").write_text(json.dumps(config))
    manifest = read_manifest(run.path / "manifest.json")
    sealed = {**manifest, "files": hash_files(run.path, list(manifest["files"]))}
    write_manifest(run.path / "manifest.json", sealed)
    assert Record.open(run.path).identity == older.identity


def test_an_interrupted_run_is_continued(dataset, tmp_path, trained):
    shelf = Shelf(tmp_path)
    experiment = with_seed(short(dataset, epochs=2), 1)
    with pytest.raises(KeyboardInterrupt):
        train_run(experiment, shelf.plan(experiment).path, on_epoch=interrupt_after(1))
    # Other threads are the same run: they do not keep it from being continued.
    again = changed(short(dataset, epochs=2), "train", threads=2)
    record = obtain([Entry("a", again)], [1], shelf)["a"][1]
    assert [name[-1] for name in trained] == ["+"]
    assert record.report["epochs"] == 2


def test_missing_runs_are_an_error_where_training_is_not_allowed(dataset, tmp_path, trained):
    with pytest.raises(UserError, match=r"2 of 2 runs are not trained.*walks-sasrec-.*-s1"):
        obtain([Entry("a", short(dataset))], [1, 2], Shelf(tmp_path), train=False)
    assert not trained


def test_mistakes_are_found_before_anything_is_trained(dataset, tmp_path, trained):
    broken = changed(short(dataset, "hm4sr"), "data", features=("sound",))
    with pytest.raises(UserError, match="sound"):
        obtain([Entry("a", short(dataset)), Entry("b", broken)], [1], Shelf(tmp_path))
    assert not trained


def test_a_damaged_run_is_told_and_never_used(dataset, tmp_path, trained, caplog):
    run = train_run(with_seed(short(dataset), 1), tmp_path / "run")
    (run.path / "ranks.parquet").write_bytes((run.path / "ranks.parquet").read_bytes()[:-1] + b"?")
    assert list(finished(tmp_path)) == []
    assert "ranks.parquet has changed" in caplog.text
    with pytest.raises(UserError, match="1 of 1 runs are not trained"):
        obtain([Entry("a", short(dataset))], [1], Shelf(tmp_path), train=False)


def test_what_is_no_run_is_left_out(tmp_path, caplog):
    (tmp_path / "broken").mkdir()
    for name in ("manifest.json", "report.json"):
        (tmp_path / "broken" / name).write_text("[]")
    (tmp_path / "unfinished").mkdir()
    assert list(finished(tmp_path)) == []
    assert "broken" in caplog.text
    assert list(finished(tmp_path / "nowhere")) == []


# Selection


def test_finalists_are_the_best_on_validation(dataset, tmp_path, trained):
    entries = [
        Entry("ours", short(dataset, epochs=1, learning_rate=1e-5)),
        Entry("bad", short(dataset, epochs=1, learning_rate=1e-6)),
        Entry("good", short(dataset, epochs=3, learning_rate=0.02)),
    ]
    records = obtain_in_two_rounds(entries, [1], 1, [1, 2], NDCG, Shelf(tmp_path), 1, True)
    assert best_on_validation({label: {1: seeds[1]} for label, seeds in records.items()}, NDCG)[0] == "good"
    assert {label: sorted(seeds) for label, seeds in records.items()} == {
        "ours": [1, 2],
        "bad": [1],
        "good": [1, 2],
    }


def test_the_test_part_chooses_nobody(tmp_path):
    good, fair, bad = [1, 1, 2], [3, 4, 5], [9, 9, 99]
    parts = {
        "lucky": {"valid": bad, "test": good},
        "chosen": {"valid": good, "test": bad},
        "between": {"valid": fair, "test": fair},
    }
    records = {label: {1: hand_made(tmp_path / label, ranks)} for label, ranks in parts.items()}
    assert best_on_validation(records, NDCG) == ["chosen", "between", "lucky"]
    # The mean over seeds decides, not the best of them.
    records["lucky"][2] = hand_made(tmp_path / "lucky-2", {"valid": [1, 1, 1], "test": good}, seed=2)
    records["between"][2] = hand_made(tmp_path / "between-2", {"valid": good, "test": bad}, seed=2)
    assert best_on_validation(records, NDCG) == ["chosen", "between", "lucky"]


def test_labels(dataset, tmp_path):
    def labels(*files: tuple[str, str]) -> list[str]:
        entries = {tmp_path / file: short(dataset, name) for file, name in files}
        return [entry.label for entry in label_entries(entries)]

    assert labels(("x.toml", "hm4sr"), ("y.toml", "sasrec")) == ["HM4SR", "SASRec"]
    assert labels(("hm4sr.toml", "hm4sr"), ("no-cp.toml", "hm4sr")) == ["HM4SR", "no-cp"]
    assert labels(("a/v.toml", "hm4sr"), ("b/v.toml", "hm4sr")) == ["a/v", "b/v"]
    with pytest.raises(UserError, match="called HM4SR"):
        labels(("a.toml", "hm4sr"), ("sasrec.toml", "sasrec"), ("hm4sr.toml", "sasrec"))


def test_one_data_set(dataset, tmp_path):
    other = make_dataset(tmp_path / "other", seed=5)
    entries = [Entry("a", short(dataset)), Entry("b", short(other))]
    with pytest.raises(UserError, match=r"a is about .* and b about"):
        expect_one_dataset(entries, Shelf(tmp_path))
    assert expect_one_dataset(entries[:1], Shelf(tmp_path)).hashes == dataset.hashes


# Published copies


def test_published_copies_stand_for_their_runs(dataset, tmp_path, trained):
    entries = [Entry("SASRec", short(dataset)), Entry("mine", short(dataset, "hm4sr"))]
    records = obtain(entries, [2], Shelf(tmp_path / "runs"))
    facts = DatasetFacts.of(dataset)
    copies = publish(records, facts, tmp_path / "public")
    assert len(copies) == 2
    for copy in copies:
        assert not (copy / "model.safetensors").exists()
        for file in copy.iterdir():
            assert str(tmp_path).encode() not in file.read_bytes(), "no place on this machine is published"
            assert str(dataset.path.parent).encode() not in file.read_bytes()
    again = published_records([tmp_path / "public"], None)
    assert list(again) == ["SASRec", "mine"]
    assert default_ours(again) == "mine"
    for label, seeds in records.items():
        for seed, record in seeds.items():
            copy = again[label][seed]
            assert copy.identity == record.identity
            assert copy.ranks().equals(record.ranks())
            assert copy.metrics() == record.metrics()
            test = copy.ranks().filter(copy.ranks()["part"] == "test")["rank"].to_numpy().astype(int)
            assert summarise(test, (5, 10, 20)) == pytest.approx(copy.report["test"])
    # A copy is as good as the run where nothing has to be trained.
    found = obtain(entries, [2], Shelf(tmp_path / "none", [tmp_path / "public"]), train=False)
    assert found["mine"][2].path.parent == tmp_path / "public"
    # Publishing again from the copies changes nothing.
    before = {file: file.read_bytes() for file in (tmp_path / "public").rglob("*") if file.is_file()}
    publish(again, facts, tmp_path / "public")
    assert {file: file.read_bytes() for file in (tmp_path / "public").rglob("*") if file.is_file()} == before


def test_facts_are_published_with_the_runs(dataset, tmp_path):
    facts = DatasetFacts.of(dataset)
    facts.write(tmp_path / "walks-1234")
    found = find_facts([tmp_path / "nowhere", tmp_path], dataset.hashes)
    assert found is not None
    assert (found.name, found.size) == ("walks", facts.size)
    assert found.targets.equals(target_facts(dataset.events, dataset.num_items, "test"))
    assert find_facts([tmp_path], {"events.parquet": "other"}) is None


def test_facts_come_from_the_data_where_none_are_published(dataset, tmp_path, trained):
    records = obtain([Entry("a", short(dataset))], [1], Shelf(tmp_path))
    assert facts_about(records, [tmp_path]).size == DatasetFacts.of(dataset).size
    records["a"][1].data["path"] = str(tmp_path / "gone")
    with pytest.raises(UserError, match="gone"):
        facts_about(records, [tmp_path])


def test_runs_of_several_data_sets_must_be_chosen_from(dataset, tmp_path, trained):
    other = make_dataset(tmp_path / "other", seed=5)
    for data in (dataset, other):
        obtain([Entry("a", short(data, epochs=1))], [1], Shelf(tmp_path / "runs"))
    with pytest.raises(UserError, match=r"\(other, walks\).*--dataset"):
        published_records([tmp_path / "runs"], None)
    (record,) = published_records([tmp_path / "runs"], "other")["SASRec"].values()
    assert record.report["dataset"] == "other"
    with pytest.raises(UserError, match="no finished run on third"):
        published_records([tmp_path / "runs"], "third")


def test_the_same_data_under_another_name_is_the_same_data_set(dataset, tmp_path, trained):
    twin = Dataset.open(shutil.copytree(dataset.path, tmp_path / "twin"))
    for data, seed in ((dataset, 1), (twin, 2)):
        obtain([Entry("a", short(data, epochs=1))], [seed], Shelf(tmp_path / "runs"))
    records = published_records([tmp_path / "runs"], "twin")
    assert sorted(seed for seeds in records.values() for seed in seeds) == [1, 2]
