"""Users to look at: what they did, what came next, what two models recommended, and why ours did."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.data.dataset import Dataset
from hm4sr.data.images import find_pictures
from hm4sr.errors import UserError
from hm4sr.evaluation.compare import number_repeats
from hm4sr.evaluation.metrics import Metric
from hm4sr.experiments.page import Shown
from hm4sr.experiments.records import Record
from hm4sr.experiments.reproduce import Outcome
from hm4sr.experiments.runs import best_on_validation
from hm4sr.runtime import numpy_generator
from hm4sr.serving.recommender import Recommender

NUM_RECOMMENDED = 5
_FEWEST_EVENTS, _MOST_SHOWN = 4, 6
_KINDS = {
    "ours": ("found by {ours} alone", 2),
    "rival": ("found by {rival} alone", 1),
    "both": ("found by both", 1),
    "neither": ("found by neither", 1),
}


@dataclass(frozen=True)
class Event:
    """An event of a history, and how our model's gates read it.

    Attributes:
        shown: the item and its time.
        gates: weights of the experts, by the name of the gate.
    """

    shown: Shown
    gates: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Answer:
    """A recommended item.

    Attributes:
        shown: the item.
        hit: whether it is what came next.
        shares: each modality's part of its lift; empty for a model whose parts cannot be told apart.
    """

    shown: Shown
    hit: bool
    shares: Mapping[str, float]


@dataclass(frozen=True)
class UserCase:
    """One user.

    Attributes:
        user: raw id.
        kind: who found what came next.
        history: the newest events before it, oldest first.
        earlier: older events that are not shown.
        target: what came next.
        answers: label of each of the two models to its best items.
        ranks: label to the rank it gave to what came next.
    """

    user: str
    kind: str
    history: Sequence[Event]
    earlier: int
    target: Shown
    answers: Mapping[str, Sequence[Answer]]
    ranks: Mapping[str, int]


@dataclass(frozen=True)
class CaseStudy:
    """Some users under two models.

    Attributes:
        ours: label of our model.
        rival: label of the other model that is best on validation, of those with weights here.
        seed: of both runs.
        cases: the users.
    """

    ours: str
    rival: str
    seed: int
    cases: Sequence[UserCase]


def study_cases(outcome: Outcome, dataset: Dataset, primary: Metric, seed: int = 0) -> CaseStudy | str:
    """Choose users and ask both models about them.

    Args:
        outcome: runs of several models, ours among them.
        dataset: what they were trained on.
        primary: metric that decides on the best other model.
        seed: draws the users.

    Returns:
        the cases, or a sentence that says what is missing.
    """
    group = outcome.definition.groups[0].name
    runs = {line.label: dict(line.records) for line in outcome.group(group) if line.records}
    whole = {
        label: {seed: run for seed, run in seeds.items() if (run.path / "model.safetensors").is_file()}
        for label, seeds in runs.items()
    }
    ours = outcome.definition.ours
    own = whole.pop(ours, {})
    rivals = {label: seeds for label, seeds in whole.items() if own.keys() & seeds.keys()}
    if not own or not rivals:
        return f"The weights of {ours} and of another model under the same seed are needed for this."
    rival = best_on_validation(rivals, primary)[0]
    shared = min(own.keys() & rivals[rival].keys())
    pair = {ours: own[shared], rival: rivals[rival][shared]}
    chosen = _choose(pair, dataset, numpy_generator(seed, "cases"))
    models = {label: Recommender.load(record.path, dataset.path) for label, record in pair.items()}
    shelf = _Shelf(dataset)
    cases = [_case(event, kind, ranks, models, dataset, shelf) for event, kind, ranks in chosen]
    return CaseStudy(ours, rival, shared, cases)


def _choose(
    pair: Mapping[str, Record], dataset: Dataset, rng: np.random.Generator
) -> list[tuple[int, str, dict[str, int]]]:
    """Event number of each chosen target, who found it, and its ranks."""
    log = dataset.events
    events = log.targets("test")
    users = log.users_of(events)
    table = pl.DataFrame(
        {
            "user": users.astype(np.int32),
            "item": log.items[events].astype(np.int32),
            "event": events,
            "history": events - log.starts[users],
        }
    )
    table = number_repeats(table.filter(pl.col("history") > 0))
    ours, rival = pair
    for column, label in (("ours", ours), ("rival", rival)):
        ranks = number_repeats(pair[label].ranks().filter(pl.col("part") == "test"))
        ranks = ranks.select("user", "item", "repeat", pl.col("rank").alias(column))
        table = table.join(ranks, on=["user", "item", "repeat"], how="inner", maintain_order="left")
    own, other = (pl.col(name) <= NUM_RECOMMENDED for name in ("ours", "rival"))
    found = {"ours": own & ~other, "rival": other & ~own, "both": own & other, "neither": ~own & ~other}
    chosen = []
    for kind, (told, count) in _KINDS.items():
        rows = table.filter(found[kind])
        told_rows = rows.filter(pl.col("history") >= _FEWEST_EVENTS)
        rows = told_rows if len(told_rows) else rows
        for row in rng.permutation(len(rows))[:count].tolist():
            event, first, second = rows.select("event", "ours", "rival").row(row)
            chosen.append((event, told.format(ours=ours, rival=rival), {ours: first, rival: second}))
    return chosen


def _case(
    event: int,
    kind: str,
    ranks: dict[str, int],
    models: Mapping[str, Recommender],
    dataset: Dataset,
    shelf: "_Shelf",
) -> UserCase:
    log = dataset.events
    user = int(log.users_of(np.array([event]))[0])
    before: NDArray[np.int64] = np.arange(int(log.starts[user]), event)
    history = [(shelf.ids[int(log.items[e]) - 1], float(log.times[e])) for e in before]
    ours, rival = models
    explained = models[ours].explain(
        histories=[history], k=NUM_RECOMMENDED, filter_seen=False, num_reasons=0
    )[0]
    target = int(log.items[event])
    answers = {
        ours: [
            Answer(shelf(shelf.numbers[item.item_id]), item.item_id == shelf.ids[target - 1], item.shares)
            for item in explained.items
        ],
        rival: [
            Answer(shelf(shelf.numbers[item.item_id]), item.item_id == shelf.ids[target - 1], {})
            for item in models[rival]
            .recommend(histories=[history], k=NUM_RECOMMENDED, filter_seen=False)[0]
            .items
        ],
    }
    shown = explained.events[-_MOST_SHOWN:]
    events = [Event(shelf(shelf.numbers[e.item_id], e.time), e.gates) for e in shown]
    return UserCase(
        user=dataset.users["user_id"][user],
        kind=kind,
        history=events,
        earlier=len(history) - len(events),
        target=shelf(target, int(log.times[event])),
        answers=answers,
        ranks=ranks,
    )


class _Shelf:
    """Items by number, as pages show them."""

    def __init__(self, dataset: Dataset):
        items = dataset.items
        self.ids: list[str] = items["item_id"].to_list()
        self.numbers = {item: number for number, item in enumerate(self.ids, start=1)}
        self._titles = items["title"].to_list()
        self._categories = items["categories"].to_list()
        self._pictures: list[Path | None] = [None] * len(self.ids)
        with suppress(UserError):  # pictures that have moved away since: the cases can be read without
            self._pictures = find_pictures(dataset).paths

    def __call__(self, item: int, time: int | None = None) -> Shown:
        row = item - 1
        title = self._titles[row] or self.ids[row]
        categories = " / ".join(list(self._categories[row] or [])[-2:])
        return Shown(self.ids[row], title, categories, time, self._pictures[row])
