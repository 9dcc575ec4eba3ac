"""The tables of a comparison: results, costs, significance, the paper's figures, segments."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.errors import UserError
from hm4sr.evaluation.compare import LEVEL, PairedTest, Systems, number_repeats
from hm4sr.evaluation.metrics import Metric
from hm4sr.evaluation.segments import segments
from hm4sr.evaluation.significance import ROUNDS
from hm4sr.experiments.paper import paper_dataset, paper_results
from hm4sr.experiments.records import DatasetFacts, Record
from hm4sr.experiments.runs import Records
from hm4sr.experiments.tables import Cell, Table, figure, marked

_TEST_SEED = 0


@dataclass(frozen=True)
class Comparison:
    """Finished runs of several systems on one data set.

    Attributes:
        systems: their ranks of the test targets.
        records: the runs, by label and seed.
        facts: of the data set.
        metrics: what is shown.
        primary: the metric of segments and of the significance in full.
        ours: label of the system that the others are rivals of; one that is not there has no rivals.
    """

    systems: Systems
    records: Records
    facts: DatasetFacts
    metrics: Sequence[Metric]
    primary: Metric
    ours: str

    @classmethod
    def of(
        cls, records: Records, facts: DatasetFacts, metrics: Sequence[Metric], primary: Metric, ours: str
    ) -> "Comparison":
        """Line up the test ranks of all runs.

        Raises:
            UserError: they are not about the same targets.
        """
        tables = {
            label: {seed: run.ranks() for seed, run in seeds.items()} for label, seeds in records.items()
        }
        return cls(Systems.align(tables, "test"), records, facts, metrics, primary, ours)

    @property
    def title(self) -> str:
        """A heading."""
        return f"{len(self.records)} models on {self.facts.name}"

    @property
    def lead(self) -> list[str]:
        """What was compared, in sentences."""
        size = self.facts.size
        targets = len(self.systems.users)
        return [
            f"{size['users']:,} users, {size['items']:,} items, {size['actions']:,} events; "
            f"{targets:,} test targets, each ranked among all items. Settings and epochs were chosen on the "
            "validation part; the test part is only reported."
        ]

    def tables(self) -> list[Table]:
        """All tables, those that have nothing to say left out."""
        return [
            self.results(),
            *(table for table in (self.beside_paper(), self.significance()) if table),
            *self.by_segment(),
        ]

    @cached_property
    def tests(self) -> list[PairedTest]:
        """Our system against every other on every metric."""
        if self.ours not in self.systems.names:
            return []
        return self.systems.tests(self.ours, self.metrics, np.random.default_rng(_TEST_SEED))

    def results(self, costs: bool = True) -> Table:
        """Metrics, improvement and, beside them, costs."""
        names = self.systems.names
        columns = [self._metric_column(metric) for metric in self.metrics]
        titles = _COSTS if costs else _COSTS[:1]
        columns += [[self._cost(label, number) for label in names] for number in range(len(titles))]
        rows = [[Cell(label), *(column[row] for column in columns)] for row, label in enumerate(names)]
        rules = []
        best = []
        if self.ours in names:
            best = [self.systems.improvement(self.ours, metric) for metric in self.metrics]
        if any(best):
            rules = [len(rows)]
            cells = [
                Cell(f"{share:+.2%}", share) if share is not None else Cell("") for share in _shares(best)
            ]
            rows.append([Cell(f"{self.ours} over the best other"), *cells, *[Cell("")] * len(titles)])
        header = ["Model", *(metric.title for metric in self.metrics), *titles]
        title = f"Results on {self.facts.name}"
        notes = [*self._result_notes(), *(self._cost_notes() if costs else [])]
        return Table("results", title, header, rows, notes, rules)

    def costs(self) -> Table:
        """Time and memory alone, which differ from one machine and one day to the next."""
        rows = [
            [Cell(label), *(self._cost(label, number) for number in range(len(_COSTS)))]
            for label in self.systems.names
        ]
        return Table("costs", "Time and memory", ["Model", *_COSTS], rows, self._cost_notes())

    def _metric_column(self, metric: Metric) -> list[Cell]:
        cells = marked([figure(*self._values(label, metric)) for label in self.systems.names])
        winner = [test for test in self.tests if test.metric == metric]
        clear = winner and all(test.adjusted < LEVEL and test.difference.mean > 0 for test in winner)
        return [
            Cell(cell.text, cell.value, cell.spread, cell.mark, "†") if clear and label == self.ours else cell
            for label, cell in zip(self.systems.names, cells, strict=True)
        ]

    def _values(
        self, label: str, metric: Metric, members: NDArray[np.bool_] | None = None
    ) -> tuple[float, float | None]:
        spread = self.systems.spread(label, metric, members)
        return spread.mean, spread.deviation

    def _cost(self, label: str, number: int) -> Cell:
        runs = list(self.records[label].values())
        speeds = [speed["seconds"] for speed in (run.speed() for run in runs) if speed]
        return (
            figure(len(runs), pattern="d"),
            figure(int(runs[0].report["parameters"]), pattern=",d"),
            figure(fmean(float(run.report["seconds_per_epoch"]) for run in runs), pattern=".2f"),
            figure(fmean(_minutes(run) for run in runs), pattern=".1f"),
            figure(max(int(run.report["peak_memory_mb"]) for run in runs), pattern=",d"),
            figure(fmean(speeds) if speeds else None, pattern=".3f"),
        )[number]

    def _result_notes(self) -> list[str]:
        notes = []
        if any(len(seeds) > 1 for seeds in self.records.values()):
            notes.append("Mean ± standard deviation over seeds.")
        if any(cell.note for metric in self.metrics for cell in self._metric_column(metric)):
            notes.append(
                f"† better than every other model (p < {LEVEL}, paired sign-flip test over users, Holm's "
                "correction over all models and metrics)."
            )
        return notes

    def _cost_notes(self) -> list[str]:
        runs = [run for seeds in self.records.values() for run in seeds.values()]
        machines = {(run.environment["device"], run.environment["threads"]) for run in runs}
        timed = {speed["threads"] for speed in (run.speed() for run in runs) if speed}
        told = ", ".join(f"{device} with {_threads(threads)}" for device, threads in sorted(machines))
        warning = " Times of different machines or thread counts do not compare." if len(machines) > 1 else ""
        notes = [f"Trained on {told}.{warning}"]
        if timed:
            notes.append(f"s / 1,000 rec. measured with {' and '.join(map(_threads, sorted(timed)))}.")
        return notes

    def beside_paper(self) -> Table | None:
        """The paper's figures beside ours, if the data set and a model are the paper's."""
        dataset = paper_dataset(self.facts.size)
        if dataset is None:
            return None
        rows = []
        metrics: list[Metric] = []
        for label, seeds in self.records.items():
            run = next(iter(seeds.values()))
            theirs = paper_results(dataset, run.model)
            if theirs is None:
                continue
            metrics = [Metric.parse(name) for name in theirs]
            cells = [Cell(label), Cell(", ".join(run.modalities) or "none")]
            for metric in metrics:
                own, spread = self._values(label, metric)
                paper = theirs[str(metric)]
                cells += [
                    figure(own, spread),
                    figure(paper),
                    Cell(f"{own / paper - 1:+.1%}", own / paper - 1),
                ]
            rows.append(cells)
        if not rows:
            return None
        header = ["Model", "Features", *(part for m in metrics for part in (m.title, "paper", "difference"))]
        note = "Features: read beside the IDs; the paper's multi-modal models read text and image."
        return Table("paper", f"Beside the paper's Table 1, {dataset}", header, rows, [note])

    def significance(self) -> Table | None:
        """Our system against every other, over users."""
        if not self.tests:
            return None
        others = [metric for metric in self.metrics if metric != self.primary]
        rows = []
        for rival in self.systems.names:
            tests = {test.metric: test for test in self.tests if test.rival == rival}
            if not tests:
                continue
            main = tests[self.primary]
            difference = main.difference
            low, high = difference.mean - difference.half_width, difference.mean + difference.half_width
            rows.append(
                [
                    Cell(rival),
                    Cell(f"{difference.mean:+.4f}", difference.mean, note=_stars(main.adjusted)),
                    Cell(f"{low:+.4f} to {high:+.4f}"),
                    figure(difference.p_value),
                    figure(main.adjusted),
                    *(
                        Cell(
                            f"{tests[m].difference.mean:+.4f}",
                            tests[m].difference.mean,
                            note=_stars(tests[m].adjusted),
                        )
                        for m in others
                    ),
                ]
            )
        header = [
            f"{self.ours} minus",
            self.primary.title,
            "95 % interval",
            "p",
            "p, corrected",
            *(metric.title for metric in others),
        ]
        notes = [
            f"Sign-flip test over {len(np.unique(self.systems.users)):,} users, {ROUNDS:,} rounds, a user's "
            "value being the mean over the seeds that both models have; Holm's correction over all "
            f"{len(self.tests)} tests. * p < 0.05, ** p < 0.01, *** p < 0.001 after correction.",
            "The test asks whether other users would have shown the difference, not other seeds.",
        ]
        return Table("significance", f"{self.ours} against each other model", header, rows, notes)

    def by_segment(self) -> list[Table]:
        """The primary metric in groups of targets."""
        groups: dict[str, list[tuple[str, NDArray[np.bool_]]]] = {}
        for segment in segments(self._target_facts()):
            groups.setdefault(segment.group, []).append((segment.label, segment.members))
        tables = []
        for group, bins in groups.items():
            columns = [
                marked([figure(*self._values(label, self.primary, members)) for label in self.systems.names])
                for _, members in bins
            ]
            rows = [
                [Cell(label), *(column[row] for column in columns)]
                for row, label in enumerate(self.systems.names)
            ]
            sizes = [Cell("targets"), *(figure(int(members.sum()), pattern=",d") for _, members in bins)]
            header = ["Model", *(label for label, _ in bins)]
            title = f"{self.primary.title}: {group}"
            tables.append(Table(f"segment {group}", title, header, [*rows, sizes], (), [len(rows)]))
        return tables

    def _target_facts(self) -> pl.DataFrame:
        keys = pl.DataFrame(
            {"user": self.systems.users.astype(np.int32), "item": self.systems.items.astype(np.int32)}
        )
        facts = number_repeats(self.facts.targets)
        on = ["user", "item", "repeat"]
        found = number_repeats(keys).join(facts, on=on, how="left", maintain_order="left")
        if found["history"].null_count():
            raise UserError(
                f"the facts about {self.facts.name} lack some of the targets, as an older version published "
                "them where targets repeat: export its comparison again."
            )
        return found


_COSTS = ("Seeds", "Parameters", "s / epoch", "min / run", "peak MB", "s / 1,000 rec.")


def _minutes(run: Record) -> float:
    """Time of all epochs, validation included."""
    return sum(float(row["train_seconds"] + row["valid_seconds"]) for row in run.metrics()) / 60


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


def _shares(best: Sequence[tuple[str, float] | None]) -> list[float | None]:
    return [None if pair is None else pair[1] for pair in best]


def _stars(p_value: float) -> str:
    return "*" * sum(p_value < level for level in (0.05, 0.01, 0.001))
