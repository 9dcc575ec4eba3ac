"""Why an item was recommended: modalities, gates of the experts, explicit time, and events of the history.

A score is compared within one request alone: adding the same number to all of its scores changes no list.
What counts is an item's lift: its score minus the mean score of the catalogue after the same history.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hm4sr.errors import UserError
from hm4sr.serving.answers import Answer, RecommendedItem, Source
from hm4sr.serving.base import Asked, BaseRecommender
from hm4sr.serving.ranker import Ranker
from hm4sr.serving.requests import PaddedHistories, joined, with_even_gaps


@dataclass(frozen=True)
class ExplainedEvent:
    """An event of the history, as the model read it.

    Attributes:
        item_id: raw id.
        title: None where the catalogue has none.
        time: seconds since 1970.
        gates: weights of the experts, which sum to 1, by the name of the gate; empty for models without.
    """

    item_id: str
    title: str | None
    time: int
    gates: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Reason:
    """What one event of the history did for an item.

    Attributes:
        event: its place in `Explanation.events` (from 0).
        item_id: its raw id.
        change: lift of the recommended item minus its lift after the same history without this event;
            negative if the event spoke against the item.
    """

    event: int
    item_id: str
    change: float


@dataclass(frozen=True)
class ExplainedItem:
    """Why one item was recommended.

    Attributes:
        item_id: raw id.
        rank: in the answer.
        score: in the answer; the sum of `terms`.
        lift: score minus the mean score of the catalogue after this history.
        terms: part of the score that comes from each modality; empty where the parts cannot be told apart.
        shares: each modality's part of the lift over the sum of their absolute values. Absolute values sum to
            1; a negative share spoke against the item.
        lift_with_even_gaps: the lift after the same events spread evenly in time.
        rank_with_even_gaps: rank in the answer that then follows; None if it is not in there.
        reasons: the events that mattered most, largest absolute change first.
    """

    item_id: str
    rank: int
    score: float
    lift: float
    terms: Mapping[str, float]
    shares: Mapping[str, float]
    lift_with_even_gaps: float
    rank_with_even_gaps: int | None
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class TimeEffect:
    """What explicit time did to the list.

    Attributes:
        overlap: share of the answer's items that stay when the events are spread evenly between the same
            first and newest moment; 1 for a model that reads no time.
        mean_shift: mean absolute change of rank of those that stay; not a number if none does.
        even: the answer with even gaps.
    """

    overlap: float
    mean_shift: float
    even: tuple[RecommendedItem, ...]


@dataclass(frozen=True)
class Explanation:
    """The answer to one request with its reasons.

    Attributes:
        answer: what `recommend` gives.
        events: what the model read: the newest known events, oldest first.
        items: one for each item of the answer; empty if it comes from popularity.
        time: None if the answer comes from popularity.
    """

    answer: Answer
    events: tuple[ExplainedEvent, ...]
    items: tuple[ExplainedItem, ...]
    time: TimeEffect | None

    @property
    def source(self) -> Source:
        """Where the answer comes from."""
        return self.answer.source


def explain(recommender: BaseRecommender, asked: Asked, num_reasons: int) -> list[Explanation]:
    """Answer a question and explain each answer; a history is encoded about once for each of its events.

    Raises:
        UserError: `num_reasons` is below 0.
    """
    if num_reasons < 0:
        raise UserError(f"num_reasons = {num_reasons} is negative: give a number of events from 0 on.")
    answers, even = recommender.answer([asked, replace(asked, requests=asked.requests.evenly())])
    return [
        _explain_row(recommender, asked, row, answers[row], even[row], num_reasons)
        for row in range(len(answers))
    ]


def _explain_row(
    recommender: BaseRecommender, asked: Asked, row: int, answer: Answer, even: Answer, num_reasons: int
) -> Explanation:
    if answer.source == "popularity":
        return Explanation(answer, (), (), None)
    shelf, ranker = recommender.served.shelf, recommender.served.ranker
    history = asked.requests.padded(np.array([row]), recommender.max_length)
    events = _events(recommender, history)
    numbers = np.array([shelf.numbers[item.item_id] for item in answer.items], dtype=np.int64)
    lifts = ranker.lifts(joined([history, with_even_gaps(history)]), numbers, asked.without)
    changes = _changes(ranker, history, numbers, lifts[0], asked.without)
    terms, shares = _terms(ranker, history, numbers, asked.without)
    even_ranks = {item.item_id: item.rank for item in even.items}
    items = tuple(
        ExplainedItem(
            item_id=item.item_id,
            rank=item.rank,
            score=item.score,
            lift=float(lifts[0, place]),
            terms={name: float(values[place]) for name, values in terms.items()},
            shares={name: float(values[place]) for name, values in shares.items()},
            lift_with_even_gaps=float(lifts[1, place]),
            rank_with_even_gaps=even_ranks.get(item.item_id),
            reasons=_reasons(changes[:, place], events, num_reasons),
        )
        for place, item in enumerate(answer.items)
    )
    return Explanation(answer, events, items, _time_effect(items, even))


def _events(recommender: BaseRecommender, history: PaddedHistories) -> tuple[ExplainedEvent, ...]:
    shelf = recommender.served.shelf
    gates = {name: weights[0].tolist() for name, weights in recommender.gates(history).items()}
    pairs = zip(history.items[0].tolist(), history.times[0].tolist(), strict=True)
    return tuple(
        ExplainedEvent(
            item_id=shelf.ids[item - 1],
            title=shelf.titles[item - 1],
            time=time,
            gates={name: tuple(weights[place]) for name, weights in gates.items()},
        )
        for place, (item, time) in enumerate(pairs)
    )


def _changes(
    ranker: Ranker,
    history: PaddedHistories,
    items: NDArray[np.int64],
    lifts: NDArray[np.float32],
    without: Sequence[str],
) -> NDArray[np.float32]:
    """What each event adds to the lift of each item (L x n): the lift minus that without the event.

    A history of one event is compared with none, which lifts nothing.
    """
    length = int(history.lengths[0])
    if length == 1:
        return lifts[None]
    kept = np.nonzero(~np.eye(length, dtype=np.bool_))[1].reshape(length, length - 1)
    shorter = PaddedHistories(
        items=history.items[0, kept],
        times=history.times[0, kept],
        lengths=np.full(length, length - 1),
        users=np.repeat(history.users, length),
        asked=np.repeat(history.asked, length),
        earlier=np.repeat(history.earlier, length, axis=0),
    )
    changes: NDArray[np.float32] = lifts - ranker.lifts(shorter, items, without)
    return changes


def _terms(
    ranker: Ranker, history: PaddedHistories, items: NDArray[np.int64], without: Sequence[str]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Each modality's term of each score, and its signed share of the lift.

    What is added for items of the history is a term of its own, where there is any.
    """
    kept = [name for name in ranker.blocks if name not in without]
    apart = {name: [other for other in ranker.blocks if other != name] for name in kept}
    seen = ranker.seen_terms(history, items)[0].astype(np.float64)
    terms = {name: ranker.scores(history, items, apart[name])[0] - seen for name in kept}
    lifts = {name: ranker.lifts(history, items, apart[name])[0] - seen for name in kept}
    if kept and seen.any():
        terms["seen"] = lifts["seen"] = seen
    total = np.sum([np.abs(values) for values in lifts.values()], axis=0) if lifts else np.zeros(0)
    safe = np.where(total > 0, total, 1.0)
    return terms, {name: values / safe for name, values in lifts.items()}


def _reasons(
    changes: NDArray[np.float32], events: Sequence[ExplainedEvent], num_reasons: int
) -> tuple[Reason, ...]:
    order = np.argsort(-np.abs(changes), kind="stable")[:num_reasons].tolist()
    return tuple(Reason(event, events[event].item_id, float(changes[event])) for event in order)


def _time_effect(items: Sequence[ExplainedItem], even: Answer) -> TimeEffect:
    stayed = [(item.rank, item.rank_with_even_gaps) for item in items if item.rank_with_even_gaps is not None]
    shifts = [abs(rank - even_rank) for rank, even_rank in stayed]
    return TimeEffect(
        overlap=len(stayed) / len(items) if items else 1.0,
        mean_shift=float(np.mean(shifts)) if shifts else float("nan"),
        even=even.items,
    )
