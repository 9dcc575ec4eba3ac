"""Search for settings on the validation part: Optuna chooses, whole trials and epochs are kept on disk.

DIR/tune.json      what is searched; the same search continues, another one is refused
DIR/journal.log    Optuna's journal of all trials
DIR/trials.csv     the trials as a table, best first
DIR/best.toml      the best so far, an ordinary configuration
DIR/states/        state after the last epoch of each trial that is under way
DIR/trials/        what trials in processes of their own were given, and said, and their locks
"""

import csv
import hashlib
import io
import json
import logging
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hm4sr.config import to_toml
from hm4sr.data.dataset import Dataset
from hm4sr.errors import StoppedError, UserError
from hm4sr.experiments.launch import side_by_side
from hm4sr.experiments.space import Point, Space, placed, point_key
from hm4sr.experiments.trial import Pruner, TrialTask, mend_journal, open_study, try_point, wait_for_orphans
from hm4sr.files import locked, read_json, write_json, write_text
from hm4sr.runtime import choose_device
from hm4sr.training.loop import build_model
from hm4sr.training.run import data_identity, decisive, pinned
from hm4sr.training.settings import Experiment

try:
    import optuna
except ImportError as error:
    raise UserError("a search needs Optuna: install it with pip install 'hm4sr[tune]'.") from error

logger = logging.getLogger(__name__)

Sampler = Literal["tpe", "grid"]

_COUNTED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
_RUNNING = optuna.trial.TrialState.RUNNING


