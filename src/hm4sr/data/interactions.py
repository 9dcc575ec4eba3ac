"""Interactions as arrays of codes, and the steps of their preparation as pure functions.

No step loops over rows and none changes its input; ten million interactions take seconds.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.data.dataset import ranges

Duplicates = Literal["event", "pair", "keep"]
Ties = Literal["file", "hash"]
_ROUNDS = 50
"""Passes over all rows after which a core is looked for along what has just been taken away."""


@dataclass(frozen=True)
class Interactions:
    """Interactions in the order of the file.

    Attributes:
        users: number of the user (from 0), int32.
        items: number of the item (from 0), int32.
        ticks: time since 1970, int64, in any unit.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    ticks: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[Any]) -> "Interactions":
        """The rows that a mask or an array of row numbers selects."""
        return Interactions(self.users[rows], self.items[rows], self.ticks[rows])


def deduplicate(log: Interactions, rule: Duplicates) -> NDArray[np.bool_]:
    """Mask of the interactions to keep: of each group of duplicates the earliest, or else the first."""
    kept = np.ones(len(log), dtype=np.bool_)
    if rule == "keep" or not len(log):
        return kept
    # One fast sort finds the rows that share their key with another; only those few are looked at closely.
    first, second = (log.ticks, log.items) if rule == "event" else (log.items, log.ticks)
    key = _pack(log.users, first)
    rows = np.argsort(key)
    rows = rows[_shared(key[rows])]
    rows = rows[np.lexsort((rows, second[rows], key[rows]))]
    same = key[rows[1:]] == key[rows[:-1]]
    if rule == "event":
        same &= second[rows[1:]] == second[rows[:-1]]
    kept[rows[1:][same]] = False
    return kept


def k_core(
    users: NDArray[np.int32], items: NDArray[np.int32], min_user_events: int, min_item_events: int
) -> NDArray[np.bool_]:
    """Mask of the largest set of interactions in which each user and each item has enough of them."""
    kept_rows = np.arange(len(users))
    num_rows = len(users)
    rounds = 0
    while len(kept_rows):
        if rounds == _ROUNDS:
            kept_rows = kept_rows[_peel(users, items, min_user_events, min_item_events)]
            break
        rounds += 1
        enough_user = np.bincount(users) >= min_user_events
        enough_item = np.bincount(items) >= min_item_events
        kept = enough_user[users] & enough_item[items]
        if kept.all():
            break
        kept_rows, users, items = kept_rows[kept], users[kept], items[kept]
    mask = np.zeros(num_rows, dtype=np.bool_)
    mask[kept_rows] = True
    return mask


def _peel(
    users: NDArray[np.int32], items: NDArray[np.int32], min_user_events: int, min_item_events: int
) -> NDArray[np.bool_]:
    """The same, by looking at no other rows than those of the users and items that have just become too few.

    For chains, in which every user hangs on the next one: there are as many rounds as users.
    """
    num_users = int(users.max()) + 1
    ends = np.stack([users.astype(np.int64), items.astype(np.int64) + num_users])  # both are nodes of a graph
    degrees = np.bincount(ends.ravel())
    needed = np.where(np.arange(len(degrees)) < num_users, min_user_events, min_item_events)
    rows = np.argsort(ends.ravel(), kind="stable") % len(users)
    starts, lengths = np.cumsum(degrees) - degrees, degrees.copy()
    kept = np.ones(len(users), dtype=np.bool_)
    few = np.flatnonzero((degrees < needed) & (degrees > 0))
    while len(few):
        gone = np.unique(rows[ranges(starts[few], lengths[few])])
        gone = gone[kept[gone]]
        kept[gone] = False
        touched, times = np.unique(ends[:, gone], return_counts=True)
        degrees[touched] -= times
        few = touched[(degrees[touched] < needed[touched]) & (degrees[touched] > 0)]
    return kept


