"""The run folder: everything a trained model needs to be used, checked and compared.

config.json  model.safetensors  items.parquet  data.json  metrics.jsonl  report.json  ranks.parquet
environment.json                versions, threads, device
resume/                         state after the last epoch, while training goes on
manifest.json                   sha256 of every file but resume/; written last, so it marks a finished run
"""

import json
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.features.store import read_feature_manifest
from hm4sr.files import atomic_file, hash_files, read_json, verify_files, write_json
from hm4sr.models.base import SeqRecModel
from hm4sr.nn.ranks import anywhere, current
from hm4sr.runtime import choose_device, describe_machine
from hm4sr.training.checkpoint import saved_states, snapshot
from hm4sr.training.loop import TrainedModel, build_model, train
from hm4sr.training.parallel import from_first, local_device
from hm4sr.training.settings import Experiment

FORMAT = "hm4sr-run"
VERSION = 1
FILES = [
    "config.json",
    "data.json",
    "environment.json",
    "items.parquet",
    "metrics.jsonl",
    "model.safetensors",
    "ranks.parquet",
    "report.json",
]


def train_run(
    experiment: Experiment,
    path: Path,
    resume: bool = False,
    force: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> "Run":
    """Train an experiment into a run folder.

    Args:
        experiment: all settings.
        path: the run folder.
        resume: continue an interrupted run; a finished one is returned as it is.
        force: replace what is there.
        on_epoch: called with each epoch's row of metrics.

    Raises:
        UserError: the folder holds something else, or the interrupted run had other settings or data.
    """
    dataset = Dataset.open(experiment.data.path)
    experiment = pinned(experiment, dataset)
    config, identity = experiment.resolved(), data_identity(dataset, experiment)
    state = path / "resume"
    if resume and (path / "manifest.json").is_file():
        run = Run.open(path)
        _expect_same(path, "settings", run.experiment.resolved(), config)
        _expect_same(path, "data", read_json(path / "data.json"), identity)
        _agree(None, config, identity)
        return run
    if resume and not saved_states(state):
        raise UserError(f"{path} holds no interrupted run to resume: leave out --resume.")
    if resume:
        # Resolved anew: a setting that this version has and an older one had not is at its default.
        before = Experiment.build(read_json(path / "config.json"), str(path / "config.json"))
        _expect_same(path, "settings", before.resolved(), config)
        _expect_same(path, "data", read_json(path / "data.json"), identity)
        _agree("resume", config, identity)
    else:
        replace = path.exists() and any(path.iterdir())
        if replace and not all((path / name).is_file() for name in ("config.json", "data.json")):
            raise UserError(f"{path} is not empty and is not a run folder: name another one with --out.")
        # What was interrupted within its first epoch holds nothing that could be lost.
        if replace and not force and ((path / "manifest.json").is_file() or saved_states(state)):
            raise UserError(
                f"{path} holds a run already: add --resume to continue it or --force to replace it."
            )
        _check_buildable(experiment, dataset)
        _agree("start", config, identity)
        if replace:
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "data.json", identity)
        write_json(path / "config.json", config)
    trained = train(experiment, dataset, state, resume, on_epoch)
    _save(path, trained, dataset, experiment)
    shutil.rmtree(state)
    return Run.open(path)


def accompany(experiment: Experiment) -> None:
    """Train along with the first of several processes, which calls `train_run`; nothing is written.

    Raises:
        UserError: this process has other settings or other data.
    """
    dataset = Dataset.open(experiment.data.path)
    experiment = pinned(experiment, dataset)
    if _agree(None, experiment.resolved(), data_identity(dataset, experiment)):
        train(experiment, dataset)


def _agree(plan: str | None, config: dict[str, Any], identity: dict[str, Any]) -> str | None:
    """The first process's plan, once every process has been found to have its settings and data.

    Nothing is written before, for a process that has others ends all of them.
    """
    content = {"settings": config, "data": [identity["files"], identity["features"]]}
    agreed = from_first({"plan": plan, **content})
    for what, mine in content.items():
        if agreed[what] != mine:
            raise UserError(
                f"process {current().rank} has other {what} than the first one: "
                "start all with the same command, on copies of the same data."
            )
    anywhere(False)  # wait for the others' judgement
    told: str | None = agreed["plan"]
    return told


def _check_buildable(experiment: Experiment, dataset: Dataset) -> None:
    """Find mistakes of the settings before anything is written."""
    build_model(experiment, dataset, choose_device("cpu"))


def pinned(experiment: Experiment, dataset: Dataset) -> Experiment:
    """The experiment with its modalities named: one extracted later must not change what this run is."""
    data = experiment.data.model_copy(update={"features": experiment.modalities(dataset)})
    return experiment.model_copy(update={"data": data})


