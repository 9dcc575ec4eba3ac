"""Lists of runs: each known by its content, found where it was trained before, trained otherwise.

A run is its settings, its data and its seed, whatever the folder is called. So experiments that need the same
run share it, a run made by `hm4sr train` counts as well, and a list that was interrupted goes on where it
stopped.

shelf = Shelf(Path("runs"))
entries = [Entry("HM4SR", experiment), Entry("SASRec", other)]
records = obtain(entries, seeds=[1, 2, 3], shelf=shelf, workers=2)
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.evaluation.compare import Systems
from hm4sr.evaluation.metrics import Metric
from hm4sr.experiments.launch import Job, run_jobs
from hm4sr.experiments.records import Record, finished, identity, run_name
from hm4sr.files import read_json
from hm4sr.runtime import choose_device
from hm4sr.training.checkpoint import saved_states
from hm4sr.training.loop import build_model
from hm4sr.training.run import data_identity, pinned
from hm4sr.training.settings import Experiment

logger = logging.getLogger(__name__)

Records = dict[str, dict[int, Record]]
"""Label of an entry to seed to its finished run."""


@dataclass(frozen=True)
class Entry:
    """One line of a comparison: a label and what is trained, for any seed.

    Attributes:
        label: how it is called in tables; no two entries share one.
        experiment: its settings; the seed is replaced.
    """

    label: str
    experiment: Experiment


@dataclass
class Shelf:
    """Where finished runs are looked for, and where new ones go.

    Attributes:
        root: folder of run folders.
        reports: further folders, of run folders or published copies.
    """

    root: Path
    reports: Sequence[Path] = ()
    _datasets: dict[Path, Dataset] = field(default_factory=dict, repr=False)

    def dataset(self, experiment: Experiment) -> Dataset:
        """The data set of an experiment, opened and checked once."""
        path = experiment.data.path.resolve()
        if path not in self._datasets:
            self._datasets[path] = Dataset.open(experiment.data.path)
        return self._datasets[path]

    @cached_property
    def known(self) -> dict[tuple[str, int], Record]:
        """Finished runs by identity and seed; run folders win over copies, for they hold the weights."""
        folders = [*self.reports, self.root]
        return {(record.identity, record.seed): record for folder in folders for record in finished(folder)}

    def plan(self, experiment: Experiment) -> "Planned":
        """Make an experiment's identity known and look for its run."""
        dataset = self.dataset(experiment)
        exact = pinned(experiment, dataset)
        key = identity(exact.resolved(), data_identity(dataset, exact))
        path = self.root / run_name(dataset.name, exact.model["name"], key, exact.seed)
        return Planned(exact, key, path, self.known.get((key, exact.seed)))

    def add(self, record: Record) -> None:
        """Remember a run that has been finished since."""
        self.known[record.identity, record.seed] = record


@dataclass(frozen=True)
class Planned:
    """A run that a list asks for.

    Attributes:
        experiment: with seed and modalities.
        identity: see `records.identity`.
        path: run folder it gets, unless it is found elsewhere.
        record: the finished run, if there is one.
    """

    experiment: Experiment
    identity: str
    path: Path
    record: Record | None

    def job(self) -> Job:
        """What has to be started; an interrupted run is continued under the settings it was started with."""
        if not saved_states(self.path / "resume"):
            return Job(self.experiment, self.path)
        # The same but for where the data lay and the machine, which the folder's name says nothing about.
        started = Experiment.build(read_json(self.path / "config.json"), str(self.path / "config.json"))
        return Job(started, self.path, resume=True)


def with_seed(experiment: Experiment, seed: int) -> Experiment:
    """The same experiment under another seed."""
    return experiment.model_copy(update={"seed": seed})


def obtain(
    entries: Sequence[Entry],
    seeds: Sequence[int],
    shelf: Shelf,
    workers: int = 1,
    train: bool = True,
    address: str | None = None,
) -> Records:
    """Finished runs of all entries under all seeds, trained as far as they are missing.

    Args:
        entries: what to train.
        seeds: under which seeds.
        shelf: where runs are looked for and kept.
        workers: runs trained side by side, each in a process of its own with its share of the processor.
        train: whether missing runs are trained; otherwise they are an error.
        address: of a Ray cluster that trains them; None trains them in processes of this machine.

    Raises:
        UserError: a mistake in the settings (found before anything is trained), a missing run that may not be
            trained, or runs that failed; those that finished are kept.
        KeyboardInterrupt: interrupted; whole epochs are kept, and the same call continues.
    """
    plans = {
        (entry.label, seed): shelf.plan(with_seed(entry.experiment, seed))
        for seed in seeds
        for entry in entries
    }
    missing = {plan.path: plan for plan in plans.values() if plan.record is None}
    if missing and not train:
        first = next(iter(missing.values()))
        raise UserError(
            f"{len(missing)} of {len(plans)} runs are not trained, the first is {first.path}: "
            "allow training, or add --runs or --reports with the folder that holds them."
        )
    for plan in {plan.identity: plan for plan in missing.values()}.values():
        build_model(plan.experiment, shelf.dataset(plan.experiment), choose_device("cpu"))
    if missing:
        logger.info("%d of %d runs are to be trained", len(missing), len(plans))
    jobs = [plan.job() for plan in missing.values()]
    run_jobs(jobs, workers, lambda path: shelf.add(Record.open(path)), address)
    records: Records = {}
    for (label, seed), plan in plans.items():
        records.setdefault(label, {})[seed] = shelf.known[plan.identity, seed]
    for seeded in records.values():
        for record in seeded.values():
            record.verify()
    return records


def best_on_validation(records: Mapping[str, Mapping[int, Record]], metric: Metric) -> list[str]:
    """Labels, best mean validation score first; never looks at the test part."""
    tables = {
        label: {seed: record.ranks() for seed, record in seeds.items()} for label, seeds in records.items()
    }
    return Systems.align(tables, "valid").best_first(metric)
