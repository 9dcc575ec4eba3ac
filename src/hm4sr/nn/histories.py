"""What the training histories say: where an item was a target, which items go together, who is regular."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hm4sr.types import Histories

_CHUNK_PAIRS = 8_000_000
"""Pairs of items alive at a time: a few hundred megabytes."""


class TargetIndex(nn.Module):
    """Finds the training events in which an item was a target, and the history before each of them.

    The buffers are data and not part of the state that is saved.
    """

    items: Tensor
    first: Tensor
    order: Tensor
    keys: Tensor

    def __init__(self, histories: Histories):
        super().__init__()
        starts, cpu = histories.starts, histories.items.device
        self.num_users = len(starts) - 1
        users = torch.repeat_interleave(torch.arange(self.num_users, device=cpu), starts.diff())
        first = starts[users]
        targets = (torch.arange(len(first), device=cpu) > first).nonzero()[:, 0]
        keys = self._key(histories.items[targets].long(), users[targets])
        order = keys.argsort(stable=True)
        data = {
            "items": histories.items.long(),
            "first": first,
            "order": targets[order],
            "keys": keys[order],
        }
        for name, values in data.items():
            self.register_buffer(name, values.to(torch.empty(0).device), persistent=False)

    def _key(self, items: Tensor, users: Tensor) -> Tensor:
        return items * self.num_users + users

    def others(
        self, items: Int[Tensor, "N"], users: Int[Tensor, "N"], rng: torch.Generator
    ) -> tuple[Int[Tensor, "N"], Bool[Tensor, "N"]]:
        """A random event in which another user's target was this item, and whether there is one."""
        begin, end = (torch.searchsorted(self.keys, self._key(i, 0 * users)) for i in (items, items + 1))
        own = self._key(items, users.clamp_min(0))
        own_begin = torch.searchsorted(self.keys, own)
        own_end = torch.where(users >= 0, torch.searchsorted(self.keys, own, right=True), own_begin)
        choices = (end - begin) - (own_end - own_begin)
        draws = torch.rand(len(items), generator=rng, device=items.device, dtype=torch.float64)
        place = begin + (draws * choices).long()
        place = torch.where(place >= own_begin, place + (own_end - own_begin), place)
        return self.order[place.clamp_max(len(self.order) - 1)], choices > 0

    def before(
        self, events: Int[Tensor, "N"], max_length: int
    ) -> tuple[Int[Tensor, "N L"], Int[Tensor, "N"]]:
        """The newest `max_length` items before each event, left-aligned, and how many they are."""
        start = torch.maximum(self.first[events], events - max_length)
        lengths = events - start
        position = torch.arange(max_length, device=events.device)
        index = (start[:, None] + position).clamp_max(len(self.items) - 1)
        return torch.where(position < lengths[:, None], self.items[index], 0), lengths


def regular_users(histories: Histories, share: float, rng: torch.Generator) -> Bool[Tensor, "S"]:
    """The share of users whose intervals vary least; ties are broken at random.

    Args:
        histories: the training histories of all users.
        share: how many of them are called regular.
        rng: breaks ties.
    """
    starts, cpu = histories.starts, histories.items.device
    num_users, counts = len(starts) - 1, starts.diff()
    users = torch.repeat_interleave(torch.arange(num_users, device=cpu), counts)
    inner = users[1:] == users[:-1]
    gaps, owner = histories.times.diff()[inner].double(), users[1:][inner]
    variance = _group_mean((gaps - _group_mean(gaps, owner, num_users)[owner]).square(), owner, num_users)
    draw = torch.rand(num_users, generator=rng, device=rng.device).to(cpu)
    order = draw.argsort()
    order = order[variance[order].argsort(stable=True)]
    regular = torch.zeros(num_users, dtype=torch.bool, device=cpu)
    regular[order[: int(share * num_users)]] = True
    return regular


