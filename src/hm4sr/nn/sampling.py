"""The items that a training step looks at: the whole catalogue, or the batch's own and a sample."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hm4sr.nn.ranks import current, gather
from hm4sr.types import Catalog, SeqBatch


@dataclass(frozen=True)
class ItemView:
    """Vectors of some items, and where the batch finds its own among them.

    Attributes:
        vectors: row 0 is padding.
        items: `batch.items` as rows of `vectors`.
        targets: the learned targets as rows of `vectors`.
        log_weights: how many items each row stands for in the softmax, as a logarithm; None: itself.
        numbers: item number of each row, ascending; None where row v is item v.
        bounds: where the ranks' parts of the catalogue begin and end, if `vectors` are this rank's part of
            it alone (row 0 is then its first item, and `items` and `targets` are item numbers).
        look_up: gives the vectors of any items, in that case.
    """

    vectors: Float[Tensor, "U Q"]
    items: Int[Tensor, "B L"]
    targets: Int[Tensor, "N"]
    log_weights: Float[Tensor, "U"] | None = None
    numbers: Int[Tensor, "U"] | None = None
    bounds: list[int] | None = None
    look_up: Callable[[Tensor], Tensor] | None = None

    def rows_of(self, items: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
        """Where items stand among the vectors; 0 for those that do not."""
        if self.numbers is None:
            return items
        rows = torch.searchsorted(self.numbers, items).clamp_max(len(self.numbers) - 1)
        return rows.where(self.numbers[rows] == items, 0)

    def of_batch(self) -> Float[Tensor, "B L Q"]:
        """Vectors of the batch's items."""
        if self.look_up is None:
            return F.embedding(self.items, self.vectors)
        return embed(self.items, self.look_up)


def embed(items: Int[Tensor, "*N"], look_up: Callable[[Tensor], Tensor]) -> Float[Tensor, "*N Q"]:
    """Vectors of items from a function that is asked for each distinct item once."""
    rows, place = torch.unique(items, return_inverse=True)
    return F.embedding(place, look_up(rows))


def whole_catalogue(batch: SeqBatch, vectors: Float[Tensor, "V Q"]) -> ItemView:
    """Every item, under its own number."""
    return ItemView(vectors, batch.items, batch.at_targets(batch.targets))


def sample_items(
    batch: SeqBatch, catalog: Catalog, negatives: int, rng: torch.Generator
) -> tuple[Int[Tensor, "U"], Callable[[Tensor], ItemView]]:
    """The batch's items, its targets and uniform draws as one list without repetition.

    The targets of the other rows are negatives too (in-batch negatives), which brings in popular items; the
    uniform draws bring in the rest. An item's probability of being in the list is 1 - exp(-expected draws),
    with N p(target) + S / (V - 1) expected draws; each item is weighted by one over it, so that the
    normaliser of the softmax is estimated without bias whatever the sample size.
    Items that are only in a history and were not drawn take no part in the softmax.

    Args:
        batch: its targets are learned.
        catalog: its `target_counts` say how often each item is one.
        negatives: uniform draws (S).
        rng: source of the draws.

    Returns:
        the item numbers, ascending from 0 (padding), and what makes a view of their vectors.
    """
    if catalog.target_counts is None:
        raise ValueError("sampling needs the catalogue's counts of targets")
    device = batch.items.device
    own = batch.at_targets(batch.targets)
    # Each rank draws its part of the sample; targets and sample are then the same for all.
    ranks = current()
    draws = negatives * (ranks.rank + 1) // ranks.size - negatives * ranks.rank // ranks.size
    (drawn,), _ = gather(torch.randint(1, catalog.num_rows, (draws,), generator=rng, device=device))
    (targets,), first = gather(own, of="targets")
    history = torch.cat([torch.zeros(1, dtype=torch.int64, device=device), batch.items.flatten()])
    everything = torch.cat([history, targets, drawn])
    rows, place = torch.unique(everything, return_inverse=True)
    in_softmax = torch.zeros(len(rows), dtype=torch.bool, device=device)
    in_softmax[place[len(history) :]] = True
    counts = catalog.target_counts.to(device)
    share = counts[rows] / counts.sum()
    expected = len(targets) * share + negatives / catalog.num_items
    log_weights = -torch.log(-torch.expm1(-expected)).float()
    log_weights = log_weights.masked_fill(~in_softmax, -torch.inf)
    items = place[1 : len(history)].view(batch.items.shape)
    found = place[len(history) + first :][: len(own)]
    return rows, lambda vectors: ItemView(vectors, items, found, log_weights, rows)


def draw_unseen(batch: SeqBatch, num_items: int, rng: torch.Generator) -> Int[Tensor, "N"]:
    """One item for each learned target, uniform among those that its row does not hold.

    A row that holds nearly the whole catalogue may keep one of its own items after ten draws.
    """
    row = batch.target_places // batch.targets.shape[1]
    own = torch.cat([batch.items, batch.targets], dim=1)
    drawn = torch.randint(1, num_items + 1, (len(row),), generator=rng, device=row.device)
    for _ in range(10):
        seen = (own[row] == drawn[:, None]).any(1)
        if not bool(seen.any()):
            break
        drawn[seen] = torch.randint(1, num_items + 1, (int(seen.sum()),), generator=rng, device=row.device)
    return drawn
