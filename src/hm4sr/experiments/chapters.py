"""An experiment as it is shown: the tables and figures that its layout asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hm4sr.evaluation.metrics import Metric
from hm4sr.experiments.cases import study_cases
from hm4sr.experiments.cases_page import case_drawings, cases_section, cases_table
from hm4sr.experiments.facts import time_facts
from hm4sr.experiments.outcome_figures import draw_bars, draw_lines, draw_times
from hm4sr.experiments.outcome_tables import (
    PAPER_METRICS,
    Measured,
    costs_table,
    runs_table,
    statistics_table,
)
from hm4sr.experiments.paper import paper_statistics
from hm4sr.experiments.plots import Drawing
from hm4sr.experiments.records import DatasetFacts
from hm4sr.experiments.reproduce import Bases, Outcome
from hm4sr.experiments.subject import Subject
from hm4sr.experiments.tables import Table


@dataclass(frozen=True)
class Setting:
    """What all experiments of a report share.

    Attributes:
        subject: the data set.
        facts: about its size and its test targets.
        bases: settings before an experiment changes them.
        seeds: asked for.
        metrics: shown for the models of Table 1.
        primary: metric of tests and segments.
    """

    subject: Subject
    facts: DatasetFacts
    bases: Bases
    seeds: Sequence[int]
    metrics: Sequence[Metric]
    primary: Metric


@dataclass(frozen=True)
class Chapter:
    """An experiment, ready to be written.

    Attributes:
        outcome: its runs.
        tables: what was found; the same for the same runs, wherever they were made.
        costs: time and memory.
        drawings: its figures.
        body: HTML of its own.
        notes: sentences about what is missing, or can be done beside it.
    """

    outcome: Outcome
    tables: Sequence[Table] = ()
    costs: Table | None = None
    drawings: Sequence[Drawing] = ()
    body: str = ""
    notes: Sequence[str] = field(default=())


def build(outcome: Outcome, setting: Setting) -> Chapter:
    """The tables and figures of one experiment."""
    layout = outcome.definition.layout
    if layout == "statistics":
        return Chapter(outcome, [statistics_table(setting.facts, paper_statistics())])
    if layout == "times":
        return _times(outcome, setting)
    if layout == "cases":
        return _cases(outcome, setting)
    return _measured(outcome, setting)


def _measured(outcome: Outcome, setting: Setting) -> Chapter:
    models = outcome.definition.layout == "models"
    metrics = setting.metrics if models else [*PAPER_METRICS]
    if setting.primary not in metrics:
        metrics = [setting.primary, *metrics]
    definition, facts = outcome.definition, setting.facts
    groups = [Measured(outcome, group, facts, metrics, setting.primary) for group in definition.groups]
    groups = [group for group in groups if group.lines]
    drawings = [draw_bars(group) for group in groups if group.group.key is None]
    drawings += draw_lines(groups)
    tables = [table for group in groups for table in group.tables()]
    notes = [f"Not from one prepared data set: {one.what}. {one.how}." for one in definition.by_hand]
    if not tables:
        notes.insert(0, "None of its runs is there yet.")
    costs = costs_table(outcome, setting.facts, setting.primary)
    return Chapter(outcome, [*tables, runs_table(outcome, setting.seeds)], costs, drawings, notes=notes)


def _times(outcome: Outcome, setting: Setting) -> Chapter:
    if setting.subject.dataset is None:
        missing = "The data set itself is needed for this; published runs do not hold it."
        return Chapter(outcome, notes=[missing])
    drawing, table = draw_times(time_facts(setting.subject.dataset.events), setting.subject.name)
    return Chapter(outcome, [table], drawings=[drawing])


def _cases(outcome: Outcome, setting: Setting) -> Chapter:
    runs = runs_table(outcome, setting.seeds)
    if setting.subject.dataset is None:
        missing = "The data set itself and trained weights are needed for this; published runs hold neither."
        return Chapter(outcome, [runs], notes=[missing])
    study = study_cases(outcome, setting.subject.dataset, setting.primary)
    if isinstance(study, str):
        return Chapter(outcome, [runs], notes=[study])
    return Chapter(
        outcome, [cases_table(study), runs], drawings=case_drawings(study), body=cases_section(study)
    )