def _group_mean(values: Tensor, group: Tensor, num_groups: int) -> Tensor:
    sums = values.new_zeros(num_groups).index_add_(0, group, values)
    return sums / torch.bincount(group, minlength=num_groups).clamp_min(1)


def item_neighbours(histories: Histories, num_rows: int) -> tuple[Int[Tensor, "V"], Float[Tensor, "V"]]:
    """The item that goes with each item best, and how well: item-based filtering with inverse user frequency.

    s(i, j) = sum over users u of both of 1 / ln(1 + |I_u|), divided by sqrt(N_i N_j), scaled to 0..1 over all
    pairs of the data. 0 is the neighbour of items that nobody has beside another one.
    """
    starts, cpu = histories.starts, histories.items.device
    num_users = len(starts) - 1
    owner = torch.repeat_interleave(torch.arange(num_users, device=cpu), starts.diff())
    by_user = torch.unique(owner * num_rows + histories.items.long())
    user, item = by_user // num_rows, by_user % num_rows
    sizes = torch.bincount(user, minlength=num_users)
    begin = sizes.cumsum(0) - sizes
    popularity = torch.bincount(item, minlength=num_rows)
    by_item = item.argsort(stable=True)
    # Chunks end where an item ends, so that the sums of an item are complete.
    pairs = torch.zeros(num_rows, dtype=torch.int64, device=cpu).index_add_(0, item, sizes[user])
    chunk = (pairs.cumsum(0) // _CHUNK_PAIRS)[item[by_item]]
    best = torch.full((num_rows,), num_rows, device=cpu)
    score = torch.full((num_rows,), -torch.inf, device=cpu)
    lowest = torch.inf
    for events in torch.split(by_item, torch.bincount(chunk).tolist() if len(chunk) else [0]):
        width = sizes[user[events]]
        left = torch.repeat_interleave(events, width)
        offset = torch.arange(len(left), device=cpu) - torch.repeat_interleave(width.cumsum(0) - width, width)
        right = begin[user[left]] + offset
        apart = left != right
        left, right = left[apart], right[apart]
        weight = 1 / torch.log1p(sizes[user[left]].double())
        pair, place = torch.unique(item[left] * num_rows + item[right], return_inverse=True)
        i, j = pair // num_rows, pair % num_rows
        together = weight.new_zeros(len(pair)).index_add_(0, place, weight)
        values = (together / (popularity[i] * popularity[j]).sqrt()).float()
        lowest = min(lowest, float(values.min()) if len(values) else torch.inf)
        score.scatter_reduce_(0, i, values, "amax")
        winner = values == score[i]
        best.scatter_reduce_(0, i[winner], j[winner], "amin")
    known = best < num_rows
    spread = max(float(score.max()) - lowest, 1e-12) if bool(known.any()) else 1.0
    return best * known, torch.where(known, (score - lowest) / spread, 0.0)


@torch.no_grad()
def vector_neighbours(table: Float[Tensor, "V D"]) -> tuple[Int[Tensor, "V"], Float[Tensor, "V"]]:
    """The item whose vector has the largest dot product with each item's, scaled to 0..1 over all pairs."""
    best, score, lowest = [], [], torch.inf
    items = torch.arange(1, len(table), device=table.device)
    for rows in torch.split(items, max(1, _CHUNK_PAIRS // len(table))):
        product = table[rows] @ table.T
        outside = torch.zeros_like(product, dtype=torch.bool)
        outside[:, 0] = True
        outside[torch.arange(len(rows), device=table.device), rows] = True
        lowest = min(lowest, float(product.masked_fill(outside, torch.inf).min()))
        top = product.masked_fill(outside, -torch.inf).max(1)
        best.append(top.indices)
        score.append(top.values)
    scores = torch.cat(score)
    spread = max(float(scores.max()) - lowest, 1e-12)
    # Padding is like nothing.
    return F.pad(torch.cat(best), (1, 0)), F.pad((scores - lowest) / spread, (1, 0))
