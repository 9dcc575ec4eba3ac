"""The best of many scores, and the search among item vectors for the largest dot products."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hm4sr.errors import UserError

Floats = NDArray[np.float32]
Found = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Item numbers and scores, best first (B x k); 0 and minus infinity where nothing is left."""


@dataclass(frozen=True, eq=False)
class Limits:
    """What an answer may hold.

    Attributes:
        blocked: item numbers that it must not hold.
        allowed: the only ones it may hold, ascending; None: all.
    """

    blocked: NDArray[np.int64]
    allowed: NDArray[np.int64] | None = None


class Index(Protocol):
    """Item vectors that can be searched."""

    def top(self, queries: Floats, k: int, blocked: Sequence[NDArray[np.int64]]) -> Found:
        """The items with the largest dot products with each query (B x Q), without the blocked ones."""
        ...

    def extended(self, vectors: Floats) -> "Index":
        """An index of these and further items behind."""
        ...


class ExactIndex:
    """Every item is looked at. Row 0 is padding and never found."""

    def __init__(self, vectors: Floats):
        self.vectors = vectors

    def top(self, queries: Floats, k: int, blocked: Sequence[NDArray[np.int64]]) -> Found:
        """See `Index`."""
        return best_of_table(queries @ self.vectors.T, k, [Limits(numbers) for numbers in blocked])

    def extended(self, vectors: Floats) -> "ExactIndex":
        """See `Index`."""
        return ExactIndex(np.concatenate([self.vectors, vectors]))


def best_of_table(table: Floats, k: int, limits: Sequence[Limits]) -> Found:
    """The best items of each row of a table of scores (B x V; it is overwritten)."""
    numbers = np.zeros((len(table), k), dtype=np.int64)
    scores = np.full((len(table), k), -np.inf)
    table[:, 0] = -np.inf
    for place, (row, limit) in enumerate(zip(table, limits, strict=True)):
        row[limit.blocked] = -np.inf
        found = best_of(row if limit.allowed is None else row[limit.allowed], k)
        if limit.allowed is not None:
            found = limit.allowed[found]
        numbers[place, : len(found)] = found
        scores[place, : len(found)] = row[found]
    return numbers, scores


def best_of_items(queries: Floats, vectors: Floats, k: int, limits: Sequence[Limits]) -> Found:
    """The best of the items that all the limits allow alike; only their vectors are multiplied."""
    allowed = limits[0].allowed
    assert allowed is not None
    if len(allowed) > len(vectors) // 4:  # the copy would cost more than the products
        return best_of_table(queries @ vectors.T, k, limits)
    table = np.concatenate([np.zeros((len(queries), 1), np.float32), queries @ vectors[allowed].T], axis=1)
    among = np.concatenate([[0], allowed])
    inner = [Limits(np.searchsorted(allowed, _common(limit.blocked, allowed)) + 1) for limit in limits]
    places, scores = best_of_table(table, k, inner)
    return among[places], scores


def _common(blocked: NDArray[np.int64], allowed: NDArray[np.int64]) -> NDArray[np.int64]:
    return blocked[np.isin(blocked, allowed)]


def merged(
    found: tuple[NDArray[np.int64], NDArray[np.float64]], more: tuple[NDArray[np.int64], Floats]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The best of one answer and further items, as many as the answer has; equal scores by item number."""
    numbers = np.concatenate([found[0], more[0]])
    scores = np.concatenate([found[1], more[1].astype(np.float64)])
    if np.isnan(scores).any():
        raise UserError("the model's scores are not numbers: it has diverged, train it again.")
    best = np.lexsort((numbers, -scores))[: len(found[0])]
    return numbers[best], scores[best]


def best_of(row: Floats, k: int) -> NDArray[np.int64]:
    """Positions of the k largest numbers, best first, equal ones in order; minus infinity is never taken.

    Raises:
        UserError: a number is not a number.
    """
    if k < len(row):
        parted = np.partition(row, len(row) - k)[len(row) - k :]
        found = np.flatnonzero(row >= parted[0])
    else:
        parted, found = row, np.arange(len(row))
    if np.isnan(parted).any():  # not a number sorts as the largest
        raise UserError("the model's scores are not numbers: it has diverged, train it again.")
    found = found[row[found] > -np.inf]
    return found[np.argsort(-row[found], kind="stable")][:k]
