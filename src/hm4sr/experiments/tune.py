"""Search for settings on the validation part: Optuna chooses, whole trials and epochs are kept on disk.

DIR/tune.json      what is searched; the same search continues, another one is refused
DIR/journal.log    Optuna's journal of all trials
DIR/trials.csv     the trials as a table, best first
DIR/best.toml      the best so far, an ordinary configuration
DIR/states/        state after the last epoch of the trial that is under way
"""

import csv
import fcntl
import hashlib
import io
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hm4sr.config import to_toml
from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError, WritingError
from hm4sr.experiments.space import Point, Space, placed, point_key
from hm4sr.files import read_json, write_json, write_text
from hm4sr.runtime import choose_device
from hm4sr.training.checkpoint import newest_whole, saved_states
from hm4sr.training.loop import build_model, train
from hm4sr.training.run import data_identity, pinned
from hm4sr.training.settings import Experiment

try:
    import optuna
except ImportError as error:
    raise UserError("a search needs Optuna: install it with pip install 'hm4sr[tune]'.") from error

logger = logging.getLogger(__name__)

Sampler = Literal["tpe", "grid"]
Pruner = Literal["median", "hyperband", "none"]

_STARTUP_TRIALS, _WARMUP_EPOCHS = 4, 5
"""The median rule waits for so many finished trials, and lets each trial run so many epochs."""
_COUNTED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)


@dataclass(frozen=True)
class Trial:
    """One point that was tried.

    Attributes:
        number: in the order of the search.
        point: its values.
        score: best validation score of any epoch; of a pruned trial, up to where it was stopped.
        pruned: stopped early because others were better by then.
        epochs: epochs trained.
        seconds: training and validation time.
    """

    number: int
    point: Point
    score: float
    pruned: bool
    epochs: int
    seconds: float


