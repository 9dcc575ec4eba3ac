"""The five operators of TiCoSeRec: views of a history whose events lie more evenly in time.

A row holds items oldest first; 0 is padding after the last one, or a hole that masking leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_ROUNDING = 1e-9
"""Variances that differ by less are equal: intervals are whole seconds."""

Similar = Callable[[Int[Tensor, "..."]], Int[Tensor, "..."]]


@dataclass(frozen=True)
class TimedRows:
    """Histories with their times.

    Attributes:
        items: left-aligned, 0 after the last one.
        times: seconds, ascending.
        next_times: when the event after each one was.
        lengths: number of events.
    """

    items: Int[Tensor, "B L"]
    times: Int[Tensor, "B L"]
    next_times: Int[Tensor, "B L"]
    lengths: Int[Tensor, "B"]

    @property
    def position(self) -> Int[Tensor, "L"]:
        """0, 1, 2, ..."""
        return torch.arange(self.items.shape[1], device=self.items.device)

    @property
    def real(self) -> Bool[Tensor, "B L"]:
        """True at events."""
        return self.position < self.lengths[:, None]

    @property
    def gaps(self) -> Float[Tensor, "B L"]:
        """Seconds from each event to the next one."""
        return (self.next_times - self.times).double()

    def count(self, rate: float) -> Int[Tensor, "B"]:
        """floor(rate * length) of each row."""
        return (rate * self.lengths.double()).long()

    def take(self, rows: Int[Tensor, "R"]) -> "TimedRows":
        """Some of the rows."""
        return TimedRows(self.items[rows], self.times[rows], self.next_times[rows], self.lengths[rows])


def crop(rows: TimedRows, rate: float, rng: torch.Generator) -> Int[Tensor, "B L"]:
    """Keep the most even window of `rate` of the events; where that is two or fewer, one random event."""
    size = rows.count(rate)
    draws = torch.rand(len(size), generator=rng, device=size.device)
    tiny = size <= 2
    start = torch.where(tiny, (draws * rows.lengths).long(), most_even_window(rows, size))
    size = torch.where(tiny, 1, size)
    index = (start[:, None] + rows.position).clamp_max(rows.items.shape[1] - 1)
    return torch.where(rows.position < size[:, None], rows.items.gather(1, index), 0)


def reorder(rows: TimedRows, rate: float, rng: torch.Generator) -> Int[Tensor, "B L"]:
    """Shuffle the most even window of `rate` of the events."""
    size = rows.count(rate)[:, None]
    start = most_even_window(rows, size[:, 0])[:, None]
    inside = (rows.position >= start) & (rows.position < start + size)
    draws = torch.rand(rows.items.shape, generator=rng, device=size.device, dtype=torch.float64)
    key = torch.where(inside, start + draws * size, rows.position.double())
    return rows.items.gather(1, key.argsort(1))


def mask(rows: TimedRows, rate: float, rng: torch.Generator, largest_gaps: bool) -> Int[Tensor, "B L"]:
    """Turn `rate` of the events into holes: random ones, or those with the longest time to the next."""
    value = rows.gaps if largest_gaps else torch.zeros_like(rows.gaps)
    count = torch.where(rows.lengths > 1, rows.count(rate), 0)
    return rows.items.masked_fill(_largest(value, count, rows.real, rng), 0)


def substitute(rows: TimedRows, rate: float, rng: torch.Generator, similar: Similar) -> Int[Tensor, "B L"]:
    """Replace `rate` of the items, at least one, where the next event comes soonest, by similar ones."""
    count = torch.where(rows.lengths > 1, rows.count(rate).clamp_min(1), 0)
    chosen = _largest(-rows.gaps, count, rows.real, rng)
    return torch.where(chosen, similar(rows.items), rows.items)


def insert(rows: TimedRows, rate: float, rng: torch.Generator, similar: Similar) -> Int[Tensor, "B W"]:
    """Put a similar item after `rate` of the items, at least one, where the next event comes latest.

    Rows become W = L + max(1, floor(rate L)) wide.
    """
    B, L = rows.items.shape
    chosen = _largest(rows.gaps, rows.count(rate).clamp_min(1), rows.real, rng)
    place = rows.position + chosen.cumsum(1) - chosen.long()
    wide = rows.items.new_zeros(B, widened(L, rate) + 1)
    dump = wide.shape[1] - 1
    wide.scatter_(1, torch.where(rows.real, place, dump), rows.items)
    wide.scatter_(1, torch.where(chosen, place + 1, dump), similar(rows.items))
    return wide[:, :dump]


def widened(length: int, rate: float) -> int:
    """Largest number of events that `insert` makes of `length`."""
    return length + max(1, int(rate * length))


def most_even_window(rows: TimedRows, size: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
    """Start of the window of `size` events whose intervals vary least; the latest such window.

    As in the authors' code the last event of a window does not count.
    """
    L = rows.items.shape[1]
    step = torch.arange(L - 1, device=size.device)
    gaps = rows.times.diff(dim=1).double()
    index = (rows.position[:, None] + step).clamp_max(max(L - 2, 0))
    inside = step < (size - 2)[:, None, None]
    count = (size - 2).clamp_min(1)[:, None]
    windows = torch.where(inside, gaps[:, index], 0.0)
    mean = windows.sum(2) / count
    variance = torch.where(inside, (windows - mean[..., None]).square(), 0.0).sum(2) / count
    variance = variance.masked_fill(rows.position > (rows.lengths - size)[:, None], torch.inf)
    lowest = variance.amin(1, keepdim=True)
    as_even = variance <= lowest * (1 + _ROUNDING) + _ROUNDING
    return (as_even * rows.position).amax(1)


def _largest(
    values: Float[Tensor, "B L"], count: Int[Tensor, "B"], real: Bool[Tensor, "B L"], rng: torch.Generator
) -> Bool[Tensor, "B L"]:
    """True at the `count` largest values of each row; ties are broken at random."""
    shuffled = torch.rand(values.shape, generator=rng, device=values.device).argsort(1)
    values = values.masked_fill(~real, -torch.inf)
    order = shuffled.gather(1, values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return rank < count[:, None]
