"""Cross-entropy over a catalogue of which each process has some rows."""

from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hm4sr.nn.losses import KeptGradients, add_product, chunk_rows
from hm4sr.nn.ranks import Rows, counts, current, gather


def sharded_softmax_loss(
    hidden: Float[Tensor, "N Q"],
    part: Float[Tensor, "P Q"],
    bounds: list[int],
    targets: Int[Tensor, "N"],
    dtype: torch.dtype = torch.float32,
    score_padding: bool = False,
    of: Rows | None = None,
    raised: Int[Tensor, "N S"] | None = None,
    by: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """`losses.softmax_loss` over the whole catalogue, whose vectors no rank has all of.

    Every rank scores the rows of all ranks against its part of the items, and their normalisers are added
    up, one message for each chunk of rows. A rank's part of the loss is that of the targets it keeps: the
    sum over ranks is the mean over all rows. The gradient of `part` is whole at once; that of `hidden` is
    added up over ranks on its way back through `gather`.

    Args:
        hidden: what is known before each target of this rank.
        part: vectors of the items bounds[rank]..bounds[rank + 1].
        bounds: where the parts of all ranks begin and end.
        targets: item numbers.
        dtype: number format of the matrix products; sums are kept in float32.
        score_padding: whether padding (item 0) is a class of the softmax.
        of: what the rows of `hidden` are, as in `ranks.gather`.
        raised: items whose logits are raised by `by`, each at most once in a row; 0 is none.
        by: a number that is added to those logits.
    """
    if raised is None:
        (rows, wanted), _ = gather(hidden, targets, of=of)
    else:
        width = max(counts(raised.shape[1]))
        (rows, wanted, raised), _ = gather(
            hidden, targets, F.pad(raised, (0, width - raised.shape[1])), of=of
        )
    with torch.autocast(hidden.device.type, enabled=False):  # `dtype` alone decides
        loss: Tensor = _Softmax.apply(rows, part, wanted, bounds, dtype, score_padding, raised, by)  # type: ignore[no-untyped-call]
    return loss


class _Softmax(KeptGradients):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        part: Tensor,
        targets: Tensor,
        bounds: list[int],
        dtype: torch.dtype,
        score_padding: bool,
        raised: Tensor | None,
        by: Tensor | None,
    ) -> Tensor:
        rank = current().rank
        first, count = bounds[rank], len(hidden)
        w, h = part.detach().to(dtype), hidden.detach().to(dtype)
        needs_gradient = any(ctx.needs_input_grad)
        hidden_gradient = torch.empty_like(hidden) if needs_gradient else None
        part_gradient = torch.zeros_like(part) if needs_gradient else None
        by_gradient = None if by is None else torch.zeros_like(by)
        total = torch.zeros((), dtype=torch.float32, device=h.device)
        # By the largest part, so that all ranks cut alike.
        largest = max(stop - start for start, stop in pairwise(bounds))
        chunk = chunk_rows(max(count, 1), largest)
        for start in range(0, count, chunk):
            rows, wanted = h[start : start + chunk], targets[start : start + chunk] - first
            logits = rows @ w.T
            at_raised = None
            if raised is not None and by is not None:
                at_raised = _places(raised[start : start + chunk], first, len(w))
                logits.view(-1).index_add_(0, at_raised, by.detach().to(dtype).expand(at_raised.shape))
            if first == 0 and not score_padding:
                logits[:, 0] = -torch.inf
            normaliser = _over_ranks(logits.float().logsumexp(1))
            mine = ((wanted >= 0) & (wanted < len(w))).nonzero().squeeze(1)
            place = mine * len(w) + wanted[mine]
            total += (normaliser[mine] - logits.view(-1)[place].float()).sum()
            if hidden_gradient is not None and part_gradient is not None:
                probability = (logits.float() - normaliser[:, None]).exp_().to(dtype)
                probability.view(-1).index_add_(0, place, torch.full_like(place, -1, dtype=dtype))
                hidden_gradient[start : start + chunk] = probability @ w
                add_product(part_gradient, probability, rows)
                if at_raised is not None and by_gradient is not None:
                    by_gradient += probability.view(-1)[at_raised].float().sum()
        return KeptGradients.keep(ctx, total, count, hidden_gradient, part_gradient, by_gradient)


def _places(items: Int[Tensor, "C S"], first: int, count: int) -> Int[Tensor, "R"]:
    """Where items stand in the flattened logits of this rank's items first..first + count; 0 is left out."""
    row, column = ((items > 0) & (items >= first) & (items < first + count)).nonzero(as_tuple=True)
    return row * count + items[row, column] - first


def _over_ranks(normaliser: Float[Tensor, "C"]) -> Float[Tensor, "C"]:
    """The logarithm of the sum of all ranks' exponentials."""
    everyone = [torch.empty_like(normaliser) for _ in range(current().size)]
    dist.all_gather(everyone, normaliser)
    return torch.stack(everyone).logsumexp(0)
