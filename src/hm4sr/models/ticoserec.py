"""TiCoSeRec: contrast of two views of a history that are more even in time."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from hm4sr.models.base import TransformerConfig, register
from hm4sr.models.sasrec import SASRec
from hm4sr.nn.histories import item_neighbours, regular_users, vector_neighbours
from hm4sr.nn.losses import nt_xent
from hm4sr.nn.time_views import TimedRows, crop, insert, mask, reorder, substitute, widened
from hm4sr.types import Catalog, SeqBatch

SUBSTITUTE, INSERT, MASK, CROP, REORDER = range(5)
"""Numbers of the operators; short histories take the first three alone."""


class TiCoSeRecConfig(TransformerConfig):
    """Settings of TiCoSeRec."""

    contrast_weight: float = Field(0.001, ge=0)
    """Weight of the contrast of two views; 0 leaves SASRec. The authors have 0.1 after 40 epochs of warm-up;
    from the first epoch on, that keeps the model from its main task, for the views are long vectors."""
    temperature: float = Field(1.0, gt=0)
    """Divides the dot product of two views."""
    warm_up: int = Field(0, ge=0)
    """Epochs before the contrast sets in; 40 in the authors' code, which trains 350."""
    hybrid_after: int = Field(0, ge=0)
    """Epochs after which the learned vectors, too, say which items are similar; 80 in the authors' code, 0 is
    never."""
    long_from: int = Field(13, ge=0)
    """Histories of so many events take all five operators; shorter ones are not cropped or reordered."""
    crop_rate: float = Field(0.7, ge=0, lt=1)
    """Share of the events that cropping keeps."""
    reorder_rate: float = Field(0.2, ge=0, lt=1)
    """Share of the events that reordering shuffles."""
    mask_rate: float = Field(0.5, ge=0, lt=1)
    """Share of the events that masking hides."""
    mask_mode: Literal["random", "maximum"] = "random"
    """Hide random events, or those before the longest times."""
    substitute_rate: float = Field(0.1, ge=0, lt=1)
    """Share of the items that are replaced, at least one."""
    insert_rate: float = Field(0.5, ge=0, lt=1)
    """Share of the items after which a similar one is put, at least one."""
    regular_share: float = Field(0.15, ge=0, le=1)
    """Share of the users, those of the most even intervals, whose histories stay as they are."""
    loss: Literal["softmax", "bce"] = "softmax"
    """Cross-entropy over the catalogue, or each target and one random item judged by themselves."""


