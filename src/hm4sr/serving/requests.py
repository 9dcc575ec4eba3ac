"""Who is asked about: rows of an event log, the newest events of which a ranker reads."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hm4sr.data.dataset import EventLog
from hm4sr.errors import UserError
from hm4sr.serving.histories import (
    LARGEST_SECOND,
    History,
    InventedTimes,
    Stored,
    as_list_of_histories,
    parse_histories,
)


@dataclass(frozen=True)
class PaddedHistories:
    """Histories as a model reads them, left-aligned (B x L).

    Attributes:
        items: item numbers; 0 is padding, which follows the events.
        times: seconds since 1970; padding repeats the last event's.
        lengths: number of events of each row.
        users: number of the user in the training data, or -1.
        asked: moment of each row's question, in seconds since 1970.
        earlier: items of the newest events before those (B x H); 0 is padding.
    """

    items: NDArray[np.int64]
    times: NDArray[np.int64]
    lengths: NDArray[np.int64]
    users: NDArray[np.int64]
    asked: NDArray[np.int64]
    earlier: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    def seen(self) -> list[NDArray[np.int64]]:
        """The distinct items of each history, ascending."""
        both = np.concatenate([self.items, self.earlier], axis=1)
        return [np.unique(row[row > 0]) for row in both]


@dataclass(frozen=True, eq=False)
class Requests:
    """N histories, each a range of an event log.

    Attributes:
        names: ids of the users, or numbers of the histories (from 1).
        log: events; only `items` and `times` count here.
        starts: first event of each history.
        ends: one past its last event.
        users: number of the user in the training data, or -1.
        unknown: ids of each history that are not in the catalogue.
        later: events of each history that were left out because they lie after the moment of the question.
        asked: moment of each question, in seconds since 1970.
        even: whether the model is to read evenly spread times instead of the true ones.
    """

    names: Sequence[str] | Sequence[int]
    log: EventLog
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    users: NDArray[np.int64]
    unknown: Sequence[tuple[str, ...]]
    later: NDArray[np.int64]
    asked: NDArray[np.int64]
    even: bool = False

    def __len__(self) -> int:
        return len(self.starts)

    def seen(self, row: int) -> NDArray[np.int64]:
        """Item numbers of a whole history."""
        return self.log.items[self.starts[row] : self.ends[row]].astype(np.int64)

    def padded(self, rows: NDArray[np.int64], max_length: int) -> PaddedHistories:
        """The newest `max_length` events of some histories, which must not be empty."""
        ends = self.ends[rows]
        lengths = np.minimum(ends - self.starts[rows], max_length)
        position = np.arange(int(lengths.max(initial=1)))
        index = (ends - lengths)[:, None] + np.minimum(position, lengths[:, None] - 1)
        real = position < lengths[:, None]
        items = np.where(real, self.log.items[index], 0).astype(np.int64)
        times = self.log.times[index]
        earlier = self.log.earlier_items(self.starts[rows], ends - lengths)
        histories = PaddedHistories(items, times, lengths, self.users[rows], self.asked[rows], earlier)
        return with_even_gaps(histories) if self.even else histories

    def evenly(self) -> "Requests":
        """The same histories, read with evenly spread times."""
        return replace(self, even=True)


def with_even_gaps(histories: PaddedHistories) -> PaddedHistories:
    """The same events between the same first and last moment, spread evenly (in whole seconds)."""
    first, last = histories.times[:, :1], histories.times[:, -1:]
    steps = np.maximum(histories.lengths - 1, 1)[:, None]
    position = np.minimum(np.arange(histories.times.shape[1]), steps)
    return replace(histories, times=first + (last - first) * position // steps)


def joined(parts: Sequence[PaddedHistories]) -> PaddedHistories:
    """Histories below each other, padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.items.shape[1] for part in parts)
    before = max(part.earlier.shape[1] for part in parts)
    padded = []
    for part in parts:
        more = ((0, 0), (0, width - part.items.shape[1]))
        earlier = np.pad(part.earlier, ((0, 0), (0, before - part.earlier.shape[1])))
        items, times = np.pad(part.items, more), np.pad(part.times, more, "edge")
        padded.append(replace(part, items=items, times=times, earlier=earlier))
    names = PaddedHistories.__annotations__
    return PaddedHistories(*(np.concatenate([getattr(part, name) for part in padded]) for name in names))