def data_identity(dataset: Dataset, experiment: Experiment) -> dict[str, Any]:
    """Content hashes of everything the model is trained on."""
    manifests = {name: read_feature_manifest(dataset, name) for name in experiment.modalities(dataset)}
    return {
        "path": str(dataset.path.resolve()),
        "files": dataset.hashes,
        "features": {name: manifest["files"] for name, manifest in manifests.items()},
    }


def _expect_same(path: Path, what: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    different = sorted(
        key for key in old.keys() | new.keys() if key != "path" and old.get(key) != new.get(key)
    )
    if different:
        raise UserError(
            f"{path} was started with other {what} ({', '.join(different)} differ): "
            "resume with the same ones, or start a new run with another --out."
        )


def _save(path: Path, trained: TrainedModel, dataset: Dataset, experiment: Experiment) -> None:
    with atomic_file(path / "model.safetensors") as temporary:
        save_file(snapshot(trained.model), temporary)
    with atomic_file(path / "items.parquet") as temporary:
        dataset.items.write_parquet(temporary, compression="zstd")
    with atomic_file(path / "metrics.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in trained.progress.metrics))
    with atomic_file(path / "ranks.parquet") as temporary:
        pl.concat([trained.ranks["valid"].table("valid"), trained.ranks["test"].table("test")]).write_parquet(
            temporary, compression="zstd"
        )
    device = choose_device(local_device(experiment.train.device))
    environment = describe_machine(device) | {"processes": current().size}
    write_json(path / "environment.json", environment)
    write_json(path / "report.json", trained.report)
    write_json(
        path / "manifest.json", {"format": FORMAT, "version": VERSION, "files": hash_files(path, FILES)}
    )


class Run:
    """A finished run, opened from its folder.

    Attributes:
        path: the folder.
        config: the experiment with every default spelt out.
        report: metrics, time and memory.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config: dict[str, Any] = read_json(path / "config.json")
        self.report: dict[str, Any] = read_json(path / "report.json")

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open a run folder, comparing every file with its recorded hash.

        Raises:
            UserError: no finished run is there, or a file is damaged.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path} is not a folder: give the folder of a run made by `hm4sr train`.")
        if not (path / "manifest.json").is_file():
            hint = "it was interrupted: continue it with `hm4sr train ... --resume`"
            raise UserError(
                f"{path} is not a finished run (no manifest.json): "
                + (
                    hint
                    if (path / "config.json").is_file()
                    else "give the folder of a run made by `hm4sr train`"
                )
                + "."
            )
        manifest = read_json(path / "manifest.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "files" not in manifest:
            raise UserError(f"{path} is not a run folder: give the folder of a run made by `hm4sr train`.")
        if manifest.get("version") != VERSION:
            raise UserError(f"{path} was written by another version of hm4sr: train again.")
        verify_files(path, manifest["files"])
        return cls(path)

    @cached_property
    def experiment(self) -> Experiment:
        """The settings it was trained with."""
        return Experiment.build(dict(self.config), str(self.path / "config.json"))

    @cached_property
    def items(self) -> pl.DataFrame:
        """Table of items; row r is item number r + 1."""
        return pl.read_parquet(self.path / "items.parquet")

    def ranks(self) -> pl.DataFrame:
        """Rank of every target: part, user, item, rank."""
        return pl.read_parquet(self.path / "ranks.parquet")

    def metrics(self) -> list[dict[str, Any]]:
        """One row an epoch."""
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    def dataset(self, path: str | Path | None = None) -> Dataset:
        """The data it was trained on, from where it was or from `path`.

        Raises:
            UserError: it is not there, or it is other data.
        """
        recorded = read_json(self.path / "data.json")
        place = Path(path or recorded["path"])
        if not place.exists():
            raise UserError(
                f"{place}, the data that {self.path} was trained on, is not there: name it with --data."
            )
        dataset = Dataset.open(place)
        if dataset.hashes != recorded["files"]:
            raise UserError(
                f"{dataset.path} is not the data that {self.path} was trained on: name it with --data."
            )
        for name, files in recorded["features"].items():
            if read_feature_manifest(dataset, name)["files"] != files:
                raise UserError(
                    f"{dataset.path} has other {name} features than {self.path} was trained on: extract anew."
                )
        return dataset

    def load_model(self, dataset: Dataset, device: torch.device | None = None) -> SeqRecModel:
        """The trained model, ready to score.

        Raises:
            UserError: the weights do not fit the settings.
        """
        device = device or torch.device("cpu")
        model = build_model(self.experiment, dataset, device)
        try:
            model.load_state_dict(load_file(self.path / "model.safetensors", device=str(device)))
        except (SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{self.path}/model.safetensors does not fit its config.json: train again."
            ) from error
        return model.eval()
