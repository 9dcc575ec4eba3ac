"""Requests and answers as they travel: JSON, checked by pydantic; names are those of the Python interface."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from hm4sr.serving.answers import Source
from hm4sr.serving.histories import LARGEST_SECOND

Seconds = Annotated[float, Field(gt=-LARGEST_SECOND, lt=LARGEST_SECOND, allow_inf_nan=False)]
Texts = list[str]


def _whole(value: Any) -> Any:
    """To JSON 5.0 is an integer as 5 is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_whole)]

_HISTORY: list[JsonValue] = [
    {"item_id": "B0001", "time": 1405296000},
    {"item_id": "B0002", "time": 1405382400},
]


class _Asked(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


class _Told(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True, use_attribute_docstrings=True)


class Event(_Asked):
    """One event of a history."""

    item_id: str
    """Raw id of the item."""
    time: Seconds | None = None
    """Seconds since 1970; all events of a history have one, or none has."""

    def raw(self) -> str | tuple[str, float]:
        """The event as a recommender takes it."""
        return self.item_id if self.time is None else (self.item_id, self.time)


class Filters(_Asked):
    """What answers may hold."""

    k: Count = Field(10, ge=1, examples=[10])
    """Items of each answer."""
    exclude: Texts = []
    """Raw ids of items that no answer may hold; unknown ones are reported."""
    include: Texts | None = None
    """Raw ids of the only items that an answer may hold; unknown ones are reported."""
    categories: Texts | None = None
    """An answer may hold only items of at least one of these categories."""
    run: str | None = None
    """Name of the run that answers (see /runs); the first one if left out."""

    def filters(self) -> dict[str, Any]:
        """Arguments of a recommender."""
        return {
            "k": self.k,
            "exclude": self.exclude,
            "include": self.include,
            "categories": self.categories,
        }


class Question(Filters):
    """Whom to recommend to: known users, given histories, or users with further events."""

    users: Texts | None = None
    """Raw ids of known users."""
    histories: list[list[Event]] | None = None
    """Given histories; beside `users`, events to append to each user's own."""
    filter_seen: bool = True
    """Leave out the items of the history."""
    at_time: Seconds | None = None
    """Moment of the question, in seconds since 1970; later events are not regarded."""
    without: Texts = []
    """Modalities whose terms are left out of the score, and "time" for evenly spread moments."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"histories": [_HISTORY], "k": 5}, {"users": ["A1", "A2"], "k": 10}]}
    )

    @property
    def rows(self) -> int:
        """Users or histories asked about."""
        return max(len(self.users or ()), len(self.histories or ()))

    def arguments(self) -> dict[str, Any]:
        """Arguments of `BaseRecommender.prepare`."""
        histories = None
        if self.histories is not None:
            histories = [[event.raw() for event in history] for history in self.histories]
        return self.filters() | {
            "users": self.users,
            "histories": histories,
            "filter_seen": self.filter_seen,
            "at_time": self.at_time,
            "without": self.without,
        }


class WhyQuestion(Question):
    """A question whose answers are explained."""

    num_reasons: Count = Field(5, ge=0, le=100)
    """Events of the history to name for each item."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"histories": [_HISTORY], "k": 5}]})


class SimilarQuestion(Filters):
    """Items to find similar ones of."""

    items: Texts = Field(examples=[["B0001"]])
    """Raw ids."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": ["B0001"], "k": 5}]})


class ItemTold(_Told):
    """One line of an answer."""

    rank: int
    """1 is the best."""
    item_id: str
    title: str | None
    score: float
    """The model's score; training events for the source "popularity", the cosine for similar items."""


class AnswerTold(_Told):
    """The answer to one user, history or item."""

    request: str | int
    """Id of the user or item, or number of the history (from 1)."""
    source: Source
    """"model", or "popularity" if there was no known item to go by."""
    unknown: Sequence[str]
    """Ids in the history that are not in the catalogue; they were ignored."""
    later: int
    """Events after the moment of the question; they were left out."""
    items: Sequence[ItemTold]


class Answers(_Told):
    """Answers in the order of the question."""

    run: str
    """Name of the run that answered."""
    answers: Sequence[AnswerTold]
    unknown_excluded: Sequence[str]
    """Ids to exclude that are not in the catalogue."""
    unknown_included: Sequence[str]
    """Ids to include that are not in the catalogue."""


class EventTold(_Told):
    """An event of the history, as the model read it."""

    item_id: str
    title: str | None
    time: int
    """Seconds since 1970."""
    gates: Mapping[str, Sequence[float]]
    """Weights of the experts, by the name of the gate."""


class ReasonTold(_Told):
    """What one event did for an item."""

    event: int
    """Its place in `events` (from 0)."""
    item_id: str
    change: float
    """What the event adds to the item's lift."""


class WhyItem(_Told):
    """Why one item was recommended."""

    item_id: str
    rank: int
    score: float
    lift: float
    """Score minus the mean score of the catalogue."""
    terms: Mapping[str, float]
    """Part of the score that comes from each modality."""
    shares: Mapping[str, float]
    """Each modality's signed share of the lift; absolute values sum to 1."""
    lift_with_even_gaps: float
    rank_with_even_gaps: int | None
    """Rank after the same events spread evenly in time; null if the item leaves the answer."""
    reasons: Sequence[ReasonTold]
    """Events that mattered most, largest absolute change first."""


def _number_or_none(value: float) -> float | None:
    return None if value != value else value


class TimeTold(_Told):
    """What explicit time did to the list."""

    overlap: float
    """Share of the items that stay when the events are spread evenly."""
    mean_shift: Annotated[float | None, BeforeValidator(_number_or_none)]
    """Mean absolute change of rank of those that stay; null if none does."""
    even: Sequence[ItemTold]
    """The answer with even gaps."""


class Explained(_Told):
    """One answer with its reasons."""

    answer: AnswerTold
    events: Sequence[EventTold]
    """What the model read, oldest first."""
    items: Sequence[WhyItem]
    """One for each item of the answer; empty if it comes from popularity."""
    time: TimeTold | None


class Explanations(_Told):
    """Explained answers in the order of the question."""

    run: str
    explanations: Sequence[Explained]
    unknown_excluded: Sequence[str]
    unknown_included: Sequence[str]


class CatalogueItem(_Told):
    """An item of the catalogue."""

    item_id: str
    title: str | None
    categories: Sequence[str]
    events: int
    """Training events."""
    picture: bool
    """Whether /items/{item_id}/picture may give one."""


class FoundItems(_Told):
    """Items of the catalogue, most used first."""

    total: int
    """How many fit the words."""
    items: Sequence[CatalogueItem]


class RunTold(_Told):
    """A run that answers."""

    name: str
    model: str
    items: int
    modalities: Sequence[str]
    """Modalities that `without` may name, besides "time"."""
    categories: Sequence[str]
    """The first 1,000 categories."""
    last_moment: int
    """Moment of the newest event that the run knows, in seconds since 1970."""
    gap: int
    """Median seconds between two events of a user."""


class Runs(_Told):
    """The runs that answer, and the limits of a question."""

    runs: Sequence[RunTold]
    limits: Mapping[str, float]


class Health(_Told):
    """State of the service."""

    status: str


class Problem(_Told):
    """Why a request was refused."""

    error: str
    """One sentence: what is wrong, where, and what to do."""