@dataclass(frozen=True)
class Trial:
    """One point that was tried.

    Attributes:
        number: in the order of the search.
        point: its values.
        score: best validation score of any epoch; of a pruned trial, up to where it was stopped.
        pruned: stopped early because others were better by then.
        diverged: its loss or its scores were no numbers.
        epochs: epochs trained.
        seconds: training and validation time.
    """

    number: int
    point: Point
    score: float
    pruned: bool
    diverged: bool
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
        experiment = Experiment.build(placed(base, {}), where)
        space.check(base)
        self.base, self.where, self.space, self.folder = dict(base), where, space, folder
        self._dataset = Dataset.open(experiment.data.path)
        self.experiment = pinned(experiment, self._dataset)
        build_model(self.experiment, self._dataset, choose_device("cpu"))
        self._sampler, self._pruner, self._seed = sampler, pruner, seed
        self._expect_same()

    @property
    def monitor(self) -> str:
        """The validation metric that decides."""
        return self.experiment.train.monitor

    def run(self, trials: int, workers: int = 1, address: str | None = None) -> list[Trial]:
        """Try points until so many have been tried, pruned ones included; returns all, best first.

        Stops earlier when the space has no further point. Interrupted, it continues where it stopped, within
        an epoch.

        Args:
            trials: points to try.
            workers: trials side by side, each in a process of its own where there are several.
            address: of a Ray cluster that tries them; None tries them here.

        Raises:
            UserError: the device is not here, another process is at work in this folder, a process failed, or
                no point could be trained.
            StoppedError: interrupted; whole epochs are kept.
        """
        if address is None:
            choose_device(self.experiment.train.device)
        with self._alone():
            study = self._study(workers)
            proposed = self._proposed(study, trials)
            if workers == 1 and address is None:
                for trial, experiment in proposed:
                    try_point(study, trial, experiment, self._dataset, self._state(trial))
                    self._write(study)
            else:
                try:
                    self._run_beside(study, proposed, workers, address)
                except KeyboardInterrupt as error:
                    signum = error.signum if isinstance(error, StoppedError) else signal.SIGINT
                    told = "stopped; whole epochs are kept: the same command goes on."
                    raise StoppedError(signum, told) from error
            self._write(study)
            finished = self._finished(study)
            if all(trial.diverged for trial in finished):
                raise UserError(self._why_none(study))
            return finished

    def _why_none(self, study: Any) -> str:
        trials = study.get_trials(deepcopy=False)
        causes = [t.user_attrs[key] for key in ("diverged", "clash") for t in trials if key in t.user_attrs]
        cause = causes[0] if causes else "none was begun."
        return f"no point of {self.space.path} could be trained; the first: {cause}"

    def _run_beside(
        self, study: Any, proposed: Iterator[tuple[Any, Experiment]], workers: int, address: str | None
    ) -> None:
        """Try what is proposed in several processes; when one fails, no more begin."""
        (self.folder / "trials").mkdir(exist_ok=True)
        failed: list[str] = []

        def tasks() -> Iterator[TrialTask]:
            for trial, experiment in proposed:
                yield TrialTask(
                    str(self.folder.absolute()),
                    trial.number,
                    trial._trial_id,
                    experiment.resolved(),
                    str(self._state(trial).absolute()),
                    self._pruner,
                )
                if failed:
                    return

        with closing(side_by_side(tasks(), workers, address)) as done:
            for task, problem in done:
                if problem is not None:
                    failed.append(f"trial {task.number} ({problem})")
                self._write(study)
                logger.info("trial %d %s", task.number, "failed" if problem else "finished")
        if failed:
            raise UserError(
                f"the search has stopped, {'; '.join(failed)}: mend that and call again, what is finished is "
                "kept."
            )

    def _proposed(self, study: Any, trials: int) -> Iterator[tuple[Any, Experiment]]:
        """Trials to run, one at a time, as long as those that have ended or are running are too few."""
        while len(study.get_trials(deepcopy=False, states=(*_COUNTED, _RUNNING))) < trials:
            trial = self._ask(study)
            if trial is None:
                return
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
                continue
            yield trial, experiment

    def _state(self, trial: Any) -> Path:
        """Folder of a trial's states; its point's, so that it is found again under another number."""
        key = hashlib.sha256(point_key(self._point(trial)).encode()).hexdigest()[:16]
        return self.folder / "states" / key

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
            before["settings"] = _settled(before.get("settings"))
            what["settings"] = _settled(settings)
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
        busy = f"another process searches in {self.folder}: wait until it is done."
        with locked(self.folder / ".lock", busy):
            wait_for_orphans(self.folder)
            # So whoever left a lock of the journal behind is dead.
            for stale in self.folder.glob("journal.log.lock*"):
                stale.unlink()
            mend_journal(self.folder)
            yield

    def _study(self, workers: int) -> Any:
        study = open_study(self.folder, self._pruner, self.experiment.train.epochs)
        known = study.get_trials(deepcopy=False)
        # Another seed at every start: the same one would propose the same points again.
        # Where several are under way, each counts as bad until it ends, so that the next one is elsewhere.
        study.sampler = optuna.samplers.TPESampler(seed=self._seed + len(known), constant_liar=workers > 1)
        if not known:
            start = self.space.of(self.base)
            if start is not None:
                self._enqueue(study, start)
        for trial in known:
            if trial.state == _RUNNING:  # interrupted: first to be tried again
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
                if trial.state in (*_COUNTED, _RUNNING) or "clash" in trial.user_attrs
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
        rng = np.random.default_rng([self._seed, len(study.get_trials(deepcopy=False))])
        if 2 * len(tried) < self.space.size:  # a draw is new more often than not; a list may not fit
            while point_key(point := self.space.draw(rng)) in tried:
                pass
            self._enqueue(study, point)
            return True
        unseen = [point for point in self.space.points() if point_key(point) not in tried]
        if unseen:
            self._enqueue(study, unseen[int(rng.integers(len(unseen)))])
        return bool(unseen)

    def _enqueue(self, study: Any, point: Point) -> None:
        study.enqueue_trial({key: _plain(value) for key, value in point.items()})

    def _point(self, trial: Any) -> Point:
        """The values of a trial, as they stand in the space."""
        return {
            key: next((value for value in choices if _plain(value) == trial.params.get(key)), None)
            for key, choices in self.space.choices.items()
        }

    def _finished(self, study: Any) -> list[Trial]:
        trials = [
            Trial(
                number=trial.number,
                point=self._point(trial),
                score=_score(trial),
                pruned=trial.state == optuna.trial.TrialState.PRUNED,
                diverged="diverged" in trial.user_attrs,
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
        head = ["trial", self.monitor, "pruned", "diverged", "epochs", "seconds"]
        writer.writerow([*head, *self.space.choices])
        for trial in trials:
            values = [_plain(value) for value in trial.point.values()]
            writer.writerow(
                [
                    trial.number,
                    repr(trial.score),
                    int(trial.pruned),
                    int(trial.diverged),
                    trial.epochs,
                    f"{trial.seconds:.1f}",
                    *values,
                ]
            )
        write_text(self.folder / "trials.csv", stream.getvalue())
        if trials and not (trials[0].pruned or trials[0].diverged):
            best = trials[0]
            comment = (
                f"# Best of {len(trials)} trials on the validation part: {self.monitor} {best.score:.4f} "
                f"(trial {best.number}).\n# {self.where} searched over {self.space.path}.\n\n"
            )
            write_text(self.folder / "best.toml", comment + to_toml(placed(self.base, best.point)))


def _score(trial: Any) -> float:
    if trial.state == optuna.trial.TrialState.COMPLETE:
        return float(trial.value)
    return float(max(trial.intermediate_values.values()))


def _settled(settings: Any) -> Any:
    """What decides a search, with the defaults of keys that a later version has added."""
    try:
        return decisive(Experiment.build(settings, "tune.json").resolved())
    except (UserError, TypeError):
        return settings


def _plain(value: Any) -> Any:
    """A value that Optuna can keep: itself, or its JSON where it is a list or table."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)
