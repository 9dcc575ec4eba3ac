"""What every recommender does, with or without torch: requests in, ranked items out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.errors import UserError
from hm4sr.serving.answers import Recommendations, Source
from hm4sr.serving.histories import History, InventedTimes
from hm4sr.serving.ranker import Ranker, check_switched_off
from hm4sr.serving.requests import PaddedHistories, Requests, Users, find_requests, joined
from hm4sr.serving.search import Floats, Limits, best_of_table
from hm4sr.serving.shelf import Shelf

_CHUNK_SCORES = 16_000_000
"""Scores alive at a time: 64 MB in float32."""
_CHUNK_REQUESTS = 1024


@dataclass(frozen=True, eq=False)
class Asked:
    """A checked question, ready to be answered, alone or together with others; see `prepare`.

    Attributes:
        requests: the histories.
        k: items of each answer.
        filter_seen: leave out the items of the history.
        limits: what the answers may hold, seen items aside.
        without: modalities whose terms are left out of the scores.
        unknown_excluded: ids to exclude that are not in the catalogue.
        unknown_included: ids to include that are not in the catalogue.
    """

    requests: Requests
    k: int
    filter_seen: bool
    limits: Limits
    without: Sequence[str]
    unknown_excluded: tuple[str, ...]
    unknown_included: tuple[str, ...]

    def limits_of(self, row: int) -> Limits:
        """What the answer to one request may hold."""
        if not self.filter_seen:
            return self.limits
        blocked = np.unique(np.concatenate([self.limits.blocked, self.requests.seen(row)]))
        return Limits(blocked, self.limits.allowed)


@dataclass(frozen=True, eq=False)
class Served:
    """What a recommender answers from; replaced as a whole when items are added."""

    shelf: Shelf
    ranker: Ranker

    @cached_property
    def lengths(self) -> Floats:
        """Length of each item vector (V), never 0."""
        squares = np.einsum("vq,vq->v", self.ranker.vectors, self.ranker.vectors)
        lengths: Floats = np.maximum(np.sqrt(squares), np.finfo(np.float32).tiny)
        return lengths


class BaseRecommender:
    """Answers from a ranker, a shelf of items and the known users.

    Attributes:
        served: what answers come from at the moment.
        invented: what is assumed about histories without moments.
        max_length: events of a history that the model reads (L).
    """

    def __init__(self, served: Served, users: Users, invented: InventedTimes, max_length: int):
        self.served = served
        self._users = users
        self.invented = invented
        self.max_length = max_length

    @property
    def catalogue(self) -> pl.DataFrame:
        """Columns item_id, title and categories; row r is item number r + 1."""
        return self.served.shelf.table

    @property
    def categories(self) -> Sequence[str]:
        """Names of all categories, sorted."""
        return self.served.shelf.categories

    @property
    def modalities(self) -> Sequence[str]:
        """Modalities whose terms of the score are apart, and so can be told or left out."""
        return list(self.served.ranker.blocks)

    def knows(self, user: str) -> bool:
        """Whether this is the raw id of a known user."""
        return user in self._users.rows

    def gates(self, histories: PaddedHistories) -> Mapping[str, NDArray[np.float32]]:
        """Weights of the experts at each event (B x L x K), by the name of the gate; none by default."""
        return {}

    def recommend(
        self,
        users: str | Sequence[str] | None = None,
        histories: History | Sequence[History] | None = None,
        k: int = 10,
        filter_seen: bool = True,
        exclude: Iterable[str] = (),
        include: Iterable[str] | None = None,
        categories: Iterable[str] | None = None,
        at_time: float | Sequence[float] | None = None,
        without: Iterable[str] = (),
    ) -> Recommendations:
        """Recommend items to known users, or after histories that need not have been seen in training.

        A batch gives each request the answer it gets alone (scores to rounding). The model reads the newest
        `data.max_length` events of the run; `filter_seen` regards all of them.

        Args:
            users: a raw user id or several. A user's history is all that the prepared data hold, the
                validation and test events included, for that is what one recommends from in production.
            histories: one history or several. A history is a sequence of pairs of a raw item id and a moment
                in seconds since 1970, in any order, or of raw item ids alone, oldest first. The latter are
                assumed to lie evenly apart, by the median gap between the training events of a user, the
                newest at `at_time`, or else at the moment of the newest event of the data set. `[]` is one
                empty history. Beside `users`, each is a list of events to append to that user's history;
                those without moments follow the user's newest event by the median gap.
            k: items of each answer; less if the catalogue has no more.
            filter_seen: leave out the items of the history.
            exclude: raw ids of items that no answer may hold; unknown ones are reported.
            include: raw ids of the only items that an answer may hold; unknown ones are reported.
            categories: an answer may hold only items of at least one of these.
            at_time: the moment of the question in seconds since 1970, one for all requests or one for each.
                Events after it are not known yet: they are left out and counted in `later`. The model
                hm4sr-plus reads the moment itself as well, the others only the moments of events. Left out,
                it is the newest moment of the data set, or of the history if that is later.
            without: modalities whose terms are left out of the score ("id", "text", ...), and "time", which
                lets the model read evenly spread moments between the history's first and newest.

        Returns:
            an answer for each request, in the given order. A history without a known item is answered by
            popularity, the number of training events; its `source` says so. Unknown items are ignored and
            reported in `unknown`.

        Raises:
            UserError: a user or a category is unknown, a history or a moment is malformed, `k` is below 1, or
                neither `users` nor `histories` is given.
        """
        asked = self.prepare(users, histories, k, filter_seen, exclude, include, categories, at_time, without)
        return self.answer([asked])[0]

    def prepare(
        self,
        users: str | Sequence[str] | None = None,
        histories: History | Sequence[History] | None = None,
        k: int = 10,
        filter_seen: bool = True,
        exclude: Iterable[str] = (),
        include: Iterable[str] | None = None,
        categories: Iterable[str] | None = None,
        at_time: float | Sequence[float] | None = None,
        without: Iterable[str] = (),
    ) -> Asked:
        """Check a question; arguments and errors are those of `recommend`.

        With `answer`, questions of different askers are answered together.
        """
        served = self.served
        _check_k(k)
        switched_off, even = check_switched_off(served.ranker, without)
        requests = find_requests(users, histories, at_time, self._users, served.shelf.numbers, self.invented)
        blocked, unknown_excluded = served.shelf.known(exclude, "exclude")
        allowed, unknown_included = _allowed(served.shelf, include, categories)
        return Asked(
            requests=requests.evenly() if even else requests,
            k=min(int(k), len(served.shelf)),
            filter_seen=filter_seen,
            limits=Limits(blocked, allowed),
            without=tuple(switched_off),
            unknown_excluded=unknown_excluded,
            unknown_included=unknown_included,
        )

    def answer(self, asked: Sequence[Asked]) -> list[Recommendations]:
        """Answer checked questions together, each as it would be answered alone (scores to rounding)."""
        served = self.served
        best = [_nothing(len(question.requests), question.k) for question in asked]
        for without, places in _alike(asked).items():
            for chunk in self._chunks([asked[place].requests for place in places], served):
                histories = [asked[places[at]].requests.padded(rows, self.max_length) for at, rows in chunk]
                limits = [asked[places[at]].limits_of(row) for at, rows in chunk for row in rows]
                k = max(asked[places[at]].k for at, _ in chunk)
                numbers, scores = served.ranker.top(joined(histories), k, limits, without)
                first = 0
                for at, rows in chunk:
                    end, width = first + len(rows), asked[places[at]].k
                    best[places[at]][0][rows] = numbers[first:end, :width]
                    best[places[at]][1][rows] = scores[first:end, :width]
                    first = end
        return [self._told(served, *pair) for pair in zip(asked, best, strict=True)]

    def score(
        self,
        items: str | Sequence[str],
        users: str | Sequence[str] | None = None,
        histories: History | Sequence[History] | None = None,
        at_time: float | Sequence[float] | None = None,
    ) -> NDArray[np.float64]:
        """Scores of given items for each request, to be compared within a request alone.

        Args:
            items: raw ids of n items.
            users: see `recommend`.
            histories: see `recommend`.
            at_time: see `recommend`.

        Returns:
            N x n scores in the order of the requests and items; not a number where a history has no known
            item to go by.

        Raises:
            UserError: an item is unknown, or see `recommend`.
        """
        served = self.served
        wanted = [items] if isinstance(items, str) else list(items)
        numbers = np.array([served.shelf.number_of(item) for item in wanted], dtype=np.int64)
        requests = find_requests(users, histories, at_time, self._users, served.shelf.numbers, self.invented)
        scores = np.full((len(requests), len(wanted)), np.nan)
        for chunk in self._chunks([requests], served):
            (_, rows), *_ = chunk
            scores[rows] = served.ranker.scores(requests.padded(rows, self.max_length), numbers)
        return scores

    def similar_items(
        self,
        items: str | Sequence[str],
        k: int = 10,
        exclude: Iterable[str] = (),
        include: Iterable[str] | None = None,
        categories: Iterable[str] | None = None,
    ) -> Recommendations:
        """Items whose vectors point in the direction of a given item's; that item is left out.

        Args:
            items: a raw item id or several.
            k: items of each answer.
            exclude: see `recommend`.
            include: see `recommend`.
            categories: see `recommend`.

        Returns:
            an answer for each item, which is its `request`; scores are cosines.

        Raises:
            UserError: an item or a category is unknown, or `k` is below 1.
        """
        served = self.served
        shelf, vectors, lengths = served.shelf, served.ranker.vectors, served.lengths
        _check_k(k)
        wanted = [items] if isinstance(items, str) else list(items)
        rows = np.array([shelf.number_of(item) for item in wanted], dtype=np.int64)
        blocked, unknown_excluded = shelf.known(exclude, "exclude")
        allowed, unknown_included = _allowed(shelf, include, categories)
        k = min(int(k), len(shelf))
        numbers, scores = _nothing(len(rows), k)
        size = max(1, _CHUNK_SCORES // len(vectors))
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            directions = vectors[part] / lengths[part, None]
            cosines: Floats = (directions @ vectors.T / lengths).astype(np.float32)
            limits = [Limits(np.append(blocked, row), allowed) for row in part]
            numbers[first : first + size], scores[first : first + size] = best_of_table(cosines, k, limits)
        count = len(wanted)
        return Recommendations(
            requests=wanted,
            numbers=numbers,
            scores=scores,
            sources=["model"] * count,
            unknown=[()] * count,
            later=[0] * count,
            unknown_excluded=unknown_excluded,
            unknown_included=unknown_included,
            catalogue=shelf.table,
        )

    def _chunks(
        self, several: Sequence[Requests], served: Served
    ) -> Iterator[list[tuple[int, NDArray[np.int64]]]]:
        """Rows to rank together, as (number of the requests, rows); requests without events are left out.

        Equal lengths share a chunk, so that there is little padding.
        """
        owners = np.repeat(np.arange(len(several)), [len(requests) for requests in several])
        rows = np.concatenate([np.arange(len(requests)) for requests in several])
        lengths = np.concatenate([requests.ends - requests.starts for requests in several])
        order = np.argsort(-np.minimum(lengths, self.max_length), kind="stable")
        order = order[lengths[order] > 0]
        size = max(1, min(_CHUNK_REQUESTS, _CHUNK_SCORES // len(served.ranker.vectors)))
        for first in range(0, len(order), size):
            part = order[first : first + size]
            yield [(int(owner), rows[part[owners[part] == owner]]) for owner in np.unique(owners[part])]

    def _told(
        self, served: Served, asked: Asked, best: tuple[NDArray[np.int64], NDArray[np.float64]]
    ) -> Recommendations:
        """The answers to one question, filled up by popularity where there is nothing to go by."""
        requests, (numbers, scores) = asked.requests, best
        empty = requests.starts == requests.ends
        if empty.any():
            numbers[empty], scores[empty] = _popular(served.shelf, asked.k, asked.limits)
        sources: list[Source] = ["popularity" if is_empty else "model" for is_empty in empty]
        return Recommendations(
            requests=requests.names,
            numbers=numbers,
            scores=scores,
            sources=sources,
            unknown=requests.unknown,
            later=requests.later.tolist(),
            unknown_excluded=asked.unknown_excluded,
            unknown_included=asked.unknown_included,
            catalogue=served.shelf.table,
        )


def _check_k(k: Any) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise UserError(f"k = {k!r} is not a number of items: give a whole number from 1 on.")


def _nothing(count: int, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return np.zeros((count, k), dtype=np.int64), np.full((count, k), -np.inf)


def _allowed(
    shelf: Shelf, include: Iterable[str] | None, categories: Iterable[str] | None
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """The only items that an answer may hold, None for all; and ids that are not in the catalogue."""
    allowed: NDArray[np.int64] | None = None
    unknown: tuple[str, ...] = ()
    if include is not None:
        allowed, unknown = shelf.known(include, "include")
    if categories is not None:
        members = shelf.in_categories(categories)
        allowed = members if allowed is None else np.intersect1d(allowed, members)
    return allowed, unknown


def _popular(shelf: Shelf, k: int, limits: Limits) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Item numbers and counts of training events, most frequent first, filled up with 0."""
    order = shelf.by_popularity
    order = order[~np.isin(order, limits.blocked)]
    if limits.allowed is not None:
        order = order[np.isin(order, limits.allowed)]
    numbers, scores = (part[0] for part in _nothing(1, k))
    best = order[:k]
    numbers[: len(best)], scores[: len(best)] = best, shelf.counts[best]
    return numbers, scores


def _alike(asked: Sequence[Asked]) -> dict[tuple[str, ...], list[int]]:
    """Numbers of the questions, grouped by the modalities they leave out."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, question in enumerate(asked):
        groups.setdefault(tuple(question.without), []).append(place)
    return groups