class Search:
    """A search in a folder.

    Attributes:
        folder: everything is kept below it.
        space: what is searched.
        experiment: the settings outside the space.
    """

    def __init__(
        self,
        base: Mapping[str, Any],
        where: str,
        space: Space,
        folder: Path,
        sampler: Sampler = "tpe",
        pruner: Pruner = "median",
        seed: int = 0,
    ):
        """Begin a search, or continue the one in the folder.

        Args:
            base: nested values of a configuration.
            where: the file it came from, for messages.
            space: what is searched.
            folder: made if it is not there.
            sampler: "tpe" learns from finished trials; "grid" takes the points in a random order.
            pruner: rule that stops trials early, by the validation score after each epoch.
            seed: of the search; the experiment has its own.

        Raises:
            UserError: a mistake in the settings or the space, or the folder holds another search.
        """
        space.check(base)
        self.base, self.where, self.space, self.folder = dict(base), where, space, folder
        experiment = Experiment.build(placed(base, {}), where)
        self._dataset = Dataset.open(experiment.data.path)
        self.experiment = pinned(experiment, self._dataset)
        build_model(self.experiment, self._dataset, choose_device("cpu"))
        self._sampler, self._pruner, self._seed = sampler, pruner, seed
        self._expect_same()

    @property
    def monitor(self) -> str:
        """The validation metric that decides."""
        return self.experiment.train.monitor

    def run(self, trials: int) -> list[Trial]:
        """Try points until so many have been tried, pruned ones included; returns all, best first.

        Stops earlier when the space has no further point. Interrupted, it continues where it stopped, within
        an epoch.

        Raises:
            UserError: another process is at work in this folder.
            KeyboardInterrupt: interrupted.
        """
        with self._alone():
            study = self._study()
            while len(self._finished(study)) < trials:
                trial = self._ask(study)
                if trial is None:
                    break
                self._try(study, trial)
                self._write(study)
            self._write(study)
            return self._finished(study)

    def _expect_same(self) -> None:
        settings = self.experiment.resolved()
        settings["data"]["path"] = ""
        what = {
            "settings": settings,
            "data": {**data_identity(self._dataset, self.experiment), "path": ""},
            "space": self.space.choices,
            "sampler": self._sampler,
            "pruner": self._pruner,
        }
        file = self.folder / "tune.json"
        if file.is_file():
            before = read_json(file)
            different = [key for key in what if before.get(key) != what[key]]
            if different:
                raise UserError(
                    f"{self.folder} holds a search with other {' and '.join(different)}: "
                    "name another folder with --out, or continue it as it was begun."
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise UserError(
                f"{self.folder} is not empty and holds no search: name another folder with --out."
            )
        else:
            write_json(file, what)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"another process searches in {self.folder}: wait until it is done."
                ) from error
            # Whoever left a lock of the journal behind is dead.
            for stale in self.folder.glob("journal.log.lock*"):
                stale.unlink()
            yield

    def _study(self) -> Any:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        backend = optuna.storages.journal.JournalFileBackend(str(self.folder / "journal.log"))
        epochs = self.experiment.train.epochs
        pruner = {
            "median": optuna.pruners.MedianPruner(_STARTUP_TRIALS, _WARMUP_EPOCHS),
            "hyperband": optuna.pruners.HyperbandPruner(min(_WARMUP_EPOCHS, epochs), epochs),
            "none": optuna.pruners.NopPruner(),
        }[self._pruner]
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="tune",
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
        known = study.get_trials(deepcopy=False)
        # Another seed at every start: the same one would propose the same points again.
        study.sampler = optuna.samplers.TPESampler(seed=self._seed + len(known))
        if not known:
            start = self.space.of(self.base)
            if start is not None:
                self._enqueue(study, start)
        for trial in known:
            if trial.state == optuna.trial.TrialState.RUNNING:  # interrupted: first to be tried again
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                if len(trial.params) == len(self.space.choices):
                    study.enqueue_trial(trial.params)
        return study

    def _ask(self, study: Any) -> Any | None:
        """A trial at a point that was not tried yet; None when there is none left."""
        while True:
            tried = {
                point_key(self._point(trial))
                for trial in study.get_trials(deepcopy=False)
                if trial.state in _COUNTED or "clash" in trial.user_attrs
            }
            waiting = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
            if self._sampler == "grid" and not waiting and not self._enqueue_unseen(study, tried):
                return None
            trial = study.ask()
            for key, choices in self.space.choices.items():
                trial.suggest_categorical(key, [_plain(value) for value in choices])
            if point_key(self._point(trial)) not in tried:
                return trial
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if not self._enqueue_unseen(study, tried):
                return None

    def _enqueue_unseen(self, study: Any, tried: set[str]) -> bool:
        unseen = [point for point in self.space.points() if point_key(point) not in tried]
        if not unseen:
            return False
        rng = np.random.default_rng([self._seed, len(study.get_trials(deepcopy=False))])
        self._enqueue(study, unseen[int(rng.integers(len(unseen)))])
        return True

    def _enqueue(self, study: Any, point: Point) -> None:
        study.enqueue_trial({key: _plain(value) for key, value in point.items()})

    def _point(self, trial: Any) -> Point:
        """The values of a trial, as they stand in the space."""
        return {
            key: next((value for value in choices if _plain(value) == trial.params.get(key)), None)
            for key, choices in self.space.choices.items()
        }

    def _try(self, study: Any, trial: Any) -> None:
        point = self._point(trial)
        told = ", ".join(f"{key} = {value}" for key, value in point.items())
        logger.info("trial %d: %s", trial.number, told)
        try:
            experiment = pinned(Experiment.build(placed(self.base, point), self.where), self._dataset)
            build_model(experiment, self._dataset, choose_device("cpu"))
        except UserError as error:  # values that do not go together
            logger.info("left out: %s", error)
            trial.set_user_attr("clash", str(error))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        state = self.folder / "states" / hashlib.sha256(point_key(point).encode()).hexdigest()[:16]
        progress = _Watch(trial, self.monitor)
        try:
            resume = _is_usable(state)
            if resume:
                for row in read_json(newest_whole(state) / "progress.json")["metrics"]:
                    progress.add(row)
            train(experiment, self._dataset, state, resume, progress)
        except optuna.TrialPruned:
            logger.info("pruned after epoch %d, best %s %.4f", progress.epochs, self.monitor, progress.best)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except WritingError:  # says nothing about the settings: the trial is continued when there is room
            raise
        except UserError as error:  # it built, so it diverged: as bad as can be, and not to be tried again
            logger.info("score 0: %s", error)
            study.tell(trial, 0.0)
        else:
            study.tell(trial, progress.best)
        shutil.rmtree(state, ignore_errors=True)

    def _finished(self, study: Any) -> list[Trial]:
        trials = [
            Trial(
                number=trial.number,
                point=self._point(trial),
                score=_score(trial),
                pruned=trial.state == optuna.trial.TrialState.PRUNED,
                epochs=len(trial.intermediate_values),
                seconds=float(trial.user_attrs.get("seconds", 0.0)),
            )
            for trial in study.get_trials(deepcopy=False, states=_COUNTED)
        ]
        return sorted(trials, key=lambda trial: (trial.pruned, -trial.score, trial.number))

    def _write(self, study: Any) -> None:
        """Write trials.csv and best.toml."""
        trials = self._finished(study)
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["trial", self.monitor, "pruned", "epochs", "seconds", *self.space.choices])
        for trial in trials:
            values = [_plain(value) for value in trial.point.values()]
            writer.writerow(
                [
                    trial.number,
                    repr(trial.score),
                    int(trial.pruned),
                    trial.epochs,
                    f"{trial.seconds:.1f}",
                    *values,
                ]
            )
        write_text(self.folder / "trials.csv", stream.getvalue())
        if trials and not trials[0].pruned:
            best = trials[0]
            head = (
                f"# Best of {len(trials)} trials on the validation part: {self.monitor} {best.score:.4f} "
                f"(trial {best.number}).\n# {self.where} searched over {self.space.path}.\n\n"
            )
            write_text(self.folder / "best.toml", head + to_toml(placed(self.base, best.point)))


def _is_usable(folder: Path) -> bool:
    """Whether a trial can be continued from its state; one that is damaged is begun anew."""
    if not saved_states(folder):
        return False
    try:
        newest_whole(folder)
    except UserError as error:
        logger.warning("%s The trial begins anew.", error)
        shutil.rmtree(folder)
        return False
    return True


class _Watch:
    """Passes each epoch's validation score on to Optuna, which may stop the trial."""

    def __init__(self, trial: Any, monitor: str):
        self.trial, self.monitor = trial, monitor
        self.best, self.epochs, self.seconds = 0.0, 0, 0.0

    def add(self, row: dict[str, Any]) -> None:
        score = float(row["valid"][self.monitor])
        self.epochs, self.best = int(row["epoch"]), max(self.best, score)
        self.seconds += row["train_seconds"] + row["valid_seconds"]
        self.trial.report(score, self.epochs)
        self.trial.set_user_attr("seconds", round(self.seconds, 1))

    def __call__(self, row: dict[str, Any]) -> None:
        self.add(row)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def _score(trial: Any) -> float:
    if trial.state == optuna.trial.TrialState.COMPLETE:
        return float(trial.value)
    return float(max(trial.intermediate_values.values()))


def _plain(value: Any) -> Any:
    """A value that Optuna can keep: itself, or its JSON where it is a list or table."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)
