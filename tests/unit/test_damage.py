"""Damaged, malformed and malicious files: none loads silently, and none runs."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from hm4sr.data.dataset import TABLES as DATA_TABLES
from hm4sr.data.dataset import Dataset, save_dataset
from hm4sr.data.prepare import prepare_source
from hm4sr.data.sources import open_source
from hm4sr.errors import UserError
from hm4sr.experiments.records import DatasetFacts, Record, publish
from hm4sr.features.store import feature_names, load_features
from hm4sr.files import hash_files
from hm4sr.manifest import NAME, read_manifest, write_manifest
from hm4sr.training.checkpoint import newest_whole
from hm4sr.training.run import FILES, Run, train_run
from hm4sr.training.settings import Experiment
from hostile_kit import JSON, PARQUET, SAFETENSORS, STRANGE_WEIGHTS, TABLES, TOML
from training_kit import experiment_on, files_of, make_dataset, silent, stop_at


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with features and a run on it, whole between two tests."""
    folder = tmp_path_factory.mktemp("damage")
    make_dataset(folder / "shop")
    train_run(experiment_on(folder / "shop", epochs=1), folder / "run")
    return folder


def load_all(place: Path) -> None:
    """Read everything that a run and its data set consist of."""
    run = Run.open(place / "run")
    dataset = Dataset.open(place / "shop")
    for name in feature_names(dataset):
        load_features(dataset, name)
    run.dataset()


def test_of_a_thousand_damaged_files_of_a_run_and_its_data_none_loads(place: Path) -> None:
    files = files_of(place / "run", place / "shop")
    assert {"model.safetensors", "ranks.parquet", "vectors.safetensors", "events.parquet", NAME} <= {
        file.name for file in files
    }
    assert silent(files, lambda: load_all(place), 1_000, seed=1) == []


def test_every_byte_of_a_manifest_counts(place: Path) -> None:
    """Each byte of the smallest manifest, with one bit flipped and as a space, which JSON may not mind."""
    file = place / "shop" / "features" / "text" / NAME
    content = file.read_bytes()
    unnoticed = []
    for position, byte in enumerate(content):
        for other in {byte ^ 1, ord(" "), ord("\t"), ord("\n")} - {byte}:
            file.write_bytes(content[:position] + bytes([other]) + content[position + 1 :])
            try:
                load_features(Dataset.open(place / "shop"), "text")
                unnoticed.append((position, other))
            except UserError:
                continue
    file.write_bytes(content)
    assert unnoticed == []


def test_no_damaged_state_is_resumed(place: Path, tmp_path: Path) -> None:
    stop_at(3, experiment_on(place / "shop"), tmp_path / "run")
    state = newest_whole(tmp_path / "run" / "resume")
    assert silent(files_of(state), lambda: newest_whole(state.parent), 200, seed=2) == []


def test_no_damaged_published_report_is_read(place: Path, tmp_path: Path) -> None:
    facts = DatasetFacts.of(Dataset.open(place / "shop"))
    (copy,) = publish({"HM4SR": {3: Record.open(place / "run")}}, facts, tmp_path)
    (about,) = (path for path in tmp_path.iterdir() if path.is_dir() and path != copy)

    def load() -> None:
        Record.open(copy)
        DatasetFacts.read(about)

    assert silent(files_of(copy, about), load, 200, seed=3) == []


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Path:
    """A run folder of one's own, on the shared data."""
    shutil.copytree(place / "run", tmp_path / "run")
    return tmp_path / "run"


def sealed(folder: Path) -> None:
    """Make the manifest of a folder right, as somebody would who wants a bad file to be loaded."""
    manifest = read_manifest(folder / NAME)
    names = [file.name for file in folder.iterdir() if file.name in manifest["files"]]
    write_manifest(folder / NAME, {**manifest, "files": hash_files(folder, names)})


@pytest.mark.parametrize("what", [*SAFETENSORS, *STRANGE_WEIGHTS])
def test_weights_that_are_none_are_refused_though_their_hash_is_right(copied: Path, what: str) -> None:
    (copied / "model.safetensors").write_bytes({**SAFETENSORS, **STRANGE_WEIGHTS}[what])
    sealed(copied)
    run = Run.open(copied)
    with pytest.raises(UserError, match=r"model\.safetensors does not fit"):
        run.load_model(run.dataset())


