"""Recommendations from a trained run, for known users and for new histories.

recommender = Recommender.load("runs/games-hm4sr-1")
for answer in recommender.recommend(users=["A1", "A2"], k=5):
    print(answer.request, [item.title for item in answer.items])
history = [("B0001", 1405296000), ("B0002", 1405382400)]
print(recommender.recommend(histories=history).table())
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hm4sr.data.batches import Windows, make_batch
from hm4sr.data.dataset import Dataset, EventLog, ranges
from hm4sr.errors import UserError
from hm4sr.models.base import SeqRecModel
from hm4sr.runtime import choose_device
from hm4sr.serving.answers import Recommendations, Source
from hm4sr.serving.histories import History, InventedTimes, as_list_of_histories, parse_histories
from hm4sr.training.run import Run

_CHUNK_SCORES = 16_000_000
"""Scores alive at a time: 64 MB in float32."""
_CHUNK_REQUESTS = 1024


class Recommender:
    """A trained model with its catalogue and its users, ready to answer.

    Attributes:
        dataset: the prepared data set that the model was trained on.
        catalogue: columns item_id and title; row r is item number r + 1.
    """

    def __init__(self, model: SeqRecModel, dataset: Dataset, device: torch.device | None = None):
        self.dataset = dataset
        self.catalogue = dataset.items.select("item_id", "title")
        self._device = device or torch.device("cpu")
        self._item_numbers = {item: row + 1 for row, item in enumerate(self.catalogue["item_id"].to_list())}
        self._user_rows = {user: row for row, user in enumerate(dataset.users["user_id"].to_list())}
        self._model = model.eval()
        self._candidates = self._model.fix_items()

    @classmethod
    def load(cls, run: str | Path, data: str | Path | None = None, device: str = "auto") -> "Recommender":
        """Load a finished run.

        Args:
            run: the run folder.
            data: the prepared data set it was trained on, if that has moved.
            device: "auto", "cpu", "cuda", ...

        Raises:
            UserError: the run is unfinished or damaged, or its data set is missing or has changed.
        """
        where = choose_device(device)
        opened = Run.open(run)
        dataset = opened.dataset(data)
        return cls(opened.load_model(dataset, where), dataset, where)

    def recommend(
        self,
        users: str | Sequence[str] | None = None,
        histories: History | Sequence[History] | None = None,
        k: int = 10,
        filter_seen: bool = True,
        exclude: Iterable[str] = (),
    ) -> Recommendations:
        """Recommend items to known users, or after histories that need not have been seen in training.

        A batch gives each request the answer it gets alone (scores to rounding). The model reads the newest
        `data.max_length` events of the run; `filter_seen` regards all of them.

        Args:
            users: a raw user id or several. A user's history is all that the prepared data hold, the
                validation and test events included, for that is what one recommends from in production.
            histories: one history or several; give either this or `users`. A history is a sequence of pairs
                of a raw item id and a moment in seconds since 1970, in any order, or of raw item ids alone,
                oldest first. The latter are assumed to lie evenly apart, by the median gap between the
                training events of a user, the newest at the moment of the newest event of the data set.
                `[]` is one empty history.
            k: items of each answer; less if the catalogue has no more.
            filter_seen: leave out the items of the history.
            exclude: raw ids of items that no answer may hold; unknown ones are reported.

        Returns:
            an answer for each request, in the given order. A history without a known item is answered by
            popularity, the number of training events; its `source` says so. Unknown items are ignored and
            reported in `unknown`.

        Raises:
            UserError: a user is unknown, a history is malformed, `k` is below 1, or not exactly one of
                `users` and `histories` is given.
        """
        if (users is None) == (histories is None):
            raise UserError("give either users or histories, and not both.")
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise UserError(f"k = {k!r} is not a number of items: give a whole number from 1 on.")
        k = min(int(k), len(self.catalogue))
        if isinstance(exclude, str):
            exclude = [exclude]
        requests: Sequence[str] | Sequence[int]
        unknown: Sequence[tuple[str, ...]]
        if users is not None:
            requests = [users] if isinstance(users, str) else list(users)
            rows = self._rows_of(requests)
            log, unknown = self.dataset.events, [()] * len(requests)
            user_numbers = rows
        else:
            assert histories is not None
            parsed = parse_histories(as_list_of_histories(histories), self._item_numbers, self._invented)
            log, unknown = parsed.log, parsed.unknown
            requests = range(1, log.num_users + 1)
            rows = np.arange(log.num_users)
            user_numbers = np.full(log.num_users, -1, dtype=np.int64)
        excluded = list(dict.fromkeys(exclude))
        blocked = np.array([self._item_numbers.get(item, 0) for item in excluded], dtype=np.int64)
        numbers, scores = self._top(log, rows, user_numbers, k, filter_seen, blocked)
        empty = log.starts[rows] == log.starts[rows + 1]
        sources: list[Source] = ["popularity" if is_empty else "model" for is_empty in empty]
        numbers[empty], scores[empty] = self._popular(k, blocked)
        missing = tuple(item for item in excluded if item not in self._item_numbers)
        return Recommendations(requests, numbers, scores, sources, unknown, missing, self.catalogue)

    def history(self, user: str) -> list[tuple[str, int]]:
        """All events of a known user as (raw item id, seconds since 1970), oldest first.

        Raises:
            UserError: the user is unknown.
        """
        log, row = self.dataset.events, int(self._rows_of([user])[0])
        span = slice(log.starts[row], log.starts[row + 1])
        ids = self.catalogue["item_id"][(log.items[span] - 1).tolist()].to_list()
        return list(zip(ids, log.times[span].tolist(), strict=True))

    def _rows_of(self, users: Sequence[str]) -> NDArray[np.int64]:
        for user in users:
            if not isinstance(user, str):
                raise UserError(f"user {user!r} is not text: raw ids are texts, write {str(user)!r}.")
            if user not in self._user_rows:
                raise UserError(
                    f"user {user!r} is not among the {len(self._user_rows):,} users of {self.dataset.path}: "
                    "check the id, prepare data under rules that keep the user, or give a history instead."
                )
        return np.array([self._user_rows[user] for user in users], dtype=np.int64)

    @torch.inference_mode()
    def _top(
        self,
        log: EventLog,
        rows: NDArray[np.int64],
        users: NDArray[np.int64],
        k: int,
        filter_seen: bool,
        blocked: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Best item numbers and scores of each row of a log (N x k); rows without events are left empty."""
        numbers = np.zeros((len(rows), k), dtype=np.int64)
        scores = np.full((len(rows), k), -np.inf)
        starts, ends = log.starts[rows], log.starts[rows + 1]
        lengths = np.minimum(ends - starts, self._model.catalog.max_length)
        order = np.argsort(-lengths, kind="stable")  # equal lengths share a batch, so that padding is rare
        order = order[lengths[order] > 0]
        size = max(1, min(_CHUNK_REQUESTS, _CHUNK_SCORES // len(self._candidates)))
        for chunk in (order[first : first + size] for first in range(0, len(order), size)):
            windows = Windows((ends - lengths)[chunk], lengths[chunk], lengths[chunk], users[chunk])
            batch = make_batch(log, windows).to(self._device)
            table = self._model.scores(batch, self._candidates)
            if filter_seen:
                whole = (ends - starts)[chunk]
                seen = torch.from_numpy(log.items[ranges(starts[chunk], whole)].astype(np.int64))
                table[torch.from_numpy(np.repeat(np.arange(len(chunk)), whole)), seen] = -torch.inf
            table[:, torch.from_numpy(blocked)] = -torch.inf
            best, found = (part.cpu().numpy() for part in table.topk(k, dim=1))
            if np.isnan(best).any():  # not a number sorts as the largest
                raise UserError("the model's scores are not numbers: it has diverged, train it again.")
            ranked = np.lexsort((found, -best))
            best, found = np.take_along_axis(best, ranked, 1), np.take_along_axis(found, ranked, 1)
            numbers[chunk] = np.where(best > -np.inf, found, 0)
            scores[chunk] = best
        return numbers, scores

    def _popular(self, k: int, blocked: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Item numbers and counts of training events, most frequent first, filled up with 0."""
        allowed = self._by_popularity[~np.isin(self._by_popularity, blocked)][:k]
        numbers = np.zeros(k, dtype=np.int64)
        scores = np.full(k, -np.inf)
        numbers[: len(allowed)] = allowed
        scores[: len(allowed)] = self._train_counts[allowed]
        return numbers, scores

    @cached_property
    def _train_counts(self) -> NDArray[np.int64]:
        log = self.dataset.events
        return np.bincount(log.items[log.train_mask()], minlength=len(self.catalogue) + 1)

    @cached_property
    def _by_popularity(self) -> NDArray[np.int64]:
        """Item numbers, most training events first; ties in the order of the catalogue."""
        order: NDArray[np.int64] = np.argsort(-self._train_counts[1:], kind="stable") + 1
        return order

    @cached_property
    def _invented(self) -> InventedTimes:
        """What a history without moments is given: the newest moment of the data and the median gap."""
        log = self.dataset.events
        train = log.train_mask()
        same = train[1:] & (log.users[1:] == log.users[:-1])
        gaps = np.diff(log.times)[same]
        return InventedTimes(
            last=int(log.times.max(initial=0)) if log.num_events else 0,
            gap=int(np.median(gaps)) if len(gaps) else 0,
        )
