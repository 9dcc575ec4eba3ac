"""Processes that learn a step together: rows of all, means over all.

Each process (a rank) holds some rows of a step's batch. A loss term is then this rank's part of the term of
the whole batch: the sum over ranks is what one process would have got, and so is the sum of the gradients.
Losses get there by two things, which cost nothing in one process:

loss = share(mean_over_my_rows, num_my_rows)     a mean over the rows of all ranks
(keys,), first = gather(my_keys)                 what my rows are contrasted with; gradients come back

All ranks call these in the same order, so a model must not decide by its own rows alone whether it does.
Every message makes all ranks wait for the slowest (one to two milliseconds on a CPU, mostly for waking up),
so rows that are wanted together are gathered together, and numbers of rows that every rank can know (`Rows`)
are not asked for.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

Rows = Literal["targets", "events", "histories"]
"""What the rows of a tensor are: every target of this rank's batch, every real event, every history."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that share a step.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        rows: how many targets, events and histories each rank has in this step, where that is known.
    """

    rank: int = 0
    size: int = 1
    rows: Mapping[Rows, list[int]] = field(default_factory=dict)


ALONE = Ranks()
_current = ALONE


def current() -> Ranks:
    """The ranks that share the step at hand; one process alone unless `together` says otherwise."""
    return _current


@contextmanager
def together(ranks: Ranks) -> Iterator[Ranks]:
    """Within this context losses are those of the batch of all these ranks."""
    global _current
    before, _current = _current, ranks
    try:
        yield ranks
    finally:
        _current = before


def counts(mine: int, of: Rows | None = None) -> list[int]:
    """A number of every rank, by rank. On the host: a GPU is not waited for.

    Args:
        mine: this rank's number.
        of: what it counts; looked up where that is known, otherwise the ranks tell each other.
    """
    if _current.size == 1:
        return [mine]
    if of is not None and of in _current.rows:
        assert _current.rows[of][_current.rank] == mine, f"{mine} rows are not the {of} of this batch"
        return _current.rows[of]
    number = torch.tensor([mine])
    found = [torch.empty_like(number) for _ in range(_current.size)]
    dist.all_gather(found, number)
    return [int(count) for count in found]


def anywhere(mine: bool) -> bool:
    """Whether it is true on any rank."""
    return any(counts(int(mine)))


def share(mean: Tensor, rows: int, of: Rows | None = None) -> Tensor:
    """This rank's part of a mean over the rows of all ranks.

    Args:
        mean: over this rank's rows.
        rows: how many they are; there may be none.
        of: what they are, if they are all targets, events or histories of the batch.
    """
    if _current.size == 1:
        return mean
    total = sum(counts(rows, of))
    if not rows:
        return mean.nan_to_num() * 0.0  # still in the graph, which the other ranks' gradients pass
    return mean * (rows / total)


def once(term: Tensor) -> Tensor:
    """This rank's part of a term that is the same on all ranks, such as a penalty of weights."""
    return term if _current.size == 1 else term / _current.size


def gather(*mine: Tensor, of: Rows | None = None) -> tuple[tuple[Tensor, ...], int]:
    """The rows of all ranks, end to end, by rank; a gradient returns to the rank whose row it is.

    Args:
        mine: tensors of equally many rows, which travel in one message.
        of: what the rows are, if they are all targets, events or histories of the batch.

    Returns:
        the tensors with the rows of all ranks, and where among them this rank's own begin.
    """
    if _current.size == 1:
        return mine, 0
    sizes = counts(len(mine[0]), of)
    everyone = _Gather.apply(sizes, _current.rank, *mine)  # type: ignore[no-untyped-call]
    return tuple(everyone), sum(sizes[: _current.rank])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sizes: list[int], rank: int, *mine: Tensor) -> tuple[Tensor, ...]:
        ctx.sizes, ctx.rank = sizes, rank
        ctx.widths = [math.prod(rows.shape[1:]) for rows in mine]
        ctx.types = [rows.dtype for rows in mine]
        # Bytes, so that numbers of all kinds stand in one row.
        flat = [
            rows.detach().reshape(len(rows), width).view(torch.uint8)
            for rows, width in zip(mine, ctx.widths, strict=True)
        ]
        packed = torch.zeros(
            max(sizes), sum(one.shape[1] for one in flat), dtype=torch.uint8, device=mine[0].device
        )
        packed[: len(mine[0])] = torch.cat(flat, dim=1)
        parts = [torch.empty_like(packed) for _ in sizes]
        if any(sizes):
            dist.all_gather(parts, packed)
        whole = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        columns = torch.split(whole, [one.shape[1] for one in flat], dim=1)
        everyone = tuple(
            column.contiguous().view(rows.dtype).view(len(whole), *rows.shape[1:])
            for column, rows in zip(columns, mine, strict=True)
        )
        ctx.mark_non_differentiable(*(rows for rows in everyone if not rows.is_floating_point()))
        return everyone

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        learned = [number for number, kind in enumerate(ctx.types) if kind.is_floating_point]
        found: list[Tensor | None] = [None] * len(gradients)
        flat = [gradients[number].reshape(sum(ctx.sizes), ctx.widths[number]) for number in learned]
        total = torch.cat(flat, dim=1)
        if any(ctx.sizes):
            dist.all_reduce(total)
        own = torch.split(total, ctx.sizes)[ctx.rank]
        for number, part in zip(
            learned, torch.split(own, [ctx.widths[n] for n in learned], dim=1), strict=True
        ):
            gradient = gradients[number]
            found[number] = part.reshape(len(own), *gradient.shape[1:]).to(gradient.dtype)
        return None, None, *found