@pytest.mark.parametrize("what", [*SAFETENSORS, *STRANGE_WEIGHTS])
def test_features_that_are_none_are_refused_though_their_hash_is_right(tmp_path: Path, what: str) -> None:
    dataset = make_dataset(tmp_path / "shop")
    folder = dataset.path / "features" / "text"
    (folder / "vectors.safetensors").write_bytes({**SAFETENSORS, **STRANGE_WEIGHTS}[what])
    sealed(folder)
    with pytest.raises(UserError, match="text is damaged"):
        load_features(dataset, "text")


MISSHAPEN = {
    "vectors of other items": {"vectors": torch.ones(7, 6)},
    "flat vectors": {"vectors": torch.ones(21)},
    "whole numbers": {"vectors": torch.ones(21, 6, dtype=torch.int32)},
    "a mask of other items": {"present": torch.ones(20, dtype=torch.bool)},
    "a wide mask": {"present": torch.ones(21, 2, dtype=torch.bool)},
}


@pytest.mark.parametrize("what", MISSHAPEN)
def test_features_that_do_not_fit_the_items_are_refused(tmp_path: Path, what: str) -> None:
    dataset = make_dataset(tmp_path / "shop")
    folder = dataset.path / "features" / "text"
    file = folder / "vectors.safetensors"
    whole = {name: tensor.clone() for name, tensor in load_file(file).items()}  # the file goes away
    save_file({**whole, **MISSHAPEN[what]}, file)
    sealed(folder)
    with pytest.raises(UserError, match="do not fit 20 items"):
        load_features(dataset, "text")


@pytest.mark.parametrize("what", SAFETENSORS)
def test_states_that_are_none_are_refused_though_their_hash_is_right(
    place: Path, tmp_path_factory: pytest.TempPathFactory, what: str
) -> None:
    run = tmp_path_factory.mktemp("state") / "run"
    stop_at(1, experiment_on(place / "shop", "sasrec"), run)
    (state,) = (run / "resume").iterdir()
    (state / "optimizer.safetensors").write_bytes(SAFETENSORS[what])
    sealed(state)
    with pytest.raises(UserError, match="does not fit this experiment"):
        train_run(experiment_on(place / "shop", "sasrec"), run, resume=True)


def use(path: Path) -> None:
    """What evaluating, recommending and comparing read of a run."""
    run = Run.open(path)
    run.load_model(run.dataset())
    assert run.report["test"]
    Record.open(path)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")])
@pytest.mark.parametrize("what", JSON)
def test_a_run_of_strange_json_is_one_sentence(copied: Path, name: str, what: str) -> None:
    (copied / name).write_bytes(JSON[what])
    sealed(copied)
    with pytest.raises(UserError) as told:
        use(copied)
    assert str(told.value).endswith(".")


@pytest.mark.parametrize("folder", ["run", "shop", "shop/features/text"])
@pytest.mark.parametrize("what", JSON)
def test_a_strange_manifest_is_one_sentence(place: Path, tmp_path: Path, folder: str, what: str) -> None:
    for name in ("run", "shop"):
        shutil.copytree(place / name, tmp_path / name)
    (tmp_path / folder / NAME).write_bytes(JSON[what])
    with pytest.raises(UserError) as told:
        load_all(tmp_path)
    assert str(told.value).endswith(".")


