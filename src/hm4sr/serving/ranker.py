"""How a trained model ranks: by dot products with its item vectors, or by a table of its own scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hm4sr.errors import UserError
from hm4sr.serving.requests import PaddedHistories
from hm4sr.serving.search import (
    ExactIndex,
    Floats,
    Found,
    Index,
    Limits,
    best_of_items,
    best_of_table,
    merged,
)


class HistoryEncoder(Protocol):
    """Histories in, vectors of width Q out."""

    def __call__(self, histories: PaddedHistories) -> Floats:
        """Vector of each whole history (B x Q)."""
        ...


class Ranker(Protocol):
    """A model, ready to rank."""

    @property
    def vectors(self) -> Floats:
        """Item vectors (V x Q; row 0 is padding)."""
        ...

    @property
    def blocks(self) -> Mapping[str, slice]:
        """The part of a vector that belongs to each modality; empty where they are not apart."""
        ...

    def top(
        self, histories: PaddedHistories, k: int, limits: Sequence[Limits], without: Sequence[str] = ()
    ) -> Found:
        """Best items after each history, the terms of the modalities `without` left out."""
        ...

    def lifts(
        self, histories: PaddedHistories, items: NDArray[np.int64], without: Sequence[str] = ()
    ) -> Floats:
        """Scores of some items (B x n) minus the mean score of the catalogue after that history.

        What is added for items of the history is not part of the mean.
        """
        ...

    def seen_terms(self, histories: PaddedHistories, items: NDArray[np.int64]) -> Floats:
        """What the scores of some items (B x n) hold for standing in the history."""
        ...

    def scores(
        self, histories: PaddedHistories, items: NDArray[np.int64], without: Sequence[str] = ()
    ) -> Floats:
        """Scores of some items after each history (B x n)."""
        ...


@dataclass(frozen=True, eq=False)
class DotProductRanker:
    """Ranks by dot products.

    Attributes:
        encode: gives the vectors of histories.
        vectors: item vectors (V x Q).
        blocks: the columns of each modality.
        index: searches all of `vectors`; exact if left out.
        seen_bias: added to the dot products of items that stand in the history.
    """

    encode: HistoryEncoder
    vectors: Floats
    blocks: Mapping[str, slice]
    index: Index | None = None
    seen_bias: float = 0.0

    def top(
        self, histories: PaddedHistories, k: int, limits: Sequence[Limits], without: Sequence[str] = ()
    ) -> Found:
        """See `Ranker`.

        Items of the history whose score is more than a dot product are left to the index as blocked, and
        put in their place afterwards.
        """
        queries = self._queries(histories, without)
        if not self.seen_bias:
            return self._top(queries, k, limits)
        had = histories.seen()
        apart = [
            replace(limit, blocked=np.union1d(limit.blocked, items))
            for limit, items in zip(limits, had, strict=True)
        ]
        numbers, scores = self._top(queries, k, apart)
        for row, (items, limit) in enumerate(zip(had, limits, strict=True)):
            more = np.setdiff1d(items, limit.blocked, assume_unique=True)
            if limit.allowed is not None:
                more = np.intersect1d(more, limit.allowed, assume_unique=True)
            if len(more):
                own = self.vectors[more] @ queries[row] + np.float32(self.seen_bias)
                numbers[row], scores[row] = merged((numbers[row], scores[row]), (more, own))
        return numbers, scores

    def _top(self, queries: Floats, k: int, limits: Sequence[Limits]) -> Found:
        numbers = np.zeros((len(queries), k), dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf)
        for rows in _alike(limits):
            some = [limits[row] for row in rows]
            if some[0].allowed is None:
                index = self.index or self._exact
                found = index.top(queries[rows], k, [limit.blocked for limit in some])
            else:
                found = best_of_items(queries[rows], self.vectors, k, some)
            numbers[rows], scores[rows] = found
        return numbers, scores

    def _queries(self, histories: PaddedHistories, without: Sequence[str]) -> Floats:
        queries = self.encode(histories)
        for name in without:
            queries[:, self.blocks[name]] = 0.0
        return queries

    def lifts(
        self, histories: PaddedHistories, items: NDArray[np.int64], without: Sequence[str] = ()
    ) -> Floats:
        """See `Ranker`."""
        lifts: Floats = self._queries(histories, without) @ (self.vectors[items] - self.mean).T
        return lifts + self.seen_terms(histories, items)

    def scores(
        self, histories: PaddedHistories, items: NDArray[np.int64], without: Sequence[str] = ()
    ) -> Floats:
        """See `Ranker`."""
        scores: Floats = self._queries(histories, without) @ self.vectors[items].T
        return scores + self.seen_terms(histories, items)

    def seen_terms(self, histories: PaddedHistories, items: NDArray[np.int64]) -> Floats:
        """See `Ranker`."""
        terms = np.zeros((len(histories), len(items)), dtype=np.float32)
        if self.seen_bias:
            for row, seen in enumerate(histories.seen()):
                terms[row, np.isin(items, seen)] = self.seen_bias
        return terms

    @cached_property
    def mean(self) -> Floats:
        """Mean of the item vectors (Q)."""
        mean: Floats = self.vectors[1:].mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    @cached_property
    def _exact(self) -> ExactIndex:
        return ExactIndex(self.vectors)

    def extended(self, vectors: Floats) -> "DotProductRanker":
        """This ranker with further items behind."""
        index = None if self.index is None else self.index.extended(vectors)
        return replace(self, vectors=np.concatenate([self.vectors, vectors]), index=index)


class TableEncoder(Protocol):
    """Histories in, scores of all items out."""

    def __call__(self, histories: PaddedHistories) -> Floats:
        """Score of every item after each history (B x V)."""
        ...


@dataclass(frozen=True, eq=False)
class TableRanker:
    """Ranks by the scores of a model that are no dot products.

    Attributes:
        table: gives the scores.
        vectors: item vectors (V x Q), for similar items.
    """

    table: TableEncoder
    vectors: Floats

    @property
    def blocks(self) -> Mapping[str, slice]:
        """See `Ranker`."""
        return {}

    def top(
        self, histories: PaddedHistories, k: int, limits: Sequence[Limits], without: Sequence[str] = ()
    ) -> Found:
        """See `Ranker`."""
        assert not without
        return best_of_table(self.table(histories), k, limits)

    def lifts(
        self, histories: PaddedHistories, items: NDArray[np.int64], without: Sequence[str] = ()
    ) -> Floats:
        """See `Ranker`."""
        table = self.table(histories)
        lifts: Floats = table[:, items] - table[:, 1:].mean(axis=1, keepdims=True)
        return lifts

    def seen_terms(self, histories: PaddedHistories, items: NDArray[np.int64]) -> Floats:
        """See `Ranker`: the table is the model's own, nothing is apart."""
        return np.zeros((len(histories), len(items)), dtype=np.float32)

    def scores(
        self, histories: PaddedHistories, items: NDArray[np.int64], without: Sequence[str] = ()
    ) -> Floats:
        """See `Ranker`."""
        return self.table(histories)[:, items]


def _alike(limits: Sequence[Limits]) -> list[NDArray[np.int64]]:
    """Row numbers, grouped by what the rows may hold."""
    groups: dict[int, list[int]] = {}
    for row, limit in enumerate(limits):
        groups.setdefault(0 if limit.allowed is None else id(limit.allowed), []).append(row)
    return [np.array(rows, dtype=np.int64) for rows in groups.values()]


def check_switched_off(ranker: Ranker, without: Iterable[str]) -> tuple[list[str], bool]:
    """Modalities to leave out, and whether time is to be left out.

    Raises:
        UserError: a name is neither a modality that can be left out nor "time".
    """
    names = list(dict.fromkeys([without] if isinstance(without, str) else without))
    for name in names:
        if name != "time" and name not in ranker.blocks:
            known = ", ".join(repr(known) for known in [*ranker.blocks, "time"])
            raise UserError(f"without = {name!r} cannot be left out of this model's scores: take {known}.")
    modalities = [name for name in names if name != "time"]
    if modalities and len(modalities) == len(ranker.blocks):
        raise UserError("without names all modalities, so nothing is left to rank by: keep one.")
    return modalities, "time" in names
