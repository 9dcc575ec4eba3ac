"""Loss terms shared by the models; where ranks learn together, each is this rank's part (see `nn.ranks`)."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hm4sr.nn.ranks import Rows, current, gather, share

_CHUNK_ELEMENTS = 8_000_000
"""Logits alive at a time: 16 MB in bfloat16, 32 MB in float32."""
_ITEMS_AT_ONCE = 32_768
"""Items whose gradient is rounded to the products' number format before it is added: a few MB."""
_TINY = 1e-37


def softmax_loss(
    hidden: Float[Tensor, "N Q"],
    item_vectors: Float[Tensor, "U Q"],
    targets: Int[Tensor, "N"],
    dtype: torch.dtype = torch.float32,
    score_padding: bool = False,
    log_weights: Float[Tensor, "U"] | None = None,
    of: Rows | None = None,
    raised: Int[Tensor, "N S"] | None = None,
    by: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the given items (eq. 20), a chunk of rows at a time.

    The gradient of a chunk is computed while its logits are at hand, so that at most `_CHUNK_ELEMENTS` of
    them are alive; nothing of size N x V is kept for the backward pass.

    Args:
        hidden: what is known before each target.
        item_vectors: the whole catalogue (U = V) or a sample of it; row 0 is padding.
        targets: rows of `item_vectors`, from 1.
        dtype: number format of the matrix products; sums are kept in float32.
        score_padding: whether padding is a class of the softmax, as in RecBole.
        log_weights: how many items each one stands for, as a logarithm; a row's own target stands for itself.
            With one over the probability of being sampled, the normaliser is estimated without bias.
        of: what the rows of `hidden` are, for `ranks.share`.
        raised: rows of `item_vectors` whose logits are raised by `by`, each at most once in a row; 0 is none.
        by: a number that is added to those logits.
    """
    with torch.autocast(hidden.device.type, enabled=False):  # `dtype` alone decides
        loss: Tensor = _ChunkedSoftmax.apply(  # type: ignore[no-untyped-call]
            hidden, item_vectors, targets, dtype, score_padding, log_weights, raised, by
        )
    return share(loss, len(hidden), of)


class KeptGradients(torch.autograd.Function):
    """A mean whose gradients are computed on the way: for the first two of eight arguments, and the last."""

    @staticmethod
    def keep(
        ctx: Any, total: Tensor, rows: int, hidden: Tensor | None, vectors: Tensor | None, by: Tensor | None
    ) -> Tensor:
        """The mean of rows that sum to `total`; the gradients of the sum wait for the backward pass."""
        ctx.num_rows = max(rows, 1)  # a rank may have no row
        ctx.save_for_backward(hidden, vectors, by)
        mean: Tensor = total / ctx.num_rows
        return mean

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """In place, for a second copy has the catalogue's size; autograd refuses a second pass over them."""
        scale = gradient / ctx.num_rows
        hidden, vectors, by = (None if kept is None else kept.mul_(scale) for kept in ctx.saved_tensors)
        return hidden, vectors, None, None, None, None, None, by


class _ChunkedSoftmax(KeptGradients):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        item_vectors: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        score_padding: bool,
        log_weights: Tensor | None,
        raised: Tensor | None,
        by: Tensor | None,
    ) -> Tensor:
        needs_gradient = any(ctx.needs_input_grad)
        num_rows, w = len(hidden), item_vectors.detach().to(dtype)
        chunk = chunk_rows(max(num_rows, 1), len(w))
        # Rows of zeros fill up the last chunk: they add nothing to the gradient, and equal shapes are reused.
        h = F.pad(hidden.detach().to(dtype), (0, 0, 0, -num_rows % chunk))
        total = torch.zeros((), dtype=torch.float32, device=h.device)
        hidden_gradient = (
            torch.empty(h.shape, dtype=hidden.dtype, device=h.device) if needs_gradient else None
        )
        vector_gradient = torch.zeros_like(item_vectors) if needs_gradient else None
        by_gradient = None if by is None else torch.zeros_like(by)
        for start in range(0, num_rows, chunk):
            rows, wanted = h[start : start + chunk], targets[start : start + chunk, None]
            logits = rows @ w.T
            some = None if raised is None else raised[start : start + chunk]
            if some is not None and by is not None:
                padding = logits[:, 0].clone()
                logits[: len(wanted)].scatter_add_(1, some, by.detach().to(dtype).expand(some.shape))
                logits[:, 0] = padding
            if log_weights is not None:
                own = logits[: len(wanted)].gather(1, wanted)
                logits.add_(log_weights)
                logits[: len(wanted)].scatter_(1, wanted, own)
            if not score_padding:
                logits[:, 0] = -torch.inf
            if dtype == torch.float32:
                log_probability = logits.log_softmax(1)
                total -= log_probability[: len(wanted)].gather(1, wanted).sum()
                probability = log_probability.exp_()
            else:
                # The rounded probabilities are at hand anyway; a second pass for the exact sum would not pay.
                probability = logits.softmax(1)
                total -= probability[: len(wanted)].gather(1, wanted).float().clamp_min(_TINY).log().sum()
            if hidden_gradient is not None and vector_gradient is not None:
                # On the flat view: scatter_add_ would copy the whole chunk twice.
                place = torch.arange(len(wanted), device=h.device) * len(w) + wanted[:, 0]
                probability.view(-1).index_add_(0, place, torch.full_like(place, -1, dtype=dtype))
                hidden_gradient[start : start + chunk] = probability @ w
                add_product(vector_gradient, probability, rows)
                if some is not None and by_gradient is not None:
                    at_raised = probability[: len(wanted)].gather(1, some).float()
                    by_gradient += at_raised.masked_fill_(some == 0, 0.0).sum()
        if hidden_gradient is not None:
            hidden_gradient = hidden_gradient[:num_rows]
        return KeptGradients.keep(ctx, total, num_rows, hidden_gradient, vector_gradient, by_gradient)


