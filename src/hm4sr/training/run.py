"""The run folder: everything a trained model needs to be used, checked and compared.

config.json  model.safetensors  items.parquet  data.json  metrics.jsonl  report.json  ranks.parquet
environment.json                versions, seed, threads, processor, number format
resume/                         the newest state, while training goes on
manifest.json                   sha256 of every file but resume/; written last, so it marks a finished run
"""

import json
import logging
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hm4sr.data.dataset import Dataset
from hm4sr.data.tables import read_own
from hm4sr.errors import StoppedError, UserError, WritingError
from hm4sr.features.store import read_feature_manifest
from hm4sr.files import (
    atomic_file,
    hash_files,
    locked,
    parse_json,
    read_bytes,
    read_json,
    read_object,
    remove_leftovers,
    write_json,
    writing,
)
from hm4sr.manifest import NAME, check_format, read_manifest, verify_listed, write_manifest
from hm4sr.models.base import SeqRecModel
from hm4sr.nn.ranks import anywhere, current
from hm4sr.runtime import choose_device, choose_precision, describe_machine
from hm4sr.training.checkpoint import save_model, saved_states, where_saved
from hm4sr.training.loop import TrainedModel, build_model, train
from hm4sr.training.parallel import from_first, local_device
from hm4sr.training.settings import Experiment

logger = logging.getLogger(__name__)

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
CONFIG_KEYS = ("data", "model", "train", "seed")
ENVIRONMENT_KEYS = ("hm4sr", "torch", "numpy")
DATA_KEYS = ("path", "files", "features")
REPORT_KEYS = ("model", "dataset", "seed", "best_epoch", "epochs", "parameters", "valid", "test")
"""What those files must hold; they may hold more."""
_FIRST = ("config.json", "data.json")
"""Written when training begins."""
_CHANGEABLE = ("save_minutes", "shard_items")
"""Settings of training that may be others when a run is continued, for they decide nothing."""


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
        resume: continue an interrupted run, from the beginning if nothing was saved yet; a finished one is
            returned as it is.
        force: replace what is there.
        on_epoch: called with each epoch's row of metrics.

    Raises:
        UserError: the folder holds something else, or the interrupted run had other settings or data.
        WritingError: the folder cannot be written; the last state is whole.
        StoppedError: Ctrl-C, SIGTERM or SIGHUP; the state is saved.
    """
    dataset = Dataset.open(experiment.data.path)
    experiment = pinned(experiment, dataset)
    config, identity = experiment.resolved(), data_identity(dataset, experiment)
    state = path / "resume"
    if resume and (path / NAME).is_file():
        run = Run.open(path)
        _expect_same(path, "settings", run.experiment.resolved(), config)
        _expect_same(path, "data", read_json(path / "data.json"), identity)
        _agree(None, config, identity)
        return run
    if resume and not saved_states(state):
        logger.info("nothing was saved in %s: training begins at the beginning", path)
        resume = False
    if resume:
        # Resolved anew: a setting that this version has and an older one had not is at its default.
        before = Experiment.build(read_json(path / "config.json"), str(path / "config.json"))
        _expect_same(path, "settings", before.resolved(), config)
        _expect_same(path, "data", read_json(path / "data.json"), identity)
    else:
        _check_replaceable(path, force)
        _check_buildable(experiment, dataset)
    _agree("resume" if resume else "start", config, identity)
    with writing(path, "make room there or mend the rights, or name another folder with --out"):
        path.mkdir(parents=True, exist_ok=True)
    busy = f"another process trains into {path}: wait for it, or name another folder with --out."
    with locked(path, busy):
        if not resume:
            _check_replaceable(path, force)  # another process may have finished here in the meantime
            _begin(path, config, identity)
        try:
            trained = train(experiment, dataset, state, resume, on_epoch)
        except StoppedError as error:
            raise StoppedError(error.signum, _how_to_go_on(error.where or where_saved(state))) from error
        except WritingError as error:
            raise error.advised("and go on with the same command and --resume") from error
        with writing(path, "make room there or mend the rights; go on with the same command and --resume"):
            _save(path, trained, dataset, experiment)
        shutil.rmtree(state, ignore_errors=True)
    return Run.open(path)


def _how_to_go_on(where: str) -> str:
    """The sentence that a run which was told to stop ends with."""
    if current().size > 1:
        return "stopped; whole epochs are kept: go on with the same command and --resume."
    if not where:
        return "stopped before a state was saved: the same command begins again."
    return f"stopped {where}, and the state is saved: go on with the same command and --resume."


def _check_replaceable(path: Path, force: bool) -> None:
    """Whether a new run may be put here."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: name a folder with --out.")
    there = {file.name for file in path.iterdir()} if path.exists() else set()
    # A process may have been killed after it wrote one of the two, or removed all but one.
    begun = all(name in _FIRST or name.startswith(tuple(f".{first}." for first in _FIRST)) for name in there)
    if there and not begun and not there.issuperset(_FIRST):
        raise UserError(f"{path} is not empty and is not a run folder: name another one with --out.")
    # What was killed before its first state holds nothing that could be lost.
    if there and not force and ((path / NAME).is_file() or saved_states(path / "resume")):
        raise UserError(f"{path} holds a run already: add --resume to continue it or --force to replace it.")


