"""Transformer layers that are not causal: over a set, and over a sequence that reads a set."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hm4sr.nn.attention import LAYER_NORM_EPS, TransformerLayer, attend, merge_heads, split_heads
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import linear, uniform


class MaskedAttention(nn.Module):
    """Multi-head attention over all keys that are not hidden, of the vectors themselves or of other ones.

    The maps of query, key and value are drawn as one Xavier-uniform matrix, the last one from N(0, 0.02).
    """

    def __init__(self, dim: int, heads: int, dropout: float, rng: torch.Generator):
        super().__init__()
        self.heads = heads
        bound = math.sqrt(6 / (4 * dim))
        self.query = linear(dim, dim, rng)
        self.query.weight = uniform(dim, dim, bound=bound, rng=rng)
        self.key_value = linear(dim, 2 * dim, rng)
        self.key_value.weight = uniform(2 * dim, dim, bound=bound, rng=rng)
        self.out = linear(dim, dim, rng)
        self.dropout = Dropout(dropout, rng)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        hidden: Bool[Tensor, "B T"],
        keys: Float[Tensor, "B T D"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Mix the keys into each position; every row must have a key that is not hidden."""
        (query,) = split_heads(self.query(x), 1, self.heads)
        key, value = split_heads(self.key_value(x if keys is None else keys), 2, self.heads)
        out: Tensor = self.out(merge_heads(attend(query, key, value, hidden[:, None, None], self.dropout)))
        return out


def _gelu_then_dropout(dropout: float, rng: torch.Generator) -> nn.Sequential:
    return nn.Sequential(nn.GELU(), Dropout(dropout, rng))


class SetLayer(TransformerLayer):
    """Attention of a set to itself, and feed-forward."""

    def __init__(
        self, dim: int, heads: int, inner: int, dropout: float, attention_dropout: float, rng: torch.Generator
    ):
        attention = MaskedAttention(dim, heads, attention_dropout, rng)
        super().__init__(dim, inner, dropout, rng, attention, _gelu_then_dropout(dropout, rng))


class ReadingLayer(SetLayer):
    """Attention of a sequence to itself, then to a set, and feed-forward."""

    def __init__(
        self, dim: int, heads: int, inner: int, dropout: float, attention_dropout: float, rng: torch.Generator
    ):
        super().__init__(dim, heads, inner, dropout, attention_dropout, rng)
        self.reading = MaskedAttention(dim, heads, attention_dropout, rng)
        self.norm_self = nn.LayerNorm(dim, LAYER_NORM_EPS)

    def forward(self, x: Float[Tensor, "B L D"], *context: Any) -> Float[Tensor, "B L D"]:
        """One layer, at the positions `x`.

        Args:
            x: positions that are wanted.
            context: what is hidden of the sequence, the set, what is hidden of the set, and the sequence, if
                `x` is not the whole of it.
        """
        hidden, memory, hidden_memory, *sequence = context
        x = self.norm_self(x + self.dropout(self.attention(x, hidden, *sequence)))
        return self.complete(x, self.reading(x, hidden_memory, memory))
