"""Which events are learned from, which are for validation and which for test, as pure functions.

Two ways: each user's last two events (`leave-one-out`, the paper's), or two moments that are the same for
everybody (`global-time`), so that nothing that is learned lies after anything that is predicted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hm4sr.data.interactions import Interactions, iso, leave_one_out
from hm4sr.errors import UserError

Split = Literal["leave-one-out", "global-time"]
Cold = Literal["keep", "drop"]
Parts = NDArray[np.int8]
"""For each event TRAIN, VALID or TEST; never falls within a history."""

TRAIN, VALID, TEST = 0, 1, 2


@dataclass(frozen=True)
class Moments:
    """Two moments in whole seconds since 1970, the first before the second.

    Attributes:
        valid: training events lie before it.
        test: validation events lie before it, test events do not.
    """

    valid: int
    test: int


def choose_moments(
    seconds: NDArray[np.int64],
    valid_share: float,
    test_share: float,
    valid_from: datetime | None = None,
    test_from: datetime | None = None,
) -> Moments:
    """Moments of a global split, from dates or else from shares of the events.

    A share becomes the latest moment from which on there are at least that many events; events of the same
    second are never divided.

    Args:
        seconds: moment of every event, in any order.
        valid_share: share of the events that are for validation.
        test_share: share of the events, the newest ones, that are for test.
        valid_from: in place of `valid_share`; read as UTC if it has no offset.
        test_from: in place of `test_share`.

    Raises:
        UserError: a part would be empty.
    """
    num_test = max(1, round(len(seconds) * test_share))
    num_later = min(len(seconds), num_test + max(1, round(len(seconds) * valid_share)))
    places = len(seconds) - np.array([num_later, num_test])
    by_share = np.partition(seconds, places)[places].tolist()
    dates = (valid_from, test_from)
    valid, test = (
        share if date is None else _second(date) for share, date in zip(by_share, dates, strict=True)
    )
    first, last = int(seconds.min()), int(seconds.max())
    if not first < valid < test <= last:
        what = f"a split at {iso(valid)} and {iso(test)} leaves a part empty"
        span = f"the interactions go from {iso(first)} to {iso(last)}"
        raise UserError(f"{what}, since {span}: set other --valid-from and --test-from, or other shares.")
    return Moments(valid, test)


def parts_by_time(ticks: NDArray[np.int64], per_second: int, moments: Moments) -> Parts:
    """Part of each event under a global split."""
    parts = (ticks >= moments.valid * per_second).astype(np.int8)
    parts += ticks >= moments.test * per_second
    return parts


def parts_by_position(users: NDArray[np.int32]) -> Parts:
    """Part of each event under leave-one-out; `users` are sorted and each history is in the order of time."""
    lengths = np.bincount(users).astype(np.int64)
    ends = np.cumsum(lengths)
    train_end, valid_end = leave_one_out(lengths)
    split = train_end < lengths
    parts = np.zeros(len(users), dtype=np.int8)
    parts[(ends - lengths + train_end)[split]] = VALID
    parts[(ends - lengths + valid_end)[split]] = TEST
    return parts


def drop_cold(
    log: Interactions, parts: Parts, cold_users: Cold, cold_items: Cold
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Mask of the events to keep, and how many each rule removes: events of what has none in training."""
    kept = np.ones(len(log), dtype=np.bool_)
    removed = {}
    train = parts == TRAIN
    for name, rule, codes in (("cold_users", cold_users, log.users), ("cold_items", cold_items, log.items)):
        if rule == "drop":
            warm = np.bincount(codes[train], minlength=int(codes.max(initial=-1)) + 1) > 0
            known = warm[codes]
            removed[name] = int((kept & ~known).sum())
            kept &= known
    return kept, removed


def history_ends(users: NDArray[np.int32], parts: Parts) -> Mapping[str, NDArray[np.int64]]:
    """Columns events, train_end and valid_end of the users, counted from the start of each history."""
    num_users = int(users.max(initial=-1)) + 1
    upto = {name: np.bincount(users[parts <= part], minlength=num_users) for name, part in _ENDS.items()}
    return {name: counts.astype(np.int64) for name, counts in upto.items()}


_ENDS = {"events": TEST, "train_end": TRAIN, "valid_end": VALID}


def describe_split(parts: Parts, moments: Moments | None) -> dict[str, Any]:
    """Events of each part, and where a global split divides them in UTC."""
    counts = np.bincount(parts, minlength=3).tolist()
    where = {} if moments is None else {"valid_from": iso(moments.valid), "test_from": iso(moments.test)}
    return {"events_in": dict(zip(("train", "valid", "test"), counts, strict=True)), **where}


def _second(moment: datetime) -> int:
    """Whole seconds since 1970, rounded up: an event at that second or later is not before the moment."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return -((datetime(1970, 1, 1, tzinfo=UTC) - aware) // timedelta(seconds=1))
