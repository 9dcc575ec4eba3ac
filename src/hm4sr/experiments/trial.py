"""One trial of a search: trained by the process that searches, or by one of its own.

Both report to Optuna's journal in the folder of the search, which locks itself; so trials that run beside
each other prune each other as trials in a row do.
"""

import json
import logging
import os
import shutil
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hm4sr.data.dataset import Dataset
from hm4sr.errors import DivergedError, StoppedError, UserError, WritingError
from hm4sr.experiments.launch import only_one, run_process
from hm4sr.files import read_json, write_json
from hm4sr.training.checkpoint import newest_whole, saved_states
from hm4sr.training.loop import train
from hm4sr.training.settings import Experiment

try:
    import optuna
except ImportError as error:  # the message that `hm4sr tune` gives
    raise UserError("a search needs Optuna: install it with pip install 'hm4sr[tune]'.") from error

logger = logging.getLogger(__name__)

Pruner = Literal["median", "hyperband", "none"]

_STARTUP_TRIALS, _WARMUP_EPOCHS = 4, 5
"""The median rule waits for so many finished trials, and lets each trial run so many epochs."""


def open_study(folder: Path, pruner: Pruner, epochs: int) -> Any:
    """The study in the folder of a search, made if it is not there.

    Args:
        folder: of the search.
        pruner: rule that stops trials early.
        epochs: most epochs of a trial.

    Raises:
        UserError: its journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    rules = {
        "median": optuna.pruners.MedianPruner(_STARTUP_TRIALS, _WARMUP_EPOCHS),
        "hyperband": optuna.pruners.HyperbandPruner(min(_WARMUP_EPOCHS, epochs), epochs),
        "none": optuna.pruners.NopPruner(),
    }
    try:
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="tune",
            direction="maximize",
            pruner=rules[pruner],
            load_if_exists=True,
        )
    except ValueError as error:  # of which a JSONDecodeError and a UnicodeDecodeError are two
        raise UserError(
            f"{folder / 'journal.log'} is damaged ({error}): "
            "put back a copy, or name another folder with --out."
        ) from error


def mend_journal(folder: Path) -> None:
    """Drop a last line that was not written to its end (a full disk, a power cut): what it told is lost.

    Whoever calls it holds the lock of the search.
    """
    journal = folder / "journal.log"
    if not journal.is_file():
        return
    text = journal.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        logger.warning("%s ends in half a line, which is dropped.", journal)
        os.truncate(journal, whole)


@dataclass(frozen=True)
class TrialTask:
    """A trial for a process of its own, here or on a cluster.

    Attributes:
        folder: of the search.
        number: of the trial, for people.
        trial_id: of the trial, for Optuna.
        experiment: its settings, as plain values.
        state: folder of its states.
        pruner: rule that stops trials early.
    """

    folder: str
    number: int
    trial_id: int
    experiment: dict[str, Any]
    state: str
    pruner: Pruner

    @property
    def device(self) -> str:
        """Where it is trained, as its settings say."""
        return str(self.experiment["train"]["device"])

    def run(self, threads: int | None, stop: threading.Event) -> str | None:
        """Try it; returns what went wrong, or None."""
        trials = Path(self.folder) / "trials"
        file = trials / f"{self.number:05d}.json"
        write_json(file, asdict(self))
        # Held as long as the process lives, even where the search is killed.
        with only_one(trials / f"{Path(self.state).name}.lock", stop) as lock:
            command = [sys.executable, "-m", __name__, str(file)]
            return run_process(command, lock, file.with_suffix(".log"), threads, stop)


def wait_for_orphans(folder: Path) -> None:
    """Wait for the trials that a killed search has left running: they write to its journal to their end.

    Whoever calls it holds the lock of the search.
    """
    for lock in sorted((folder / "trials").glob("*.lock")):
        with only_one(lock, threading.Event(), "a trial that a killed search began"):
            pass


def try_point(study: Any, trial: Any, experiment: Experiment, dataset: Dataset, state: Path) -> None:
    """Train a trial to its end, or until it is pruned, and tell the study.

    Raises:
        StoppedError: Ctrl-C, SIGTERM or SIGHUP; its state is kept in `state`.
        UserError: a full disk, a device that is not here and the like, which say nothing about the settings:
            the trial is continued when that is mended.
    """
    monitor = experiment.train.monitor
    progress = _Watch(trial, monitor)
    try:
        resume = _is_usable(state)
        if resume:
            for row in read_json(newest_whole(state) / "progress.json")["metrics"]:
                progress.add(row)
        train(experiment, dataset, state, resume, progress)
    except optuna.TrialPruned:
        logger.info("pruned after epoch %d, best %s %.4f", progress.epochs, monitor, progress.best)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except DivergedError as error:  # as bad as can be, and not to be tried again
        logger.info("score 0: %s", error)
        trial.set_user_attr("diverged", str(error))
        study.tell(trial, 0.0)
    except WritingError as error:
        raise error.advised("and call again") from error
    except StoppedError as error:
        where = f"stopped in trial {trial.number} {error.where}".rstrip()
        told = f"{where}; what was finished is kept: the same command goes on."
        raise StoppedError(error.signum, told) from error
    else:
        study.tell(trial, progress.best)
    shutil.rmtree(state, ignore_errors=True)


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


def main(file: Path) -> int:
    """Try the trial that a file describes; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        task = TrialTask(**json.loads(file.read_text(encoding="utf-8")))
        experiment = Experiment.build(task.experiment, str(file))
        study = open_study(Path(task.folder), task.pruner, experiment.train.epochs)
        trial = optuna.trial.Trial(study, task.trial_id)
        dataset = Dataset.open(experiment.data.path)
        try_point(study, trial, experiment, dataset, Path(task.state))
    except UserError as error:
        logger.error("hm4sr: %s", error)
        return 2
    except KeyboardInterrupt as error:
        logger.error("hm4sr: %s", str(error) or "interrupted; what was finished is kept.")
        return error.exit_code if isinstance(error, StoppedError) else 130
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
