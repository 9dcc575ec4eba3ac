"""Index slices of the event log into `SeqBatch`es, without Python work per row."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hm4sr.data.dataset import EventLog, ranges
from hm4sr.types import SeqBatch

_POSITIONS = 16_384
"""Events of a batch of histories to be judged, roughly."""


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

    def joined(self, other: "Windows") -> "Windows":
        """These windows and then the others', padded to the larger width."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("starts", "lengths"))
        starts, lengths = (np.concatenate(pair) for pair in pairs)
        first = np.concatenate([self.first_target, other.first_target])
        users = np.concatenate([self.users, other.users])
        return Windows(starts, lengths, first, users, max(self.width, other.width))

    @property
    def targets(self) -> NDArray[np.int64]:
        """Number of targets of each window."""
        return self.lengths - self.first_target

    def take(self, index: NDArray[np.int64], width: int = 0) -> "Windows":
        """The windows of the given numbers, in that order, to be padded to `width`."""
        return Windows(
            self.starts[index], self.lengths[index], self.first_target[index], self.users[index], width
        )


def training_windows(log: EventLog, max_length: int, parallel: bool, context: int = 0) -> Windows:
    """Cover every training target exactly once.

    Args:
        log: all events.
        max_length: longest window (L).
        parallel: one window learns at all its positions; otherwise each target gets a window of its own,
            whose last position alone is learned.
        context: leading positions that a window after the first of a long history repeats from the
            window before it, so that its first targets are not without a past.
    """
    first, end = log.bounds("train")
    num_targets = np.maximum(end - first - 1, 0)
    if not parallel:
        users = np.repeat(np.arange(log.num_users), num_targets)
        last = ranges(first, num_targets)
        starts = np.maximum(first[users], last - max_length + 1)
        lengths = last - starts + 1
        return Windows(starts, lengths, lengths - 1, users)
    stride = max_length - context
    # The first window takes max_length targets, each further one `stride`; all are anchored at the newest
    # event, so that the first one is the one that is cut short.
    extra = np.maximum(num_targets - max_length, 0)
    counts = np.where(num_targets > 0, 1 + -(-extra // stride), 0)
    users = np.repeat(np.arange(log.num_users), counts)
    back = ranges(np.zeros_like(counts), counts)  # 0 is the newest window of its user
    target_end = (end - 1)[users] - back * stride
    oldest = back == counts[users] - 1
    starts = np.where(oldest, first[users], target_end - max_length)
    fresh = np.where(oldest, target_end - first[users], stride)
    lengths = target_end - starts
    return Windows(starts, lengths, lengths - fresh, users)


def history_windows(log: EventLog, targets: NDArray[np.int64], max_length: int) -> Windows:
    """The newest `max_length` events before each target event, for evaluation."""
    users = log.users[targets].astype(np.int64)
    starts = np.maximum(log.starts[users], targets - max_length)
    lengths = targets - starts
    return Windows(starts, lengths, np.maximum(lengths - 1, 0), users)


def make_batch(log: EventLog, windows: Windows) -> SeqBatch:
    """Gather windows into padded tensors; the target of a position is the event after it."""
    width = windows.width or int(windows.lengths.max(initial=1))
    position = np.arange(width)
    real = position < windows.lengths[:, None]
    index = windows.starts[:, None] + np.minimum(position, np.maximum(windows.lengths - 1, 0)[:, None])
    learned = real & (position >= windows.first_target[:, None])
    next_index = np.minimum(index + 1, log.num_events - 1)
    return SeqBatch(
        items=torch.from_numpy(np.where(real, log.items[index], 0).astype(np.int64)),
        times=torch.from_numpy(log.times[index]),
        lengths=torch.from_numpy(windows.lengths),
        targets=torch.from_numpy(np.where(learned, log.items[next_index], 0).astype(np.int64)),
        users=torch.from_numpy(windows.users),
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


class TrainingBatches:
    """Batches of about `batch_targets` targets, grouped by length, in a new order every epoch."""

    def __init__(self, log: EventLog, windows: Windows, batch_targets: int):
        self.log = log
        self.windows = windows
        self.batch_targets = batch_targets
        longest = int(windows.lengths.max(initial=1))
        self._widths = np.array(padded_lengths(longest))
        self._bucket = np.searchsorted(self._widths, windows.lengths)

    @property
    def num_targets(self) -> int:
        """Targets learned in an epoch."""
        return int(self.windows.targets.sum())

    def epoch(self, rng: np.random.Generator) -> list[Windows]:
        """Cut the windows into batches for one epoch.

        Windows of about one length stand together, so that there is little padding; which of them share a
        batch, and the order of the batches, is drawn anew. What does not fill a batch of its length joins the
        next longer ones, so that all batches but the last are full.
        """
        shuffled = rng.permutation(len(self.windows))
        order = shuffled[np.argsort(self._bucket[shuffled], kind="stable")]
        edges = np.searchsorted(self._bucket[order], np.arange(len(self._widths) + 1))
        targets = self.windows.targets
        batches: list[Windows] = []
        waiting = order[:0]
        for number, width in enumerate(self._widths):
            waiting = np.concatenate([waiting, order[edges[number] : edges[number + 1]]])
            if not len(waiting):
                continue
            size = max(1, self.batch_targets // int(targets[waiting].max()))
            full = len(waiting) // size * size
            for start in range(0, full, size):
                batches.append(self.windows.take(waiting[start : start + size], int(width)))
            waiting = waiting[full:]
        if len(
            waiting
        ):  # the rest of all: a batch of its own unless it is tiny, whose step would be mostly noise
            batches.append(self.windows.take(waiting, int(self._widths[-1])))
            if len(batches) > 1 and batches[-1].targets.sum() < self.batch_targets / 4:
                batches[-2:] = [batches[-2].joined(batches[-1])]
        return [batches[number] for number in rng.permutation(len(batches))]


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
