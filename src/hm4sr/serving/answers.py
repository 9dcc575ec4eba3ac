"""What a recommender answers: ranked items of each request, as objects or as one table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

Source = Literal["model", "popularity"]


@dataclass(frozen=True)
class RecommendedItem:
    """One line of an answer.

    Attributes:
        rank: 1 is the best.
        item_id: raw id.
        title: None where the catalogue has none.
        score: the model's score, or the number of training events if the answer's source is popularity.
    """

    rank: int
    item_id: str
    title: str | None
    score: float


@dataclass(frozen=True)
class Answer:
    """Recommendations for one request.

    Attributes:
        request: id of the user, or number of the history (from 1).
        source: "model", or "popularity" if there was no known item to go by.
        unknown: ids in the history that are not in the catalogue, in the given order; they were ignored.
        later: events of the history that lie after the moment of the question; they were left out.
        items: best first; fewer than asked for only if no more are left.
    """

    request: str | int
    source: Source
    unknown: tuple[str, ...]
    later: int
    items: tuple[RecommendedItem, ...]


@dataclass(frozen=True, eq=False)
class Recommendations:
    """Answers to N requests, in their order; `len`, indexing and iteration give each as an `Answer`.

    Attributes:
        requests: ids of the users or of the items asked about, or numbers of the histories (from 1).
        numbers: N x k item numbers (1..), best first; 0 where no item is left.
        scores: N x k scores, float64; minus infinity where no item is left.
        sources: where each answer comes from.
        unknown: ids of each history that are not in the catalogue.
        later: events of each history that lie after the moment of the question.
        unknown_excluded: ids to exclude that are not in the catalogue.
        unknown_included: ids to include that are not in the catalogue.
        catalogue: columns item_id and title; row r is item number r + 1.
    """

    requests: Sequence[str] | Sequence[int]
    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]
    sources: Sequence[Source]
    unknown: Sequence[tuple[str, ...]]
    later: Sequence[int]
    unknown_excluded: tuple[str, ...]
    unknown_included: tuple[str, ...]
    catalogue: pl.DataFrame

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int) -> Answer:
        kept = int((self.numbers[index] > 0).sum())
        rows = self.numbers[index, :kept] - 1
        ids, titles = (self.catalogue[name].gather(rows).to_list() for name in ("item_id", "title"))
        scores = self.scores[index, :kept].tolist()
        lines = zip(range(1, kept + 1), ids, titles, scores, strict=True)
        items = tuple(RecommendedItem(*line) for line in lines)
        return Answer(
            self.requests[index], self.sources[index], self.unknown[index], self.later[index], items
        )

    def __iter__(self) -> Iterator[Answer]:
        return (self[index] for index in range(len(self)))

    def table(self) -> pl.DataFrame:
        """All answers below each other.

        Returns:
            columns user_id (text) or history (number, from 1), rank (from 1), item_id, title, score, source.
        """
        rows, columns = np.nonzero(self.numbers)
        picked = self.numbers[rows, columns] - 1
        numbered = bool(self.requests) and isinstance(self.requests[0], int)
        name, kind = ("history", pl.Int64) if numbered else ("user_id", pl.String)
        return pl.DataFrame(
            [
                pl.Series(name, self.requests, dtype=kind)[rows],
                pl.Series("rank", columns + 1, dtype=pl.Int64),
                self.catalogue["item_id"].gather(picked),
                self.catalogue["title"].gather(picked),
                pl.Series("score", self.scores[rows, columns]),
                pl.Series("source", self.sources, dtype=pl.String)[rows],
            ]
        )
