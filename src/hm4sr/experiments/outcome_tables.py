"""The tables of an experiment: its runs, results, significance, the paper's figures, costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from hm4sr.evaluation.metrics import Metric
from hm4sr.experiments.comparison import Comparison
from hm4sr.experiments.definitions import GroupConfig
from hm4sr.experiments.paper import paper_dataset, paper_improvement, title_of
from hm4sr.experiments.records import DatasetFacts
from hm4sr.experiments.reproduce import Outcome, PartRuns
from hm4sr.experiments.tables import Cell, Table, figure

PAPER_METRICS = (Metric("ndcg", 5), Metric("ndcg", 10), Metric("mrr", 5), Metric("mrr", 10))
"""What the paper reports."""


@dataclass(frozen=True)
class Measured:
    """One group of an experiment, with its finished runs side by side.

    Attributes:
        outcome: the experiment.
        group: its group.
        facts: of the data set.
        metrics: what is shown.
        primary: the metric of tests and segments.
    """

    outcome: Outcome
    group: GroupConfig
    facts: DatasetFacts
    metrics: Sequence[Metric]
    primary: Metric

    @property
    def lines(self) -> list[PartRuns]:
        """The lines that have a meaning on these data."""
        return [line for line in self.outcome.group(self.group.name) if line.identity]

    @cached_property
    def comparison(self) -> Comparison | None:
        """The lines that were run; None if there are none."""
        records = {line.label: dict(line.records) for line in self.lines if line.records}
        if not records:
            return None
        ours = self.outcome.ours(self.group.name) or ""
        return Comparison.of(records, self.facts, self.metrics, self.primary, ours)

    def value(self, label: str, metric: Metric) -> tuple[float | None, float | None]:
        """Mean and deviation over seeds; None where it was not run or has one seed."""
        if self.comparison is None or label not in self.comparison.systems.names:
            return None, None
        spread = self.comparison.systems.spread(label, metric)
        return spread.mean, spread.deviation

    def tables(self) -> list[Table]:
        """Results, and as far as they can be had the paper's figures, significance and segments."""
        if self.comparison is None:
            return []
        models = self.outcome.definition.layout == "models"
        tables = [self._results(self.comparison, models)]
        beside = self._beside_paper(self.comparison) if models else None
        tests = self.comparison.significance()
        if tests and not models:
            tests = replace(tests, title=f"{self.comparison.ours} against each other run")
        tables += [table for table in (beside, tests) if table]
        if models:
            tables += self.comparison.by_segment()
        if len(self.outcome.definition.groups) == 1:
            return tables
        return [
            replace(table, name=f"{self.group.name} {table.name}", title=f"{self._heading}: {table.title}")
            for table in tables
        ]

    @property
    def _heading(self) -> str:
        return f"{self.group.name} ({self.group.axis})" if self.group.axis else self.group.name

    def _results(self, comparison: Comparison, models: bool) -> Table:
        """The comparison's table with a row for what was not run, and the difference to ours."""
        table = comparison.results(costs=False)
        first = table.rules[0] if table.rules else len(table.rows)
        rows = {row[0].text: row for row in table.rows[:first]}
        beside = None if models else comparison.ours or None
        shown: list[list[Cell]] = []
        for line in self.lines:
            missing = [Cell(line.label), Cell("not run"), *[Cell("")] * (len(table.header) - 2)]
            difference = [self._difference(line.label, beside)] if beside else []
            shown.append([*rows.get(line.label, missing), *difference])
        last = [[*row, *([Cell("")] if beside else [])] for row in table.rows[first:]]
        header = ["Model" if models else "Run", *table.header[1:]]
        header += [f"{self.primary.title} against {beside}"] if beside else []
        rules = [len(shown)] if last else []
        notes = list(table.notes)
        absent = sum(line.label not in rows for line in self.lines)
        if absent:
            notes.append(f"{absent} of {len(self.lines)} lines were not run; nothing here is about them.")
        return replace(table, header=header, rows=[*shown, *last], notes=notes, rules=rules)

    def _difference(self, label: str, ours: str) -> Cell:
        own, other = self.value(ours, self.primary)[0], self.value(label, self.primary)[0]
        if label == ours or not own or other is None:
            return Cell("")
        return Cell(f"{other / own - 1:+.1%}", other / own - 1)

    def _beside_paper(self, comparison: Comparison) -> Table | None:
        table, dataset = comparison.beside_paper(), paper_dataset(self.facts.size)
        if table is None or dataset is None:
            return None
        theirs = [
            f"{Metric.parse(m).title} {100 * share:+.3g} %" for m, share in paper_improvement(dataset).items()
        ]
        note = f"HM4SR over the best other model, as the paper has it: {', '.join(theirs)}."
        return replace(table, notes=[*table.notes, note])


def runs_table(outcome: Outcome, seeds: Sequence[int]) -> Table:
    """What each line changes, and under which seeds it was run."""
    rows, notes = [], []
    for line in outcome.lines:
        if line.reason:
            state = "does not apply"
            notes.append(f"{line.label} is left out: {line.reason.rstrip('.')}.")
        elif not line.records:
            state = "not run"
        else:
            state = f"{len(line.records)} of {len(seeds)} seeds"
        rows.append([Cell(line.label), Cell(title_of(line.part.model)), Cell(_changes(line)), Cell(state)])
    notes.append(f"Seeds asked for: {', '.join(map(str, seeds))}.")
    return Table("runs", "Runs", ["Run", "Model", "Changed settings", "State"], rows, notes)


def _changes(line: PartRuns) -> str:
    run = line.part.run
    changes = [f"{key} = {_value(value)}" for key, value in run.set.items()]
    changes += [f"without {run.without}"] if run.without else []
    return ", ".join(changes) or "none"


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def costs_table(outcome: Outcome, facts: DatasetFacts, primary: Metric) -> Table | None:
    """Time and memory of all runs; None where none was made."""
    records = {line.label: dict(line.records) for line in outcome.lines if line.records}
    if not records:
        return None
    return Comparison.of(records, facts, [primary], primary, "").costs()


def statistics_table(facts: DatasetFacts, paper: dict[str, dict[str, float]]) -> Table:
    """The numbers of the paper's Table 2, of this data set and of the paper's."""
    size = facts.size
    own: dict[str, float] = {
        **size,
        "actions_per_user": size["actions"] / size["users"],
        "actions_per_item": size["actions"] / size["items"],
        "sparsity": 1 - size.get("pairs", size["actions"]) / (size["users"] * size["items"]),
    }
    names = {
        "users": ("Users", ",d"),
        "items": ("Items", ",d"),
        "actions": ("Actions", ",d"),
        "actions_per_user": ("Actions a user", ".2f"),
        "actions_per_item": ("Actions an item", ".2f"),
        "sparsity": ("Sparsity", ".2%"),
    }
    rows = [
        [Cell(title), *(figure(column[key], pattern=pattern) for column in (own, *paper.values()))]
        for key, (title, pattern) in names.items()
    ]
    known = paper_dataset(size)
    notes = [
        f"{facts.name} has the users, items and actions of the paper's {known}."
        if known
        else f"{facts.name} is none of the paper's data sets.",
        "The paper's columns are as printed; the two means of Toys do not follow from its three sizes.",
    ]
    header = ["", facts.name, *(f"{name} (paper)" for name in paper)]
    return Table(
        "statistics", f"Statistics of {facts.name} and of the paper's data sets", header, rows, notes
    )