def _begin(path: Path, config: dict[str, Any], identity: dict[str, Any]) -> None:
    """Empty the folder and write what the run is; in an order that shows, if killed, what it was."""
    with writing(path, "make room there or mend the rights, or name another folder with --out"):
        for file in sorted(path.iterdir(), key=lambda file: (file.name in _FIRST, file.name != NAME)):
            if file.is_dir():
                shutil.rmtree(file)
            else:
                file.unlink()
        write_json(path / "data.json", identity)
        write_json(path / "config.json", config)


def accompany(experiment: Experiment) -> None:
    """Train along with the first of several processes, which calls `train_run`; nothing is written.

    Raises:
        UserError: this process has other settings or other data.
    """
    dataset = Dataset.open(experiment.data.path)
    experiment = pinned(experiment, dataset)
    if plan := _agree(None, experiment.resolved(), data_identity(dataset, experiment)):
        trained = train(experiment, dataset, resume=plan == "resume")
        if trained.model.bounds is not None:
            save_model(trained.model, None)


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
    old, new = decisive(old), decisive(new)
    different = sorted(
        key for key in old.keys() | new.keys() if key != "path" and old.get(key) != new.get(key)
    )
    if different:
        raise UserError(
            f"{path} was started with other {what} ({', '.join(different)} differ): "
            "resume with the same ones, or start a new run with another --out."
        )


def decisive(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of an experiment without those that may change while it goes on."""
    train = values.get("train")
    if not isinstance(train, dict):
        return values
    return {**values, "train": {key: value for key, value in train.items() if key not in _CHANGEABLE}}


def _save(path: Path, trained: TrainedModel, dataset: Dataset, experiment: Experiment) -> None:
    with atomic_file(path / "model.safetensors") as temporary:
        save_model(trained.model, temporary)
    with atomic_file(path / "items.parquet") as temporary:
        dataset.items.write_parquet(temporary, compression="zstd")
    with atomic_file(path / "metrics.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in trained.progress.metrics))
    with atomic_file(path / "ranks.parquet") as temporary:
        pl.concat([trained.ranks["valid"].table("valid"), trained.ranks["test"].table("test")]).write_parquet(
            temporary, compression="zstd"
        )
    device = choose_device(local_device(experiment.train.device))
    products = str(choose_precision(experiment.train.precision, device)).removeprefix("torch.")
    settings = {"processes": current().size, "matrix_products": products, "seed": experiment.seed}
    write_json(path / "environment.json", describe_machine(device) | settings)
    write_json(path / "report.json", trained.report)
    remove_leftovers(path, [*FILES, NAME])
    write_manifest(path / NAME, {"format": FORMAT, "version": VERSION, "files": hash_files(path, FILES)})


class Run:
    """A finished run, opened from its folder.

    Attributes:
        path: the folder.
        config: the experiment with every default spelt out.
        report: metrics, time and memory.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config: dict[str, Any] = read_object(path / "config.json", CONFIG_KEYS)
        self.report: dict[str, Any] = read_object(path / "report.json", REPORT_KEYS)

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open a run folder, comparing every file with its recorded hash.

        Raises:
            UserError: no finished run is there, or a file is damaged.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path} is not a folder: give the folder of a run made by `hm4sr train`.")
        if not (path / NAME).is_file():
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
        manifest = read_manifest(path / NAME)
        advice = "give the folder of a run made by `hm4sr train`"
        check_format(path, manifest, (FORMAT, VERSION), "a run folder", advice)
        verify_listed(path, manifest, FILES)
        read_object(path / "data.json", DATA_KEYS)
        read_object(path / "environment.json", ENVIRONMENT_KEYS)
        return cls(path)

    @cached_property
    def experiment(self) -> Experiment:
        """The settings it was trained with."""
        return Experiment.build(dict(self.config), str(self.path / "config.json"))

    @cached_property
    def items(self) -> pl.DataFrame:
        """Table of items; row r is item number r + 1."""
        return read_own(self.path / "items.parquet")

    def ranks(self) -> pl.DataFrame:
        """Rank of every target: part, user, item, rank."""
        return read_own(self.path / "ranks.parquet")

    def metrics(self) -> list[dict[str, Any]]:
        """One row an epoch."""
        file = self.path / "metrics.jsonl"
        return [parse_json(line, file) for line in read_bytes(file).splitlines()]

    def dataset(self, path: str | Path | None = None) -> Dataset:
        """The data it was trained on, from where it was or from `path`.

        Raises:
            UserError: it is not there, or it is other data.
        """
        recorded = read_object(self.path / "data.json", DATA_KEYS)
        place = Path(path or str(recorded["path"]))
        if not place.exists():
            raise UserError(
                f"{place}, the data that {self.path} was trained on, is not there: name it with --data."
            )
        dataset = Dataset.open(place)
        if dataset.hashes != recorded["files"] or not isinstance(recorded["features"], dict):
            advice = "prepare it as it was." if path else "name it with --data."
            raise UserError(f"{dataset.path} is not the data that {self.path} was trained on: {advice}")
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
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.path}/model.safetensors does not fit its config.json: train again."
            ) from error
        return model.eval()
