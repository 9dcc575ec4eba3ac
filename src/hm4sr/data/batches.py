"""Index slices of the event log into `SeqBatch`es, without Python work per row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from hm4sr.data.dataset import EventLog, in_chunks
from hm4sr.types import SeqBatch

_POSITIONS = 16_384
"""Events of a batch of histories to be judged, roughly."""
_CHUNK = 1 << 20
"""Windows looked at together where all of them must be."""


@dataclass(frozen=True)
class Windows:
    """Slices of the event log to feed a model.

    Attributes:
        starts: first input event of each window.
        lengths: number of input events.
        first_target: how many leading positions of the window have nothing to learn.
        users: whose events they are.
        width: length to pad to; 0 takes the longest window's.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    first_target: NDArray[np.int64]
    users: NDArray[np.int64]
    width: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Number of targets of each window."""
        return self.lengths - self.first_target

    def take(self, index: NDArray[np.integer[Any]], width: int = 0) -> "Windows":
        """The windows of the given numbers, in that order, to be padded to `width`."""
        return Windows(
            self.starts[index], self.lengths[index], self.first_target[index], self.users[index], width
        )


class TrainingWindows:
    """Windows that cover every training target exactly once, found when asked for: four bytes a user."""

    def __init__(self, log: EventLog, max_length: int, parallel: bool, context: int = 0):
        """Count the windows of each user.

        Args:
            log: all events.
            max_length: longest window (L).
            parallel: one window learns at all its positions; otherwise each target gets a window of its own,
                whose last position alone is learned.
            context: leading positions that a window after the first of a long history repeats from the
                window before it, so that its first targets are not without a past.
        """
        first, end = log.bounds("train")
        targets = np.maximum(end - first - 1, 0)
        self._log, self._max_length, self._parallel = log, max_length, parallel
        # A user's oldest window takes up to `reach` targets, each further one `stride`. They are anchored at
        # the newest event, so that the oldest is the one that is cut short.
        self._reach, self._stride = (max_length, max_length - context) if parallel else (1, 1)
        further = -(-np.maximum(targets - self._reach, 0) // self._stride)
        edges = np.concatenate([[0], np.cumsum(np.where(targets > 0, 1 + further, 0))])
        self._edges = edges.astype(_index_type(int(edges[-1])))

    def __len__(self) -> int:
        return int(self._edges[-1])

    def take(self, index: NDArray[np.integer[Any]], width: int = 0) -> Windows:
        """The windows of the given numbers, in that order, to be padded to `width`."""
        users = np.searchsorted(self._edges, index, side="right") - 1
        # In parallel a user's newest window comes first, otherwise the oldest.
        back = index - self._edges[users] if self._parallel else self._edges[users + 1] - 1 - index
        last = self._log.train_end[users] - 1 - back * self._stride
        known = last - self._log.starts[users]
        lengths = np.minimum(known, self._max_length)
        learned = np.where(known <= self._reach, known, self._stride)
        return Windows(last - lengths, lengths, lengths - learned, users, width)


def training_windows(log: EventLog, max_length: int, parallel: bool, context: int = 0) -> Windows:
    """All `TrainingWindows` at once."""
    windows = TrainingWindows(log, max_length, parallel, context)
    return windows.take(np.arange(len(windows)))


def history_windows(log: EventLog, targets: NDArray[np.int64], max_length: int) -> Windows:
    """The newest `max_length` events before each target event, for evaluation."""
    users = log.users_of(targets)
    starts = np.maximum(log.starts[users], targets - max_length)
    lengths = targets - starts
    return Windows(starts, lengths, np.maximum(lengths - 1, 0), users)


def make_batch(log: EventLog, windows: Windows) -> SeqBatch:
    """Gather windows into padded tensors; the target of a position is the event after it.

    The question is asked at the moment of the target.
    """
    width = windows.width or int(windows.lengths.max(initial=1))
    position = np.arange(width)
    real = position < windows.lengths[:, None]
    index = windows.starts[:, None] + np.minimum(position, np.maximum(windows.lengths - 1, 0)[:, None])
    learned = real & (position >= windows.first_target[:, None])
    next_index = np.minimum(index + 1, log.num_events - 1)
    before = log.earlier_items(log.starts[windows.users], windows.starts)
    return SeqBatch(
        items=torch.from_numpy(np.where(real, log.items[index], 0).astype(np.int64)),
        times=torch.from_numpy(log.times[index]),
        lengths=torch.from_numpy(windows.lengths),
        targets=torch.from_numpy(np.where(learned, log.items[next_index], 0).astype(np.int64)),
        users=torch.from_numpy(windows.users),
        asked=torch.from_numpy(log.times[np.where(real, next_index, index)]),
        earlier=torch.from_numpy(before) if before.shape[1] else None,
    )


def padded_lengths(max_length: int) -> list[int]:
    """The few lengths that training rows are padded to: each at most a quarter longer than the one before.

    A batch then has one of a few shapes. Kernels that are compiled for a shape (bfloat16 products on a CPU,
    compiled graphs) are compiled once and reused; with a shape a batch, that took a sixth of a step and most
    of the memory.
    """
    lengths = [1]
    while lengths[-1] < max_length:
        lengths.append(min(max_length, max(lengths[-1] + 1, lengths[-1] * 5 // 4)))
    return lengths


class Batches(Sequence[Windows]):
    """The batches of one epoch: numbers of windows, which are looked up when a batch is asked for."""

    def __init__(
        self,
        windows: Windows | TrainingWindows,
        members: Sequence[NDArray[np.integer[Any]]],
        widths: Sequence[int],
    ):
        self._windows, self._members, self._widths = windows, members, widths

    def __len__(self) -> int:
        return len(self._members)

    @overload
    def __getitem__(self, number: int) -> Windows: ...
    @overload
    def __getitem__(self, number: slice) -> "Batches": ...
    def __getitem__(self, number: int | slice) -> "Windows | Batches":
        if isinstance(number, slice):
            return Batches(self._windows, self._members[number], self._widths[number])
        return self._windows.take(self._members[number], self._widths[number])


class TrainingBatches:
    """Batches of about `batch_targets` targets, grouped by length, in a new order every epoch.

    Beside the log and its windows this keeps one byte a window, and during an epoch four more.

    Attributes:
        num_targets: targets learned in an epoch.
        most_targets: targets of the largest window.
    """

    def __init__(self, log: EventLog, windows: Windows | TrainingWindows, batch_targets: int):
        self.log = log
        self.windows = windows
        self.batch_targets = batch_targets
        self.num_targets = 0
        lengths, targets = np.zeros((2, len(windows)), dtype=np.int32)
        for chunk in in_chunks(np.arange(len(windows), dtype=_index_type(len(windows))), _CHUNK):
            taken = windows.take(chunk)
            lengths[chunk], targets[chunk] = taken.lengths, taken.targets
            self.num_targets += int(taken.targets.sum())
        longest = int(lengths.max(initial=1))
        self._widths = padded_lengths(longest)
        bucket = np.searchsorted(self._widths, np.arange(longest + 1)).astype(np.uint8)
        self._bucket = np.concatenate([bucket[:0], *(bucket[chunk] for chunk in in_chunks(lengths, _CHUNK))])
        numbers = range(len(self._widths))
        self._most_targets = [int(targets[self._bucket == number].max(initial=0)) for number in numbers]
        self.most_targets = max(self._most_targets)

    def epoch(self, rng: np.random.Generator) -> Batches:
        """Cut the windows into batches for one epoch.

        Windows of about one length stand together, so that there is little padding; which of them share a
        batch, and the order of the batches, is drawn anew. What does not fill a batch of its length joins the
        next longer ones, so that all batches but the last are full.
        """
        order = np.arange(len(self.windows), dtype=_index_type(len(self.windows)))
        rng.shuffle(order)
        bucket = self._bucket[order]
        members: list[NDArray[np.integer[Any]]] = []
        widths: list[int] = []
        waiting = order[:0]
        for number, width in enumerate(self._widths):
            rest = int(self.windows.take(waiting).targets.max(initial=0))
            waiting = np.concatenate([waiting, order[bucket == number]])
            if not len(waiting):
                continue
            size = max(1, self.batch_targets // max(rest, self._most_targets[number]))
            full = len(waiting) // size * size
            members += np.split(waiting[:full], range(size, full, size)) if full else []
            widths += [width] * (len(members) - len(widths))
            waiting = waiting[full:]
        if len(waiting):
            members.append(waiting)
            widths.append(self._widths[-1])
            # A batch of its own for the rest of all, unless it is tiny and its step would be mostly noise.
            if len(members) > 1 and self.windows.take(waiting).targets.sum() < self.batch_targets / 4:
                members[-2:], widths[-2:] = [np.concatenate(members[-2:])], [max(widths[-2:])]
        mixed = rng.permutation(len(members)).tolist()
        return Batches(self.windows, [members[n] for n in mixed], [widths[n] for n in mixed])


def _index_type(count: int) -> type[np.integer[Any]]:
    return np.int32 if count < 2**31 else np.int64


def evaluation_batches(
    log: EventLog, targets: NDArray[np.int64], max_length: int, batch_size: int
) -> Iterator[Windows]:
    """Histories before the given target events, longest first, at most `batch_size` in a batch.

    Neighbours in length share a batch, and long ones come fewer at a time, so that there is little padding
    and no batch needs much memory.

    Targets without any event before them are left out, for there is nothing to go by.
    """
    windows = history_windows(log, targets, max_length)
    windows = windows.take(np.flatnonzero(windows.lengths > 0))
    order = np.argsort(-windows.lengths, kind="stable")
    share = -(-_POSITIONS // batch_size)  # in whole events: rounding could let one too many in
    budget = np.cumsum(np.maximum(windows.lengths[order], share))
    edges = np.flatnonzero(np.diff(budget // _POSITIONS)) + 1
    for group in np.split(order, edges):
        if len(group):
            yield windows.take(group)