def order(log: Interactions, tie_keys: NDArray[np.uint64] | None = None) -> NDArray[np.intp]:
    """Row numbers sorted by user, then time; among equals by `tie_keys` and item, or else as in the file."""
    key = _pack(log.users, log.ticks)
    rows = np.argsort(key)  # not stable, but much faster; only the rows that tie are sorted again
    key = key[rows]
    shared = _shared(key)
    tied, key = rows[shared], key[shared]
    if tie_keys is None:
        rows[shared] = _ascending_within(key, tied)
    else:
        rows[shared] = tied[np.lexsort((log.items[tied], tie_keys[tied], key))]
    return rows


def _ascending_within(key: NDArray[np.int64], rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Row numbers sorted within each run of equal keys."""
    bits = int(rows.max(initial=0)).bit_length()
    run = np.cumsum(np.diff(key, prepend=key[:1]) != 0)
    return np.sort((run << bits) | rows) & ((1 << bits) - 1)


def tie_keys(log: Interactions, user_ids: pl.Series, item_ids: pl.Series) -> NDArray[np.uint64]:
    """A number for each interaction that depends on nothing but the raw ids of its user and item."""
    return _mix(_hashes(user_ids)[log.users] + _mix(_hashes(item_ids))[log.items])


def leave_one_out(events: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split histories of the given lengths: last = test, the one before = validation, the rest = train.

    Returns:
        train_end and valid_end, counted from the start of each history; one shorter than 3 is all train.
    """
    long = events >= 3
    return np.where(long, events - 2, events), np.where(long, events - 1, events)


def compact(codes: NDArray[np.int32], ids: pl.Series) -> tuple[NDArray[np.int32], pl.Series]:
    """Number anew, without gaps and in the same order, the ids that still occur."""
    present = np.bincount(codes, minlength=len(ids)) > 0
    numbers = (np.cumsum(present) - 1).astype(np.int32)
    return numbers[codes], ids.filter(pl.Series(present))


def count_pairs(users: NDArray[np.int32], items: NDArray[np.int32]) -> int:
    """Number of pairs of a user and an item that have an event."""
    return len(np.unique(_pack(users, items)))


def describe(users: int, items: int, pairs: int, seconds: NDArray[np.int64]) -> dict[str, Any]:
    """Statistics as in the paper's Table 2; times in seconds since 1970 and as ISO text.

    Sparsity is the share of all pairs of a user and an item without an event, so that repeated events, which
    the paper's data has not, do not count twice.
    """
    actions = len(seconds)
    first, last = int(seconds.min()), int(seconds.max())
    return {
        "users": users,
        "items": items,
        "actions": actions,
        "actions_per_user": round(actions / users, 4),
        "actions_per_item": round(actions / items, 4),
        "sparsity": round(1 - pairs / (users * items), 8),
        "first_time": first,
        "last_time": last,
        "first_date": iso(first),
        "last_date": iso(last),
    }


def _shared(key: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each element of a sorted array occurs more than once."""
    shared = np.zeros(len(key), dtype=np.bool_)
    equal = key[1:] == key[:-1]
    shared[1:] |= equal
    shared[:-1] |= equal
    return shared


def _pack(major: NDArray[np.int32], minor: NDArray[Any]) -> NDArray[np.int64]:
    """One integer that sorts like the pair: sorting it is several times faster than sorting two arrays."""
    if not len(major):
        return np.zeros(0, dtype=np.int64)
    low, bits = int(minor.min()), (int(minor.max()) - int(minor.min())).bit_length()
    if int(major.max()).bit_length() + bits > 63:
        minor = np.unique(minor, return_inverse=True)[1]
        low, bits = 0, int(minor.max()).bit_length()
    return (major.astype(np.int64) << bits) | (minor.astype(np.int64) - low)


def _hashes(ids: pl.Series) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al., 2014): every input bit changes every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def iso(second: int) -> str:
    """A moment as ISO text in UTC; beyond the years that have a date, the number itself."""
    try:
        return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(second)
