"""From the list of an experiment to its finished runs: settings, what applies, what is there, training."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hm4sr.config import assign, override, read_toml
from hm4sr.errors import UserError
from hm4sr.experiments.definitions import Definition, Part
from hm4sr.experiments.paper import title_of
from hm4sr.experiments.records import Record
from hm4sr.experiments.runs import Entry, Records, Shelf, obtain
from hm4sr.experiments.subject import Subject
from hm4sr.runtime import choose_device
from hm4sr.training.loop import build_model
from hm4sr.training.settings import Experiment

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bases:
    """The settings that each model has on a data set before an experiment changes them.

    Attributes:
        subject: the data set.
        configs: folder with files such as hm4sr.toml; a model without one has its defaults.
        overrides: `key=value` assignments for every model.
    """

    subject: Subject
    configs: Path
    overrides: Sequence[str] = ()

    def file(self, model: str) -> Path | None:
        """The configuration of a model, if there is one."""
        path = self.configs / f"{model}.toml"
        return path if path.is_file() else None

    def experiment(self, part: Part) -> Experiment:
        """The settings of one run of an experiment.

        Raises:
            UserError: a file, a key or a value is wrong.
        """
        file = self.file(part.model)
        where = str(file) if file else f"the defaults of {part.model}"
        values = override(read_toml(file) if file else {}, self.overrides)
        assign(values, "data.path", str(self.subject.path), where)
        assign(values, "model.name", part.model, where)
        run, data = part.run, values["data"]
        if data.get("features") is None and run.reads is not None:
            data["features"] = [name for name in run.reads if name in self.subject.features]
        if run.without is not None:
            having = data.get("features")
            having = sorted(self.subject.features) if having is None else having
            data["features"] = [name for name in having if name != run.without]
        for key, value in run.set.items():
            assign(values, key, value, part.label)
        return Experiment.build(values, where)

    def plain(self, model: str) -> Experiment:
        """The settings of a model that no experiment has changed."""
        return self.experiment(Part.parse({"label": model, "group": "", "run": {"model": model}}, model))


@dataclass(frozen=True)
class PartRuns:
    """One line of an experiment and its finished runs.

    Attributes:
        part: the line.
        experiment: its settings, with the seed of the base.
        identity: of its runs; empty where it does not apply.
        reason: why it does not apply to this data set; empty where it does.
        records: finished runs by seed.
    """

    part: Part
    experiment: Experiment
    identity: str = ""
    reason: str = ""
    records: Mapping[int, Record] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Of the part."""
        return self.part.label

    @property
    def published_label(self) -> str:
        """What the run is called where it stands beside runs of other experiments."""
        title = title_of(self.part.model)
        changed = self.part.run.set or self.part.run.without
        return f"{title} {self.label}" if changed else title


@dataclass(frozen=True)
class Outcome:
    """An experiment and what there is of it.

    Attributes:
        definition: the experiment.
        lines: its parts in order.
        base: identity of our model as it is on this data set, whatever the experiment changes.
    """

    definition: Definition
    lines: Sequence[PartRuns]
    base: Mapping[str, str] = field(default_factory=dict)

    def group(self, name: str) -> list[PartRuns]:
        """The lines of one group."""
        return [line for line in self.lines if line.part.group == name]

    def ours(self, group: str) -> str | None:
        """Label of the finished run that the others of a group are measured against."""
        lines = [line for line in self.group(group) if line.records]
        for line in lines:
            if line.label == self.definition.ours:
                return line.label
        plain = [line.label for line in lines if line.identity == self.base.get(line.part.model)]
        return plain[0] if plain else None


def plan(definition: Definition, bases: Bases) -> Outcome:
    """Settings and identity of every part; those without a meaning on these data are marked, with the reason.

    Raises:
        UserError: a mistake in the settings, or data without features.
    """
    subject = bases.subject
    if definition.groups and not subject.features:
        raise UserError(
            f"{subject.path} has no features, and {definition.name} is about models that read them: "
            f"run `hm4sr features {subject.path} --text ... --image ...` first."
        )
    lines = []
    for part in definition.parts:
        experiment = bases.experiment(part)
        reason = _lacking(part, subject, bases)
        lines.append(PartRuns(part, experiment, "" if reason else subject.identity(experiment), reason))
    models = dict.fromkeys(part.model for part in definition.parts)
    return Outcome(definition, lines, {model: subject.identity(bases.plain(model)) for model in models})


