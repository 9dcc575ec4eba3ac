"""What a model sees of the world: a `Catalog` and batches of sequences.

Dimension letters, used in every signature of the project:
    B sequences in a batch    L positions of a sequence    V item rows (row 0 is padding, items are 1..V-1)
    D hidden width            Q width of the vectors whose dot product is a score
    M modalities, ID included K experts                    C categories
    N prediction targets in a batch                        F width of a frozen feature
    J blocks of a frozen encoder                           T training events
    E real events in a batch                               H events before those of a sequence
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class ItemFeatures:
    """Frozen vectors of one modality.

    Attributes:
        vectors: row v belongs to item v; rows that are not `present` are zero.
        present: whether the item has this modality at all; row 0 (padding) never has.
        levels: [CLS] after each of the encoder's blocks, first block first; None where they were not kept.
        start: [CLS] before the first block, which is the same for every item.
    """

    vectors: Float[Tensor, "V F"]
    present: Bool[Tensor, "V"]
    levels: Float[Tensor, "V J F"] | None = None
    start: Float[Tensor, "F"] | None = None


@dataclass(frozen=True)
class Histories:
    """The train part of all histories, end to end, for models that compare whole histories.

    Attributes:
        items: item number of each event.
        times: seconds since 1970.
        starts: user u's events are `starts[u]:starts[u + 1]`, oldest first.
    """

    items: Int[Tensor, "T"]
    times: Int[Tensor, "T"]
    starts: Int[Tensor, "S"]


@dataclass(frozen=True)
class Clock:
    """What the train part of the data says about time, in seconds since 1970.

    Attributes:
        first: earliest training event; day 0 begins at the UTC midnight before it.
        last: latest training event.
        largest_gap: longest time between two neighbouring training events of one user.
    """

    first: int = 0
    last: int = 0
    largest_gap: int = 0


@dataclass(frozen=True)
class Catalog:
    """What a data set knows about its items.

    Attributes:
        num_items: number of real items, V - 1.
        features: modality name to frozen vectors. Empty for models on IDs alone.
        categories: category numbers of each item, 1..C, filled up with 0; None when there are none.
        num_categories: C.
        clock: time range of the training events.
        max_length: longest sequence (L) a model will be given.
        counts: training events of each item; None where nobody needs them.
        target_counts: how often each item is a training target, which a user's first event is not.
        histories: the train part of all histories; None where nobody needs it.
    """

    num_items: int
    features: Mapping[str, ItemFeatures] = field(default_factory=dict)
    categories: Int[Tensor, "V P"] | None = None
    num_categories: int = 0
    clock: Clock = field(default_factory=Clock)
    max_length: int = 50
    counts: Int[Tensor, "V"] | None = None
    target_counts: Int[Tensor, "V"] | None = None
    histories: Histories | None = None

    @property
    def num_rows(self) -> int:
        """V: rows of an item table, padding included."""
        return self.num_items + 1

    @property
    def chance_loss(self) -> float:
        """Cross-entropy of a uniform guess over the catalogue, in nats."""
        return math.log(self.num_items)


@dataclass(frozen=True)
class SeqBatch:
    """Sequences of events, left-aligned: position 0 is the oldest kept event.

    Attributes:
        items: item numbers; 0 marks padding, which follows the real events.
        times: seconds since 1970 (int64: float32 rounds to 128 s); padding repeats the last event's time.
        lengths: number of real events of each row.
        targets: the item to predict after each position; 0 where there is nothing to learn.
        users: row number of the user, or -1 for somebody unknown.
        asked: when the question after each position is asked, in seconds since 1970: the moment of the
            target, or that for which a recommendation is wanted. None stands for the moment of the event.
        earlier: items of the newest events before the first of each row, at most 1,000 of them, in any
            order; 0 marks padding. None where no row has any.
    """

    items: Int[Tensor, "B L"]
    times: Int[Tensor, "B L"]
    lengths: Int[Tensor, "B"]
    targets: Int[Tensor, "B L"]
    users: Int[Tensor, "B"]
    asked: Int[Tensor, "B L"] | None = None
    earlier: Int[Tensor, "B H"] | None = None

    @property
    def valid(self) -> Bool[Tensor, "B L"]:
        """True at real events."""
        return self.items > 0

    @cached_property
    def target_places(self) -> Int[Tensor, "N"]:
        """Where the targets stand in the flattened batch.

        Known by number, they are gathered without asking a GPU how many there are, as a mask would.
        """
        return self.targets.flatten().nonzero().squeeze(1)

    @cached_property
    def event_places(self) -> Int[Tensor, "E"]:
        """Where the real events stand in the flattened batch."""
        return self.items.flatten().nonzero().squeeze(1)

    def at_targets(self, values: Shaped[Tensor, "B L ..."]) -> Shaped[Tensor, "N ..."]:
        """What stands at the positions that have a target, row by row."""
        return values.flatten(0, 1).index_select(0, self.target_places)

    def at_events(self, values: Shaped[Tensor, "B L ..."]) -> Shaped[Tensor, "E ..."]:
        """What stands at the real events, row by row."""
        return values.flatten(0, 1).index_select(0, self.event_places)

    def at_end(self, values: Shaped[Tensor, "B L ..."]) -> Shaped[Tensor, "B ..."]:
        """What stands at the newest event of each row."""
        place = (self.lengths - 1).view(-1, *(1,) * (values.dim() - 1))
        return values.gather(1, place.expand(-1, 1, *values.shape[2:])).squeeze(1)

    def pinned(self) -> "SeqBatch":
        """The same batch, places of targets and events included, in memory that a GPU reads by itself."""
        return self._each(lambda tensor: tensor.pin_memory(), True)

    def to(self, device: torch.device) -> "SeqBatch":
        """The same batch on another device, copied without waiting."""
        if self.items.device == device:
            return self
        return self._each(
            lambda tensor: tensor.to(device, non_blocking=True), self.items.device.type == "cpu"
        )

    def _each(self, change: Callable[[Tensor], Tensor], places: bool) -> "SeqBatch":
        """Change all tensors; with `places` those of targets and events too, which are found before."""
        tensors = {name: getattr(self, name) for name in self.__dataclass_fields__}
        changed = SeqBatch(**{name: change(x) for name, x in tensors.items() if x is not None})
        if places:
            changed.__dict__["target_places"] = change(self.target_places)
            changed.__dict__["event_places"] = change(self.event_places)
        return changed