EVENTS = {"user": [0, 0, 0], "item": [1, 2, 3], "time": [1, 2, 3]}
USERS = {"user_id": ["u"], "events": [3], "train_end": [1], "valid_end": [2]}
ITEMS = {name: ["a", "b", "c"] for name in ("item_id", "title", "brand", "text", "image")}
ITEMS = {**ITEMS, "categories": [["c"], ["c"], []]}
STRANGE: dict[str, tuple[str, pl.DataFrame]] = {
    "an item that is not there": ("events", pl.DataFrame({**EVENTS, "item": [1, 2, 4]})),
    "item 0": ("events", pl.DataFrame({**EVENTS, "item": [1, 0, 3]})),
    "an item without number": ("events", pl.DataFrame({**EVENTS, "item": [1, None, 3]})),
    "items as text": ("events", pl.DataFrame({**EVENTS, "item": ["1", "2", "3"]})),
    "times with fractions": ("events", pl.DataFrame({**EVENTS, "time": [0.5, 1.5, 2.5]})),
    "no times": ("events", pl.DataFrame(EVENTS).drop("time")),
    "too few events": ("events", pl.DataFrame(EVENTS).head(2)),
    "a part that ends late": ("users", pl.DataFrame({**USERS, "valid_end": [4]})),
    "a part that ends early": ("users", pl.DataFrame({**USERS, "train_end": [-1]})),
    "parts in the wrong order": ("users", pl.DataFrame({**USERS, "train_end": [2], "valid_end": [1]})),
    "a negative history": ("users", pl.DataFrame({**USERS, "events": [-3]})),
    "ids as numbers": ("users", pl.DataFrame({**USERS, "user_id": [7]})),
    "no ids": ("items", pl.DataFrame(ITEMS).drop("item_id")),
    "categories as text": ("items", pl.DataFrame({**ITEMS, "categories": ["c", "c", "c"]})),
    "titles as numbers": ("items", pl.DataFrame({**ITEMS, "title": [1, 2, 3]})),
    "no items": ("items", pl.DataFrame(ITEMS).clear()),
}
"""Tables whose hashes are right and whose content nobody prepared."""


def small_dataset(folder: Path, **tables: pl.DataFrame) -> Path:
    save_dataset(
        folder,
        **{
            "events": pl.DataFrame(EVENTS),
            "users": pl.DataFrame(USERS),
            "items": pl.DataFrame(ITEMS),
            **tables,
        },
        rules={},
        statistics={},
    )
    return folder


def read_tables(path: Path) -> None:
    dataset = Dataset.open(path)
    assert dataset.events.num_events
    assert len(dataset.users)
    assert len(dataset.items)


def test_the_small_data_set_itself_is_read(tmp_path: Path) -> None:
    read_tables(small_dataset(tmp_path / "shop"))


@pytest.mark.parametrize("what", STRANGE)
def test_tables_that_nobody_prepared_are_one_sentence(tmp_path: Path, what: str) -> None:
    table, frame = STRANGE[what]
    path = small_dataset(tmp_path / "shop", **{table: frame})
    with pytest.raises(UserError, match="is not what `hm4sr prepare` writes"):
        read_tables(path)


@pytest.mark.parametrize("table", DATA_TABLES)
@pytest.mark.parametrize("what", PARQUET)
def test_tables_that_are_no_parquet_are_one_sentence(tmp_path: Path, table: str, what: str) -> None:
    dataset = make_dataset(tmp_path / "shop")
    (dataset.path / table).write_bytes(PARQUET[what])
    sealed(dataset.path)
    with pytest.raises(UserError, match="is not what `hm4sr prepare` writes"):
        read_tables(dataset.path)


@pytest.mark.parametrize("what", TABLES)
def test_a_raw_table_that_cannot_be_read_is_one_sentence_and_writes_nothing(
    tmp_path: Path, what: str
) -> None:
    file, out = tmp_path / "events.csv", tmp_path / "out"
    file.write_bytes(TABLES[what])
    with pytest.raises(UserError) as told:
        prepare_source(open_source("table", file), out)
    assert str(file) in str(told.value)
    assert str(told.value).endswith(".")
    assert not out.exists()


@pytest.mark.parametrize("what", PARQUET)
def test_a_raw_parquet_file_that_is_none_is_one_sentence(tmp_path: Path, what: str) -> None:
    file = tmp_path / "events.parquet"
    file.write_bytes(PARQUET[what])
    with pytest.raises(UserError, match=r"events\.parquet"):
        prepare_source(open_source("table", file), tmp_path / "out")


@pytest.mark.parametrize("what", TOML)
def test_a_configuration_that_says_nothing_is_one_sentence(tmp_path: Path, what: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(TOML[what])
    with pytest.raises(UserError):
        train_run(Experiment.load(file), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sealed_manifest_says_what_was_written(tmp_path: Path) -> None:
    content = {"format": "x", "text": 'Käse \\ " \n', "number": 0.1, "nested": {"list": [1, None, True]}}
    write_manifest(tmp_path / NAME, content)
    assert read_manifest(tmp_path / NAME) == content
    (tmp_path / NAME).write_text(json.dumps({"format": "old"}))
    assert read_manifest(tmp_path / NAME) == {"format": "old"}, "earlier versions wrote no seal"