@register("ticoserec")
class TiCoSeRec(SASRec):
    """SASRec with contrast of views that are more even in time (Dang et al., AAAI 2023).

    Two operators, drawn for each history, crop, reorder, mask, substitute or insert where intervals are even
    or long. Both views are encoded; their hidden vectors, aligned at the newest event, are compared as one
    long vector. Similar items are those of item-based filtering with inverse user frequency.

    Done as the paper means it where the authors' code slips: the events before the longest and shortest times
    are chosen (theirs takes the inverse of the sorting permutation); regular users are recognised by user
    (theirs compares user numbers with row numbers) and ranked by their sorted times, ties at random; learned
    similarity picks the most similar item, not the least. What is not an event adds nothing to the
    comparison. Views are made of a training row, so of the newest events that the model sees. Contrast
    starts at once, because early stopping would end most trainings before the authors' 40 epochs, and with a
    hundredth of their weight (`contrast_weight`).
    """

    Config = TiCoSeRecConfig
    reads_histories = True
    shardable = False  # finds similar items among all of them
    epoch_buffers = ("neighbours",)
    regular: Tensor
    neighbours: Tensor

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        regular = torch.zeros(0, dtype=torch.bool)
        if catalog.histories is not None:
            regular = regular_users(catalog.histories, config.regular_share, rng)
        self.register_buffer("regular", regular.to(torch.empty(0).device), persistent=False)
        neighbours = torch.zeros(catalog.num_rows, dtype=torch.int64)
        self.register_buffer("neighbours", neighbours, persistent=False)
        self._offline: tuple[Tensor, Tensor] | None = None
        self._contrast = not config.warm_up

    def start_epoch(self, epoch: int) -> None:
        """Find out which items are similar, and whether the contrast has set in."""
        c = self.config
        self._contrast = epoch > c.warm_up
        if self.catalog.histories is None or not self._contrast:
            return
        if self._offline is None:
            best, score = item_neighbours(self.catalog.histories, self.catalog.num_rows)
            self._offline = best.to(self.neighbours.device), score.to(self.neighbours.device)
            self.neighbours.copy_(self._offline[0])
        if c.hybrid_after and epoch > c.hybrid_after:
            best, score = vector_neighbours(self.items.weight)
            self.neighbours.copy_(torch.where(self._offline[1] >= score, self._offline[0], best))

    def losses(self, batch: SeqBatch) -> dict[str, Float[Tensor, ""]]:
        """The main loss and the contrast of two views."""
        c = self.config
        if c.loss == "softmax":
            terms = super().losses(batch)
        else:
            terms = {"main": self.one_negative_loss(batch, "bce")}
        if c.contrast_weight and self._contrast:
            with self.mixed_precision():
                first, second = self._flat(torch.cat([self.view_of(batch), self.view_of(batch)])).chunk(2)
            terms["contrast"] = c.contrast_weight * nt_xent(first, second, c.temperature, of="histories")
        return terms

    def view_of(self, batch: SeqBatch) -> Int[Tensor, "B W"]:
        """One more even view of each history: items oldest first, 0 where there is none."""
        c, rng = self.config, self.rng
        rows = TimedRows(batch.items, batch.times, self._next_times(batch), batch.lengths)
        width = widened(batch.items.shape[1], c.insert_rate)
        view = batch.items.new_zeros(len(batch.items), width)
        view[:, : batch.items.shape[1]] = batch.items
        draws = torch.rand(len(view), generator=rng, device=view.device)
        kind = (draws * torch.where(rows.lengths >= c.long_from, 5, 3)).long()
        kind = kind.masked_fill(self._is_regular(batch.users), -1)
        operators: dict[int, Callable[[TimedRows], Tensor]] = {
            SUBSTITUTE: lambda some: substitute(some, c.substitute_rate, rng, self._similar),
            INSERT: lambda some: insert(some, c.insert_rate, rng, self._similar),
            MASK: lambda some: mask(some, c.mask_rate, rng, c.mask_mode == "maximum"),
            CROP: lambda some: crop(some, c.crop_rate, rng),
            REORDER: lambda some: reorder(some, c.reorder_rate, rng),
        }
        for number, operator in operators.items():
            chosen = (kind == number).nonzero()[:, 0]
            if len(chosen):
                changed = operator(rows.take(chosen))
                view[chosen, : changed.shape[1]] = changed
        return view

    def _flat(self, view: Int[Tensor, "B W"]) -> Float[Tensor, "B S"]:
        """Hidden vectors of the newest events side by side, the newest one last; zeros where there is none.

        Holes are squeezed out before the encoder, which is as good as hiding them from it.
        """
        position = torch.arange(view.shape[1], device=view.device)
        length = (position * (view > 0)).amax(1, keepdim=True) + 1
        kept = min(view.shape[1], self.catalog.max_length)
        place = position - (length - kept).clamp_min(0)  # within the newest `kept`
        view = view.masked_fill(place < 0, 0)
        order = (view == 0).long().argsort(dim=1, stable=True)[:, :kept]
        items, place = view.gather(1, order), place.gather(1, order)
        x = self.items(items) + self.positions(torch.where(items > 0, place, 0))
        hidden: Tensor = self.encoder(x).float()
        slot = torch.where(items > 0, kept - length.clamp_max(kept) + place, kept)
        flat = hidden.new_zeros(len(view), kept + 1, hidden.shape[2])
        return flat.scatter(1, slot[..., None].expand_as(hidden), hidden)[:, :kept].flatten(1)

    def _next_times(self, batch: SeqBatch) -> Int[Tensor, "B L"]:
        """When the event after each one was; of the last one that is when its target was."""
        last = batch.at_end(batch.times)
        after = last if batch.asked is None else batch.at_end(batch.asked)
        following = torch.cat([batch.times[:, 1:], last[:, None]], dim=1)
        return following.scatter(1, (batch.lengths - 1)[:, None], torch.maximum(after, last)[:, None])

    def _is_regular(self, users: Int[Tensor, "B"]) -> Bool[Tensor, "B"]:
        if not len(self.regular):
            return torch.zeros_like(users, dtype=torch.bool)
        return self.regular[users.clamp_min(0)] & (users >= 0)

    def _similar(self, items: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """The most similar item of each; a random one for items that nobody has beside another."""
        found = self.neighbours[items]
        size, device = items.shape, items.device
        drawn = torch.randint(1, self.catalog.num_rows, size, generator=self.rng, device=device)
        return torch.where(items > 0, torch.where(found > 0, found, drawn), 0)
