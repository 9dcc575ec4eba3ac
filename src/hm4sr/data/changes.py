"""An event log with something taken away, for studies: users to learn from, the exactness of times."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hm4sr.data.dataset import EventLog

_SECONDS_PER_DAY = 86_400


def training_events(log: EventLog, share: float, rng: np.random.Generator) -> EventLog:
    """The training events of a share of the users who have some; the others are there without events.

    Users keep their numbers. They are drawn in one order: with the same generator a smaller share is part of
    a larger one.

    Args:
        log: all events.
        share: of the users with training events, above 0 and at most 1; at least one user is kept.
        rng: draws the users.

    Returns:
        a log of training events alone.
    """
    first, end = log.bounds("train")
    trained = np.flatnonzero(end > first)
    kept = rng.permutation(trained)[: max(1, round(share * len(trained)))]
    lengths = np.zeros(log.num_users, dtype=np.int64)
    lengths[kept] = (end - first)[kept]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    shift = np.repeat(first - starts[:-1], lengths)
    index: NDArray[np.int64] = np.arange(starts[-1], dtype=np.int64) + shift
    return EventLog(log.items[index], log.times[index], starts, starts[1:], starts[1:])


def blurred_times(log: EventLog, days: float, rng: np.random.Generator) -> EventLog:
    """The same events in the same order, each at a time that is wrong by a normal error.

    Where the errors would turn two events of a user round, the later one is put at the time of the earlier:
    a time is made of its own error and of those before it, never of one that comes later.

    Args:
        log: all events.
        days: standard deviation of the error.
        rng: draws the errors.
    """
    if not log.num_events:
        return log
    errors = rng.standard_normal(log.num_events) * (days * _SECONDS_PER_DAY)
    times = log.times + errors.round().astype(np.int64)
    # A running maximum within each user: users stand one above the other, further apart than any two times.
    apart = int(times.max()) - int(times.min()) + 1
    floor = (log.users.astype(np.int64)) * apart - int(times.min())
    return replace(log, times=np.maximum.accumulate(times + floor) - floor)
