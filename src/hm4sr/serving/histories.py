"""Histories that were never seen in training, from raw ids to the arrays a model reads."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from hm4sr.data.dataset import EventLog
from hm4sr.errors import UserError

Event = str | tuple[str, float]
"""A raw item id, alone or with its moment in seconds since 1970."""
History = Sequence[str] | Sequence[tuple[str, float]]
"""Events of one customer: all of them with a moment, or none."""

LARGEST_SECOND = 10**11  # the year 5138; in milliseconds, 1973


@dataclass(frozen=True)
class InventedTimes:
    """What is assumed about a history without moments: even gaps, the newest event at a given moment.

    Attributes:
        last: moment of the newest event, in seconds since 1970.
        gap: seconds between neighbouring events.
    """

    last: int
    gap: int


@dataclass(frozen=True)
class Stored:
    """Events that are known already, oldest first: item numbers, and seconds since 1970."""

    items: NDArray[np.int32]
    times: NDArray[np.int64]


@dataclass(frozen=True)
class ParsedHistories:
    """Histories of known items, and what is left of them.

    Attributes:
        log: the events, each history oldest first; all of it counts as train part.
        unknown: ids of each history that are not in the catalogue, each once, in the given order.
        later: events of each history that lie after its moment and were left out.
    """

    log: EventLog
    unknown: list[tuple[str, ...]]
    later: NDArray[np.int64]


def as_list_of_histories(histories: History | Sequence[History]) -> list[History]:
    """One history, or several, as several.

    A sequence is one history if it is empty or begins with an event (an id, or a pair of an id and a number).

    Raises:
        UserError: a single text or something that is no sequence.
    """
    if isinstance(histories, str) or not isinstance(histories, Iterable):
        raise _not_a_history("histories", histories)
    several: list[Any] = list(histories)
    return [several] if not several or _is_event(several[0]) else several


def parse_histories(
    histories: Sequence[History],
    numbers: Mapping[str, int],
    invented: InventedTimes,
    before: Sequence[Stored] | None = None,
    until: Sequence[int] | None = None,
) -> ParsedHistories:
    """Turn raw ids into item numbers and put each history in the order of time; equal times keep their order.

    Args:
        histories: the raw histories.
        numbers: item number (1..) of each raw id.
        invented: moments of histories that have none.
        before: events that each history begins with.
        until: the moment of each question; later events are left out.

    Raises:
        UserError: an id is no text, a moment is no number of seconds or is there for some events only.
    """
    nothing = Stored(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64))
    items, times, unknown, later = [nothing.items], [nothing.times], [], []
    for count, history in enumerate(histories):
        ids, seconds = _parse(f"history {count + 1}", history)
        unknown.append(tuple(dict.fromkeys(item for item in ids if item not in numbers)))
        stored = before[count] if before else nothing
        moment = until[count] if until else None
        known = [place for place, item in enumerate(ids) if item in numbers]
        if seconds is None:
            moments = _invent(len(known), invented, stored, moment)
        else:  # what lies within a second is put in order before the fractions go, as `hm4sr prepare` does it
            known.sort(key=seconds.__getitem__)
            moments = np.array([math.floor(seconds[place]) for place in known], dtype=np.int64)
        row = np.array([numbers[ids[place]] for place in known], dtype=np.int32)
        row, moments = np.concatenate([stored.items, row]), np.concatenate([stored.times, moments])
        order = np.argsort(moments, kind="stable")
        kept = order if moment is None else order[moments[order] <= moment]
        items.append(row[kept])
        times.append(moments[kept])
        later.append(len(order) - len(kept))
    starts = np.cumsum([len(row) for row in items]).astype(np.int64)
    log = EventLog(np.concatenate(items), np.concatenate(times), starts, starts[1:], starts[1:])
    return ParsedHistories(log, unknown, np.array(later, dtype=np.int64))


def _invent(count: int, invented: InventedTimes, stored: Stored, until: int | None) -> NDArray[np.int64]:
    """Moments of events that were given without: evenly apart, after what is stored or up to the question."""
    steps = np.arange(count, dtype=np.int64)
    if not len(stored.times):
        last = invented.last if until is None else until
        return last - invented.gap * steps[::-1]
    moments: NDArray[np.int64] = stored.times[-1] + invented.gap * (steps + 1)
    return moments if until is None else np.minimum(moments, until)


def _parse(where: str, history: Any) -> tuple[list[str], list[Any] | None]:
    """Ids and moments of one history, in the given order; no moments at all is None."""
    if isinstance(history, str) or not isinstance(history, Iterable):
        raise _not_a_history(where, history)
    events = list(history)
    if all(isinstance(event, str) for event in events):
        return events, None
    ids, seconds = [], []
    for number, event in enumerate(events, start=1):
        if isinstance(event, str):
            raise UserError(
                f"{where}, event {number}: {event!r} has no time although other events have one: "
                "give all of them a time or none."
            )
        if not _is_event(event):
            raise UserError(
                f"{where}, event {number}: {event!r} is no event: give an item id, which is text, "
                "or a pair of an item id and seconds since 1970."
            )
        item, second = event
        if not math.isfinite(second) or abs(second) >= LARGEST_SECOND:
            raise UserError(
                f"{where}, event {number}: time {second!r} lies beyond the year 5000: "
                "give seconds since 1970, not milliseconds."
            )
        ids.append(item)
        seconds.append(second)
    return ids, seconds


def _is_event(value: Any) -> TypeGuard[Any]:
    if isinstance(value, str):
        return True
    pair = isinstance(value, tuple | list) and len(value) == 2
    return (
        pair and isinstance(value[0], str) and isinstance(value[1], Real) and not isinstance(value[1], bool)
    )


def _not_a_history(where: str, value: Any) -> UserError:
    return UserError(
        f"{where} = {value!r} is not a history: give a sequence of item ids, which are texts, "
        "or of pairs of an item id and seconds since 1970."
    )
