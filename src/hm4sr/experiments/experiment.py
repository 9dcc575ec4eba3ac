"""What `hm4sr experiment` does: plan, train what is missing, write the report."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.evaluation.metrics import Metric
from hm4sr.experiments.chapters import Chapter, Setting, build
from hm4sr.experiments.compare import measure_speeds, shown_metrics
from hm4sr.experiments.definitions import ALL, chosen_definitions, chosen_parts, definitions
from hm4sr.experiments.plots import require_matplotlib
from hm4sr.experiments.records import DatasetFacts, finished, publish
from hm4sr.experiments.report import write_all, write_chapter
from hm4sr.experiments.reproduce import Bases, Outcome, applicable, find, plan, published, train_missing
from hm4sr.experiments.runs import Shelf
from hm4sr.experiments.subject import Subject

logger = logging.getLogger(__name__)

_NDCG = Metric("ndcg", 10)


@dataclass(frozen=True)
class Request:
    """One call.

    Attributes:
        name: an experiment, or "all".
        dataset: prepared data set, or without training the name of one that `reports` have runs of.
        parts: as NAME:LABEL,LABEL; none for all of them.
        overrides: `key=value` assignments for every run.
        configs: folder of settings; None looks for configs/NAME OF DATASET.
        seeds: of the runs.
        runs: folder where runs are looked for and kept.
        reports: further folders of runs or published copies.
        train: whether missing runs are trained.
        workers: runs side by side.
        address: of a Ray cluster that trains them; None trains them on this machine.
        primary: metric of tests and segments.
        ks: cut-offs shown for the models of Table 1.
        out: folder of the report; None takes experiments/NAME OF DATASET.
        whole: also write the page with all experiments.
        export: folder for published copies of the runs; None for none.
    """

    name: str
    dataset: Path
    parts: Sequence[str] = ()
    overrides: Sequence[str] = ()
    configs: Path | None = None
    seeds: Sequence[int] = (1,)
    runs: Path = Path("runs")
    reports: Sequence[Path] = ()
    train: bool = True
    workers: int = 1
    address: str | None = None
    primary: Metric = _NDCG
    ks: Sequence[int] = ()
    out: Path | None = None
    whole: bool = False
    export: Path | None = None


@dataclass(frozen=True)
class Done:
    """What a call came to.

    Attributes:
        chapters: the experiments asked for.
        written: files of the report.
        problem: what went wrong in some runs; None if nothing did.
    """

    chapters: Sequence[Chapter]
    written: Sequence[Path]
    problem: UserError | None


def run(request: Request) -> Done:
    """Rerun an experiment, or all.

    Raises:
        UserError: a mistake in the request or the settings, found before anything is trained.
        KeyboardInterrupt: interrupted; whole epochs are kept, and the same call continues.
    """
    chosen = chosen_definitions(request.name)
    wanted = chosen_parts(chosen, request.parts)
    require_matplotlib()
    subject = _subject(request)
    folder = request.configs or Path("configs") / subject.name
    bases = Bases(subject, folder, request.overrides)
    shelf = Shelf(request.runs, request.reports)
    outcomes = [plan(definition, bases) for definition in chosen]
    problem = None
    if request.train:
        outcomes = applicable(outcomes, wanted, request.seeds, shelf)
        problem = train_missing(outcomes, wanted, request.seeds, shelf, request.workers, request.address)
    outcomes = find(outcomes, request.seeds, shelf)
    facts = _facts(subject)
    if subject.dataset is not None and request.train:
        _measure(outcomes, subject.dataset)
    metrics = shown_metrics(request.ks, request.primary)
    setting = Setting(subject, facts, bases, request.seeds, metrics, request.primary)
    chapters = [build(outcome, setting) for outcome in outcomes]
    out = request.out or Path("experiments") / subject.name
    written = [path for chapter in chapters for path in write_chapter(chapter, setting, out)]
    if request.whole or request.name == ALL:
        written.append(_write_whole(chapters, setting, shelf, out))
    if request.export is not None:
        copies = publish(published(outcomes), facts, request.export)
        logger.info("%s: %d runs", request.export, len(copies))
    return Done(chapters, written, problem)


def _subject(request: Request) -> Subject:
    place = request.dataset
    if (place / "manifest.json").is_file() or request.train or not request.reports:
        return Subject.of_dataset(Dataset.open(place))
    records = [record for folder in request.reports for record in finished(folder)]
    return Subject.published(place.resolve().name, records, request.reports)


def _facts(subject: Subject) -> DatasetFacts:
    facts = subject.target_facts()
    if facts is None:
        raise UserError(
            f"--reports holds no facts about {subject.name} beside its runs: export them again where it is."
        )
    return facts


def _measure(outcomes: Sequence[Outcome], dataset: Dataset) -> None:
    """Time the recommendations of the models of Table 1."""
    for outcome in outcomes:
        if outcome.definition.layout == "models":
            runs = {line.label: dict(line.records) for line in outcome.lines if line.records}
            measure_speeds(runs, dataset)


def _write_whole(chapters: Sequence[Chapter], setting: Setting, shelf: Shelf, out: Path) -> Path:
    """One page with the experiments asked for and what is there of the others."""
    built = {chapter.outcome.definition.name: chapter for chapter in chapters}
    others = [plan(one, setting.bases) for name, one in definitions().items() if name not in built]
    for outcome in find(others, setting.seeds, shelf):
        built[outcome.definition.name] = build(outcome, setting)
    return write_all([built[name] for name in definitions()], setting, out)
