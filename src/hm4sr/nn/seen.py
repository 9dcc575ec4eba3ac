"""Whether somebody comes back for what was had: a term for the items of a history."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hm4sr.types import SeqBatch

_FACTOR = 10.0
"""Adam moves a parameter by about its learning rate a step; the term has to move by several nats in an epoch
or two."""


class SeenTerm(nn.Module):
    """One learned number that is added to the score of every item that stands in the history.

    A dot product of two vectors cannot say "anything but what was had". Where nobody takes an item twice
    the number becomes strongly negative, where people buy again it becomes positive. It starts at 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self) -> Float[Tensor, ""]:
        """The number."""
        return _FACTOR * self.weight[0]


def seen_at_targets(batch: SeqBatch) -> Int[Tensor, "N S"]:
    """The items of the history of each learned target, each of them once; 0 stands for none.

    Histories reach beyond what the model reads (`SeqBatch.earlier`).
    """
    items, since = _first_places(batch)
    L = batch.items.shape[1]
    row, position = batch.target_places // L, batch.target_places % L
    return items[row].where(since[row] <= position[:, None], 0)


def seen_at_end(batch: SeqBatch) -> Int[Tensor, "B S"]:
    """The items of each whole history, each of them once; 0 stands for none."""
    return _first_places(batch)[0]


def _first_places(batch: SeqBatch) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B S"]]:
    """Each item of a row where it comes first (0 elsewhere), and the position from which on it counts."""
    position = torch.arange(batch.items.shape[1], device=batch.items.device).expand_as(batch.items)
    items, since = batch.items, position
    if batch.earlier is not None:
        items = torch.cat([batch.earlier, items], dim=1)
        since = torch.cat([torch.full_like(batch.earlier, -1), since], dim=1)
    ordered, order = items.sort(dim=1, stable=True)
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = torch.zeros_like(again).scatter(1, order, again)
    return items.masked_fill(repeated, 0), since