def _lacking(part: Part, subject: Subject, bases: Bases) -> str:
    needs = part.run.needs
    if needs is None:
        return ""
    if needs not in subject.features:
        return f"the data set has no {needs} features"
    given = bases.plain(part.model).data.features
    return f"{title_of(part.model)} does not read {needs} here" if given and needs not in given else ""


def find(outcomes: Sequence[Outcome], seeds: Sequence[int], shelf: Shelf) -> list[Outcome]:
    """The outcomes with the finished runs that there are.

    Raises:
        UserError: a file of such a run is damaged.
    """
    found = []
    verified: set[Path] = set()
    for outcome in outcomes:
        lines = []
        for line in outcome.lines:
            records = {
                seed: shelf.known[line.identity, seed]
                for seed in seeds
                if line.identity and (line.identity, seed) in shelf.known
            }
            for record in records.values():
                if record.path not in verified:
                    record.verify()
                    verified.add(record.path)
            lines.append(replace(line, records=records))
        found.append(replace(outcome, lines=lines))
    return found


def applicable(
    outcomes: Sequence[Outcome], wanted: Mapping[str, set[str]], seeds: Sequence[int], shelf: Shelf
) -> list[Outcome]:
    """Mark the wanted parts that are not trained and whose model cannot be built on these data.

    Raises:
        UserError: our own model cannot be.
    """
    checked: dict[str, str] = {}
    marked = []
    for outcome in outcomes:
        lines = []
        for line in outcome.lines:
            missing = line.identity and any((line.identity, seed) not in shelf.known for seed in seeds)
            if missing and line.label in wanted[outcome.definition.name]:
                if line.identity not in checked:
                    checked[line.identity] = _problem(line.experiment, shelf)
                reason = checked[line.identity]
                if reason and line.identity == outcome.base.get("hm4sr"):
                    raise UserError(reason)
                line = replace(line, reason=reason, identity="" if reason else line.identity)
            lines.append(line)
        marked.append(replace(outcome, lines=lines))
    return marked


def _problem(experiment: Experiment, shelf: Shelf) -> str:
    try:
        build_model(experiment, shelf.dataset(experiment), choose_device("cpu"))
    except UserError as error:
        return str(error)
    return ""


def train_missing(
    outcomes: Sequence[Outcome],
    wanted: Mapping[str, set[str]],
    seeds: Sequence[int],
    shelf: Shelf,
    workers: int,
    address: str | None = None,
) -> UserError | None:
    """Train what is wanted and not there; runs that experiments share are trained once.

    `workers` and `address` are those of `hm4sr.experiments.runs.obtain`.

    Returns:
        what went wrong where some runs failed; the others are kept and known to the shelf.

    Raises:
        KeyboardInterrupt: interrupted; whole epochs are kept, and the same call continues.
    """
    entries = [
        Entry(f"{outcome.definition.name}: {line.label}", line.experiment)
        for outcome in outcomes
        for line in outcome.lines
        if line.identity and line.label in wanted[outcome.definition.name]
    ]
    try:
        obtain(entries, seeds, shelf, workers, address=address)
    except UserError as error:
        return error
    return None


def published(outcomes: Sequence[Outcome]) -> Records:
    """All finished runs, each once, by a label that tells it from the others."""
    labels: dict[str, str] = {}
    records: Records = {}
    for outcome in outcomes:
        for line in outcome.lines:
            if line.records and line.identity not in labels:
                label = line.published_label
                taken = set(labels.values())
                labels[line.identity] = label if label not in taken else f"{label} {line.identity[:8]}"
                records[labels[line.identity]] = dict(line.records)
    return records
