"""Processes that learn a step together: rows of all, means over all.

Each process (a rank) holds some rows of a step's batch. A loss term is then this rank's part of the term of
the whole batch: the sum over ranks is what one process would have got, and so is the sum of the gradients.
Losses get there by two things, which cost nothing in one process:

loss = share(mean_over_my_rows, num_my_rows)     a mean over the rows of all ranks
keys = all_rows(my_keys)                         what my rows are contrasted with; gradients come back

All ranks call these in the same order, so a model must not decide by its own rows alone whether it does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those that share a step.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1


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


def counts(mine: int) -> list[int]:
    """A number of every rank, by rank. On the host: a GPU is not waited for."""
    if _current.size == 1:
        return [mine]
    number = torch.tensor([mine])
    found = [torch.empty_like(number) for _ in range(_current.size)]
    dist.all_gather(found, number)
    return [int(count) for count in found]


def anywhere(mine: bool) -> bool:
    """Whether it is true on any rank."""
    return any(counts(int(mine)))


def share(mean: Tensor, rows: int) -> Tensor:
    """This rank's part of a mean over the rows of all ranks.

    Args:
        mean: over this rank's rows.
        rows: how many they are; there may be none.
    """
    if _current.size == 1:
        return mean
    if not rows:
        counts(0)
        return mean.nan_to_num() * 0.0  # still in the graph, which the other ranks' gradients pass
    return mean * (rows / sum(counts(rows)))


def once(term: Tensor) -> Tensor:
    """This rank's part of a term that is the same on all ranks, such as a penalty of weights."""
    return term if _current.size == 1 else term / _current.size


def all_rows(rows: Shaped[Tensor, "N ..."]) -> Shaped[Tensor, "M ..."]:
    """The rows of all ranks, end to end, by rank; a gradient returns to the rank whose row it is."""
    return with_place(rows)[0]


def with_place(rows: Shaped[Tensor, "N ..."]) -> tuple[Shaped[Tensor, "M ..."], int]:
    """The rows of all ranks, and where among them this rank's own begin."""
    if _current.size == 1:
        return rows, 0
    sizes = counts(len(rows))
    everything: Tensor = _AllRows.apply(rows, sizes, _current.rank)  # type: ignore[no-untyped-call]
    return everything, sum(sizes[: _current.rank])


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        if not any(sizes):
            return rows.clone()
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if not any(ctx.sizes):
            return gradient, None, None
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return torch.split(total, ctx.sizes)[ctx.rank], None, None
