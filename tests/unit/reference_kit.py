"""Models once more in plain torch: what their forward passes, written down in tests, have in common.

Dropout is random, so that a test without it cannot tell where a model has it. In these tests a fixed
function of the element's place stands for it: its presence, its place, its order beside other parts and its
probability are seen in the numbers.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contract.catalogs import small_model, without_noise
from hm4sr.models.base import SeqRecModel
from hm4sr.nn.dropout import Dropout
from hm4sr.types import Catalog, SeqBatch

P, PA = 0.25, 0.5
"""Dropout of vectors and of attention weights: of different size, so that one is not taken for the other."""
HEADS = 2
BERT_EPS = 1e-12


def drop(x: Tensor, p: float = P) -> Tensor:
    """What stands for dropout: each element of the last dimension times a number of its own, about 1."""
    return x * (1 + p * torch.cos(torch.arange(x.shape[-1], dtype=x.dtype)))


def visible(dropout: Dropout, x: Tensor) -> Tensor:
    """In place of `Dropout.forward`; p is kept as a multiple of 1 / 256."""
    return drop(x, dropout.dropped / 256) if dropout.training else x


def lively(name: str, catalog: Catalog | None = None, **settings: Any) -> SeqRecModel:
    """A model in training mode, its weights larger than at the start, biases and LayerNorms included."""
    noise = {key: P if "dropout" in key else 0.0 for key in without_noise(name)}
    noise |= {"attention_dropout": PA} if "attention_dropout" in noise else {}
    model = small_model(name, catalog, **noise | settings).train()
    rng = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.2)
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx == 0:
                module.weight[0] = 0.0
    return model.requires_grad_(False)


def normed(x: Tensor, layer: nn.LayerNorm, eps: float = BERT_EPS) -> Tensor:
    """Over the last dimension, from the definition."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * layer.weight + layer.bias


def future(events: int, each: int = 1) -> Tensor:
    """True where the key's event is after the query's; `each` tokens stand for an event."""
    event = torch.arange(events).repeat_interleave(each)
    return event[None, :] > event[:, None]


def attended(query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None) -> Tensor:
    """Scaled dot-product attention, head by head; `blocked` is B x L x T or less."""
    width, heads = query.shape[-1] // HEADS, []
    for h in range(HEADS):
        own = slice(h * width, (h + 1) * width)
        scores = query[..., own] @ key[..., own].transpose(-2, -1) / math.sqrt(width)
        if blocked is not None:
            scores = scores.masked_fill(blocked, -torch.inf)
        heads.append(drop(scores.softmax(-1), PA) @ value[..., own])
    return torch.cat(heads, dim=-1)


def completed(
    layer: nn.Module, x: Tensor, mixed: Tensor, activation: Callable[[Tensor], Tensor] = F.gelu
) -> Tensor:
    """After the attention of a post-LayerNorm block: LN(x + drop(.)), then LN(x + drop(W2 act(W1 x)))."""
    x = normed(x + drop(mixed), layer.norm_attention)
    return normed(x + drop(layer.contract(activation(layer.expand(x)))), layer.norm_out)


def encoded(encoder: nn.Module, x: Tensor, activation: Callable[[Tensor], Tensor] = F.gelu) -> Tensor:
    """drop(LN(x)), then causal post-LayerNorm blocks."""
    x = drop(normed(x, encoder.norm))
    for layer in encoder.layers:
        query, key, value = layer.attention.query_key_value(x).chunk(3, dim=-1)
        mixed = attended(query, key, value, future(x.shape[1]))
        x = completed(layer, x, layer.attention.out(mixed), activation)
    return x


def projected(model: SeqRecModel, name: str, center: bool = False) -> Tensor:
    """W f + b of every item, the learned vector where the modality is missing."""
    feature, projection = model.catalog.features[name], model.projections[name]
    vectors = feature.vectors
    if center:
        vectors = vectors - vectors[feature.present].mean(0)
    x = vectors @ projection.linear.weight.T + projection.linear.bias
    return torch.where(feature.present[:, None], x, projection.stand_in)


def newest(hidden: Tensor, batch: SeqBatch) -> Tensor:
    """What stands at the last event of each row."""
    return hidden[torch.arange(len(hidden)), batch.lengths - 1]


def next_item_loss(queries: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over all items but padding."""
    return F.cross_entropy((queries @ vectors.T)[:, 1:], targets - 1)


def two_views(first: Tensor, second: Tensor, temperature: float, cosine: bool) -> Tensor:
    """Every view looks for its twin among all other views, one by one."""
    views = torch.cat([first, second])
    if cosine:
        views = views / views.norm(dim=1, keepdim=True)
    N, total = len(first), torch.zeros(())
    for i in range(2 * N):
        logits = views @ views[i] / temperature
        others = torch.cat([logits[:i], logits[i + 1 :]])
        total += others.logsumexp(0) - logits[(i + N) % (2 * N)]
    return total / (2 * N)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def agrees(model: SeqRecModel, batch: SeqBatch, hidden: Tensor, vectors: Tensor | None = None) -> None:
    """The model's vectors at real events, after the last ones, and its main loss are those of `hidden`."""
    vectors = model.items.weight if vectors is None else vectors
    close(model.item_vectors(), vectors)
    if model.parallel:
        close(model.encode(batch)[batch.valid], hidden[batch.valid])
    close(model.last_hidden(batch), newest(hidden, batch))
    learned = batch.targets > 0
    close(model.losses(batch)["main"], next_item_loss(hidden[learned], vectors, batch.targets[learned]))