@dataclass(frozen=True, eq=False)
class Users:
    """The known users and all their events.

    Attributes:
        rows: number of each user id.
        log: user u's events are `log.starts[u]:log.starts[u + 1]`, oldest first.
        place: where they come from, for messages.
    """

    rows: Mapping[str, int]
    log: EventLog
    place: str

    def rows_of(self, users: Sequence[str]) -> NDArray[np.int64]:
        """Numbers of raw user ids.

        Raises:
            UserError: an id is unknown or not text.
        """
        for user in users:
            if not isinstance(user, str):
                raise UserError(f"user {user!r} is not text: raw ids are texts, write {str(user)!r}.")
            if user not in self.rows:
                raise UserError(
                    f"user {user!r} is not among the {len(self.rows):,} users of {self.place}: "
                    "check the id, prepare data under rules that keep the user, or give a history instead."
                )
        return np.array([self.rows[user] for user in users], dtype=np.int64)

    def stored(self, row: int) -> Stored:
        """All events of one user."""
        span = slice(self.log.starts[row], self.log.starts[row + 1])
        return Stored(self.log.items[span], self.log.times[span])


def find_requests(
    users: str | Sequence[str] | None,
    histories: History | Sequence[History] | None,
    at_time: float | Sequence[float] | None,
    known: Users,
    numbers: Mapping[str, int],
    invented: InventedTimes,
) -> Requests:
    """Histories of known users, given ones, or known users with further events.

    Args:
        users: raw ids.
        histories: raw histories; beside `users`, the events to append to each.
        at_time: seconds since 1970, one moment for all or one for each; later events are left out.
        known: the known users.
        numbers: item number (1..) of each raw id.
        invented: moments of histories that have none.

    Raises:
        UserError: see `Recommender.recommend`.
    """
    if users is None and histories is None:
        raise UserError("give either users or histories, or both to append events to the users' histories.")
    if users is not None and not isinstance(users, Iterable):
        raise UserError(f"users = {users!r} is neither a raw id nor a list of them: write {str(users)!r}.")
    ids = None if users is None else [users] if isinstance(users, str) else list(users)
    rows = None if ids is None else known.rows_of(ids)
    if histories is None:
        assert ids is not None
        assert rows is not None
        starts, ends = known.log.starts[rows], known.log.starts[rows + 1]
        moments = _moments(at_time, len(rows))
        kept = ends if moments is None else _known_until(known.log, starts, ends, moments)
        asked = _asked(known.log, starts, kept, moments, invented)
        return Requests(ids, known.log, starts, kept, rows, [()] * len(rows), ends - kept, asked)
    given = as_list_of_histories(histories)
    if ids is not None and len(given) != len(ids):
        raise UserError(f"{len(ids)} users but {len(given)} histories: give each user one list of events.")
    before = None if rows is None else [known.stored(int(row)) for row in rows]
    moments = _moments(at_time, len(given))
    parsed = parse_histories(given, numbers, invented, before, moments)
    names: Sequence[str] | Sequence[int] = range(1, len(given) + 1) if ids is None else ids
    numbered = np.full(len(given), -1, dtype=np.int64) if rows is None else rows
    log = parsed.log
    starts, ends = log.starts[:-1], log.starts[1:]
    asked = _asked(log, starts, ends, moments, invented)
    return Requests(names, log, starts, ends, numbered, parsed.unknown, parsed.later, asked)


def _asked(
    log: EventLog,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    moments: Sequence[int] | None,
    invented: InventedTimes,
) -> NDArray[np.int64]:
    """Moment of each question: the given one, or else the newest of the data set or of the history."""
    if moments is not None:
        return np.array(moments, dtype=np.int64)
    asked = np.full(len(starts), invented.last, dtype=np.int64)
    some = np.flatnonzero(ends > starts)
    asked[some] = np.maximum(asked[some], log.times[ends[some] - 1])
    return asked


def _known_until(
    log: EventLog, starts: NDArray[np.int64], ends: NDArray[np.int64], moments: Sequence[int]
) -> NDArray[np.int64]:
    """One past the last event of each history that is not after its moment."""
    kept = [
        start + np.searchsorted(log.times[start:end], moment, side="right")
        for start, end, moment in zip(starts, ends, moments, strict=True)
    ]
    return np.array(kept, dtype=np.int64)


def _moments(at_time: Any, count: int) -> list[int] | None:
    """The moment of each question in whole seconds."""
    if at_time is None:
        return None
    single = isinstance(at_time, Real)
    values = [at_time] * count if single or isinstance(at_time, str) else list(at_time)
    if len(values) != count:
        raise UserError(
            f"at_time has {len(values)} moments for {count} requests: give one for all, or one for each."
        )
    for value in values:
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or abs(value) >= LARGEST_SECOND:
            raise UserError(
                f"at_time = {value!r} is not a moment: give seconds since 1970 below "
                f"{LARGEST_SECOND:,}, not milliseconds or dates."
            )
    return [math.floor(value) for value in values]
