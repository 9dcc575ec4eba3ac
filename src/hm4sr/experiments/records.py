"""What is known about finished runs, from run folders or from the small copies that are published.

A published copy holds everything a table needs and no weights:

DIR/RUN/            config.json  data.json  environment.json  report.json  ranks.parquet  metrics.jsonl
                    speed.json where it was measured; manifest.json with the sha256 of each
DIR/DATASET-HASH/   dataset.json (name, hashes, size)  targets.parquet (see `segments.target_facts`)
DIR/labels.json     what each run was called in the comparison it was published from
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from hm4sr.data.dataset import Dataset, Part
from hm4sr.data.interactions import count_pairs
from hm4sr.data.tables import read_own
from hm4sr.errors import UserError
from hm4sr.evaluation.segments import target_facts
from hm4sr.files import (
    atomic_directory,
    hash_files,
    parse_json,
    read_bytes,
    read_json,
    read_object,
    verify_files,
    write_json,
)
from hm4sr.manifest import NAME, listed_files, read_manifest, write_manifest
from hm4sr.training import run as run_folder
from hm4sr.training.settings import DataConfig, Experiment

logger = logging.getLogger(__name__)

FORMAT = "hm4sr-report"
VERSION = 1
PUBLISHED = ["config.json", "data.json", "environment.json", "metrics.jsonl", "ranks.parquet", "report.json"]
SPEED = "speed.json"
DATASET = "dataset.json"
TARGETS = "targets.parquet"
LABELS = "labels.json"
_CHANGES = ("train_users", "time_noise_days", "change_seed")
"""Settings of the data that count only where they are not the default: runs from before they were there keep
their names."""
_PART: Part = "test"


def identity(config: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Content hash (64 hexadecimal digits) of what decides a run's result, the seed aside.

    That is every setting but where the data lie, the machine it runs on, how often a state is saved and what
    is printed at the end, and the hashes of the data and the features. Two runs of one identity and one seed
    are the same run.

    Args:
        config: resolved settings, as in config.json.
        data: hashes of the data, as in data.json.
    """
    settings = {key: value for key, value in config.items() if key not in ("seed", "evaluate")}
    settings["data"] = {
        key: value
        for key, value in config["data"].items()
        if key != "path" and (key not in _CHANGES or value != DataConfig.model_fields[key].default)
    }
    settings["train"] = {
        key: value
        for key, value in config["train"].items()
        if key not in ("device", "threads", "compile", "save_minutes", "shard_items")
    }
    content = {"settings": settings, "files": data["files"], "features": data["features"]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """A finished run, without its weights.

    Attributes:
        path: its run folder or published copy.
        config: settings, every default spelt out.
        data: hashes of what it was trained on.
        report: metrics, time and memory.
        environment: versions and hardware.
        identity: see `identity`.
    """

    path: Path
    config: dict[str, Any]
    data: dict[str, Any]
    report: dict[str, Any]
    environment: dict[str, Any]
    identity: str

    @classmethod
    def open(cls, path: Path) -> "Record":
        """Read a finished run, comparing what is read with the recorded hashes; the weights are not read.

        Raises:
            UserError: it is not finished, not a run, or a file is damaged.
        """
        manifest = read_manifest(path / NAME)
        kinds = {run_folder.FORMAT: run_folder.VERSION, FORMAT: VERSION}
        if kinds.get(str(manifest.get("format"))) != manifest.get("version"):
            raise UserError(
                f"{path} is neither a finished run nor a published copy of this version: "
                "train again, or leave it out."
            )
        files = listed_files(path, manifest, PUBLISHED)
        verify_files(path, {name: files[name] for name in PUBLISHED})
        config = read_object(path / "config.json", run_folder.CONFIG_KEYS)
        data = read_object(path / "data.json", run_folder.DATA_KEYS)
        report = read_object(path / "report.json", run_folder.REPORT_KEYS)
        environment = read_object(path / "environment.json")
        return cls(path, config, data, report, environment, identity(_with_new_defaults(config), data))

    def verify(self) -> None:
        """Compare every file with its recorded hash.

        Raises:
            UserError: a file is damaged.
        """
        verify_files(self.path, listed_files(self.path, read_manifest(self.path / NAME), PUBLISHED))

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed"])

    @property
    def model(self) -> str:
        """Registered name of the model."""
        return str(self.config["model"]["name"])

    @property
    def modalities(self) -> list[str]:
        """Features that the model read beside the IDs."""
        return list(self.config["data"]["features"] or [])

    def ranks(self) -> pl.DataFrame:
        """Rank of every target: part, user, item, rank."""
        return read_own(self.path / "ranks.parquet")

    def metrics(self) -> list[dict[str, Any]]:
        """One row an epoch."""
        file = self.path / "metrics.jsonl"
        return [parse_json(line, file) for line in read_bytes(file).splitlines()]

    def speed(self) -> dict[str, Any] | None:
        """What `speed.json` says; None where it was never measured."""
        file = self.path / SPEED
        return read_manifest(file) if file.is_file() else None


def _with_new_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Stored settings in today's terms: a key that was added since then has its default."""
    try:
        return Experiment.build(dict(config), "config.json").resolved()
    except UserError:
        return config


def finished(folder: Path) -> Iterator[Record]:
    """Finished runs and published copies right below a folder; what cannot be read is reported, left out."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        whole = (path / "manifest.json").is_file() and (path / "report.json").is_file()
        if whole and not path.name.startswith("."):
            try:
                yield Record.open(path)
            except UserError as error:
                logger.warning("left out: %s", error)


@dataclass(frozen=True)
class DatasetFacts:
    """What tables say about a data set and its test targets.

    Attributes:
        name: of its folder.
        files: sha256 of each of its tables.
        size: numbers of users, items and actions; of "pairs" of a user and an item where they are fewer.
        targets: see `evaluation.segments.target_facts`.
    """

    name: str
    files: dict[str, str]
    size: dict[str, int]
    targets: pl.DataFrame

    @classmethod
    def of(cls, dataset: Dataset) -> "DatasetFacts":
        """From the data set itself."""
        log = dataset.events
        size = {"users": log.num_users, "items": dataset.num_items, "actions": log.num_events}
        if (pairs := count_pairs(log.users, log.items)) < log.num_events:
            size["pairs"] = pairs
        return cls(dataset.name, dataset.hashes, size, target_facts(log, dataset.num_items, _PART))

    @classmethod
    def read(cls, folder: Path) -> "DatasetFacts":
        """From a published copy."""
        values = read_manifest(folder / DATASET)
        verify_files(folder, {TARGETS: values["targets"]})
        targets = read_own(folder / TARGETS)
        return cls(values["name"], values["files"], values["size"], targets)

    def write(self, folder: Path) -> None:
        """Publish, whole or not at all."""
        with atomic_directory(folder) as temporary:
            self.targets.write_parquet(temporary / TARGETS, compression="zstd")
            values = {"name": self.name, "files": self.files, "size": self.size}
            targets = hash_files(temporary, [TARGETS])[TARGETS]
            write_manifest(temporary / DATASET, {**values, "targets": targets})


def find_facts(folders: Iterable[Path], files: Mapping[str, str]) -> DatasetFacts | None:
    """Published facts about the data set with these table hashes, right below one of the folders."""
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if (path / DATASET).is_file() and read_manifest(path / DATASET)["files"] == dict(files):
                return DatasetFacts.read(path)
    return None


def published_labels(folder: Path) -> dict[str, str]:
    """Name of each published copy to the label it had in the comparison it was published from."""
    file = folder / LABELS
    return dict(read_json(file)) if file.is_file() else {}


def publish(records: Mapping[str, Mapping[int, Record]], facts: DatasetFacts, folder: Path) -> list[Path]:
    """Copy what tables need out of run folders; returns the copies.

    Where the run was, and where its data lay, is not copied: a published run is known by its content.

    Args:
        records: finished runs by label and seed.
        facts: of the data set they were trained on.
        folder: where the copies go; those of other runs are left alone.
    """
    digest = hashlib.sha256(json.dumps(facts.files, sort_keys=True).encode()).hexdigest()
    facts.write(folder / f"{facts.name}-{digest[:8]}")
    copies, labels = [], published_labels(folder)
    for label, seeds in records.items():
        for record in seeds.values():
            copy = folder / run_name(record.report["dataset"], record.model, record.identity, record.seed)
            if copy.resolve() != record.path.resolve():
                _copy(record, copy)
            copies.append(copy)
            labels[copy.name] = label
    write_json(folder / LABELS, labels)
    return copies


def run_name(dataset: str, model: str, run_identity: str, seed: int) -> str:
    """Folder name of a run that is known by its content."""
    return f"{dataset}-{model}-{run_identity[:8]}-s{seed}"


def _copy(record: Record, target: Path) -> None:
    with atomic_directory(target) as temporary:
        names = [*PUBLISHED, *([SPEED] if (record.path / SPEED).is_file() else [])]
        for name in names:
            shutil.copyfile(record.path / name, temporary / name)
        dataset = str(record.report["dataset"])
        config = {**record.config, "data": {**record.config["data"], "path": dataset}}
        write_json(temporary / "config.json", config)
        write_json(temporary / "data.json", {**record.data, "path": dataset})
        manifest = {"format": FORMAT, "version": VERSION, "files": hash_files(temporary, names)}
        write_manifest(temporary / NAME, manifest)