def add_product(
    gradient: Float[Tensor, "U Q"], probability: Float[Tensor, "C U"], rows: Float[Tensor, "C Q"]
) -> None:
    """Add probability^T rows to the gradient in place, without a product of the catalogue's size."""
    if probability.dtype == gradient.dtype:
        gradient.addmm_(probability.T, rows)
        return
    for first in range(0, len(gradient), _ITEMS_AT_ONCE):
        items = slice(first, first + _ITEMS_AT_ONCE)
        gradient[items] += probability[:, items].T @ rows


def chunk_rows(num_rows: int, num_items: int) -> int:
    """Rows of a chunk: equal chunks, a multiple of 64 where that fits."""
    most = max(1, _CHUNK_ELEMENTS // num_items)
    rows = math.ceil(num_rows / math.ceil(num_rows / most))
    return min(most, math.ceil(rows / 64) * 64)


def in_batch_contrastive(
    queries: Float[Tensor, "N D"],
    keys: Float[Tensor, "A D"],
    not_negative: Bool[Tensor, "N A"],
    temperature: float,
    exclude: bool = True,
    first: int = 0,
    of: Rows | None = None,
) -> Float[Tensor, ""]:
    """Cosine InfoNCE in which row i's positive is its own key and the other keys are negatives (eq. 23, 25).

    Args:
        queries: one row a target.
        keys: the positive of each row, here and on the other ranks (`ranks.gather`; A = N in one process).
        not_negative: pairs that are no negatives, for example of the same target; what it says about a row's
            own key is ignored.
        temperature: divides the cosine.
        exclude: leave such pairs out of the sum; otherwise their logit is 0, as in the released code.
        first: where the keys of this rank's rows begin.
        of: what the rows of `queries` are, for `ranks.share`.
    """
    logits = (F.normalize(queries, dim=1) / temperature) @ F.normalize(keys, dim=1).T
    index = first + torch.arange(len(logits), device=logits.device)
    ignored = not_negative.scatter(1, index[:, None], False)
    loss = F.cross_entropy(logits.masked_fill_(ignored, -torch.inf if exclude else 0.0), index)
    return share(loss, len(queries), of)


def nt_xent(
    first: Float[Tensor, "N W"],
    second: Float[Tensor, "N W"],
    temperature: float,
    cosine: bool = False,
    of: Rows | None = None,
) -> Float[Tensor, ""]:
    """Contrast of two views of each row: every view looks for its twin among all other 2N - 1 views.

    The views of all ranks take part.

    Args:
        first: one view of each row.
        second: the other view.
        temperature: divides the dot product.
        cosine: compare directions alone.
        of: what the rows are, for `ranks.share`.
    """
    views = torch.cat([first, second])
    if cosine:
        views = F.normalize(views, dim=1)
    everyone, place = gather(*views.chunk(2), of=of)
    others = views if current().size == 1 else torch.cat(everyone)
    logits = (views / temperature) @ others.T
    row = place + torch.arange(len(first), device=views.device)
    own = torch.cat([row, row + len(everyone[0])])
    itself = torch.zeros_like(logits, dtype=torch.bool).scatter(1, own[:, None], True)
    loss = F.cross_entropy(logits.masked_fill(itself, -torch.inf), own.roll(len(first)))
    return share(loss, len(first), of)


def one_against_one(
    hidden: Float[Tensor, "N Q"],
    positives: Float[Tensor, "N Q"],
    negatives: Float[Tensor, "N Q"],
    kind: Literal["bce", "bpr"],
    of: Rows | None = None,
) -> Float[Tensor, ""]:
    """Losses with one negative a target: both judged by themselves (bce), or against each other (bpr)."""
    positive, negative = (hidden * positives).sum(1), (hidden * negatives).sum(1)
    if kind == "bpr":
        return share(F.softplus(negative - positive).mean(), len(hidden), of)
    return share((F.softplus(-positive) + F.softplus(negative)).mean(), len(hidden), of)


def category_loss(
    logits: Float[Tensor, "N C"], categories: Int[Tensor, "N P"], of: Rows | None = None
) -> Float[Tensor, ""]:
    """Binary cross-entropy with logits, mean over rows and categories (eq. 22).

    Args:
        logits: one column a category.
        categories: the categories (1..C) of each row, filled up with 0.
        of: what the rows are, for `ranks.share`.
    """
    truth = logits.new_zeros(len(logits), logits.shape[1] + 1).scatter_(1, categories, 1.0)[:, 1:]
    return share(F.binary_cross_entropy_with_logits(logits, truth), len(logits), of)
