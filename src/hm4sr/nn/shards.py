"""A table of items of which each process keeps some rows.

table = ShardedTable(embedding, current())      rows bounds[rank]..bounds[rank + 1] stay here
table(items)                                    the rows of any items, wherever they are kept

A lookup is three messages: how many rows are wanted, which, and the rows. In the backward pass one more takes
the gradients to the rows' owners, where they are whole: nobody else has to hear of them. All ranks must look
up together, also those that want nothing.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hm4sr.nn.ranks import Ranks


class ShardedTable(nn.Embedding):
    """An embedding whose rows are spread over the ranks, in blocks of neighbours.

    `weight` holds this rank's rows alone; a gradient that arrives there is that of all ranks.

    Args:
        table: the whole table, which is not kept.
        ranks: who shares it.

    Attributes:
        bounds: rank r keeps the rows bounds[r]..bounds[r + 1].
        here: this rank's rows.
    """

    def __init__(self, table: nn.Embedding, ranks: Ranks):
        super().__init__(
            table.num_embeddings, table.embedding_dim, padding_idx=table.padding_idx, device="meta"
        )
        rows = table.num_embeddings
        self.bounds = [rows * rank // ranks.size for rank in range(ranks.size + 1)]
        self.here = slice(self.bounds[ranks.rank], self.bounds[ranks.rank + 1])
        self.weight = nn.Parameter(table.weight.detach()[self.here].clone())

    def forward(self, items: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        """Rows of the given items; each distinct one travels once."""
        rows, place = torch.unique(items, return_inverse=True)
        found = _Lookup.apply(self.weight, rows, self)  # type: ignore[no-untyped-call]
        return F.embedding(place, found)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor, table: ShardedTable) -> Tensor:
        edges = torch.searchsorted(rows, torch.tensor(table.bounds, device=rows.device)).tolist()
        ctx.wanted = [stop - start for start, stop in pairwise(edges)]
        numbers = torch.tensor(ctx.wanted)
        asked = torch.empty_like(numbers)
        dist.all_to_all_single(asked, numbers)
        ctx.asked = asked.tolist()
        ctx.own = rows.new_empty(sum(ctx.asked))
        dist.all_to_all_single(ctx.own, rows, ctx.asked, ctx.wanted)
        ctx.own -= table.here.start
        ctx.shape, ctx.sparse = weight.shape, table.sparse
        ctx.padding = None if table.padding_idx is None else table.padding_idx - table.here.start
        found = weight.new_empty(len(rows), weight.shape[1])
        dist.all_to_all_single(found, weight.detach()[ctx.own], ctx.wanted, ctx.asked)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        arrived = gradient.new_empty(len(ctx.own), ctx.shape[1])
        dist.all_to_all_single(arrived, gradient.contiguous(), ctx.asked, ctx.wanted)
        if ctx.padding is not None:  # the row of padding does not learn, as in nn.Embedding
            arrived = arrived.masked_fill((ctx.own == ctx.padding)[:, None], 0.0)
        if ctx.sparse:
            rows = torch.sparse_coo_tensor(ctx.own[None], arrived, ctx.shape, check_invariants=False)
            return rows, None, None
        return gradient.new_zeros(ctx.shape).index_add_(0, ctx.own, arrived), None, None


def sharded_tables(model: nn.Module) -> dict[str, ShardedTable]:
    """The tables of which this process keeps some rows, by the name of their weights."""
    return {
        f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, ShardedTable)
    }
