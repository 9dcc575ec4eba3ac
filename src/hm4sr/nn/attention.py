"""Causal Transformer encoder, post-LayerNorm as in BERT (paper eq. 17-18)."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import linear

LAYER_NORM_EPS = 1e-12


def split_heads(x: Float[Tensor, "B L W"], parts: int, heads: int) -> tuple[Tensor, ...]:
    """Cut `parts` projections that stand side by side (W = parts D) into heads: each B, H, L, D / H."""
    B, L, W = x.shape
    return tuple(x.view(B, L, parts, heads, W // (parts * heads)).permute(2, 0, 3, 1, 4))


def merge_heads(x: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
    """Heads side by side again (D = H d)."""
    return x.transpose(1, 2).flatten(2)


def future(length: int, device: torch.device, block: int = 1) -> Bool[Tensor, "L L"]:
    """True where the key (column) comes after the query (row); positions of one block see each other."""
    event = torch.arange(length, device=device) // block
    return event > event[:, None]


def attend(
    query: Float[Tensor, "B H L d"],
    key: Float[Tensor, "B H T d"],
    value: Float[Tensor, "B H T d"],
    blocked: Bool[Tensor, "..."],
    dropout: Dropout,
) -> Float[Tensor, "B H L d"]:
    """Scaled dot-product attention with dropout of its weights.

    Args:
        query: what looks.
        key: what is looked at.
        value: what is mixed.
        blocked: pairs of a query and a key that must not meet; no query may be left without a key.
        dropout: of the weights.
    """
    scores = (query @ key.transpose(2, 3)) / math.sqrt(query.shape[-1])
    weights = scores.masked_fill(blocked, -torch.inf).softmax(-1)
    mixed: Tensor = dropout(weights) @ value
    return mixed


def newest(x: Float[Tensor, "B L D"], lengths: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
    """What stands at the newest event of each row."""
    return x.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, x.shape[-1])).squeeze(1)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and earlier ones.

    Rows are left-aligned, so padding always lies in the future of a real position and needs no mask.

    Args:
        dim: width of the vectors.
        heads: must divide `dim`.
        dropout: of the attention weights.
        rng: source of the weights and of dropout.
        bias: whether the four linear maps have one.
        block: neighbouring positions that stand for one event and see each other.
    """

    def __init__(
        self, dim: int, heads: int, dropout: float, rng: torch.Generator, bias: bool = True, block: int = 1
    ):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim ({dim}) must be a multiple of heads ({heads})")
        self.heads = heads
        self.block = block
        self.query_key_value = linear(dim, 3 * dim, rng, bias=bias)
        self.out = linear(dim, dim, rng, bias=bias)
        self.dropout = Dropout(dropout, rng)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Mix each position with its past."""
        query, key, value = split_heads(self.query_key_value(x), 3, self.heads)
        if self.training:
            mixed = attend(query, key, value, future(x.shape[1], x.device, self.block), self.dropout)
        elif self.block == 1:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            seen = ~future(x.shape[1], x.device, self.block)
            mixed = F.scaled_dot_product_attention(query, key, value, seen)
        out: Tensor = self.out(merge_heads(mixed))
        return out

    def newest(
        self, x: Float[Tensor, "B L D"], wanted: Float[Tensor, "B 1 D"], lengths: Int[Tensor, "B"]
    ) -> Float[Tensor, "B 1 D"]:
        """The same at the newest event of each row alone; `wanted` is what stands there in `x`."""
        assert self.block == 1, "a block of several positions is not looked at from one of them"
        layer, D = self.query_key_value, x.shape[2]
        bias = (None, None) if layer.bias is None else (layer.bias[:D], layer.bias[D:])
        (query,) = split_heads(F.linear(wanted, layer.weight[:D], bias[0]), 1, self.heads)
        key, value = split_heads(F.linear(x, layer.weight[D:], bias[1]), 2, self.heads)
        later = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
        out: Tensor = self.out(merge_heads(attend(query, key, value, later[:, None, None], self.dropout)))
        return out


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each with dropout, residual and LayerNorm after it.

    Args:
        dim: width of the vectors.
        inner: width of the feed-forward part.
        dropout: of the residual branches.
        rng: source of the weights and of dropout.
        attention: mixes positions; it is called with `x` and whatever else the layer is given.
        activation: of the feed-forward part.
    """

    def __init__(
        self,
        dim: int,
        inner: int,
        dropout: float,
        rng: torch.Generator,
        attention: nn.Module,
        activation: Callable[[Tensor], Tensor] = F.gelu,
    ):
        super().__init__()
        self.attention = attention
        self.norm_attention = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.expand = linear(dim, inner, rng)
        self.contract = linear(inner, dim, rng)
        self.norm_out = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.dropout = Dropout(dropout, rng)
        self.activation = activation

    def forward(self, x: Float[Tensor, "B L D"], *context: Any) -> Float[Tensor, "B L D"]:
        """One layer; `context` is what the attention reads beside `x`."""
        return self.complete(x, self.attention(x, *context))

    def complete(
        self, x: Float[Tensor, "*rows D"], attended: Float[Tensor, "*rows D"]
    ) -> Float[Tensor, "*rows D"]:
        """What follows the attention, at all positions or at some."""
        x = self.norm_attention(x + self.dropout(attended))
        out: Tensor = self.norm_out(x + self.dropout(self.contract(self.activation(self.expand(x)))))
        return out


class SequenceEncoder(nn.Module):
    """LayerNorm and dropout on the input, then causal Transformer layers (paper eq. 17-18)."""

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        inner: int,
        dropout: float,
        attention_dropout: float,
        rng: torch.Generator,
        bias: bool = True,
        activation: Callable[[Tensor], Tensor] = F.gelu,
    ):
        super().__init__()
        self.norm = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.dropout = Dropout(dropout, rng)
        self.layers = nn.ModuleList(
            TransformerLayer(
                dim,
                inner,
                dropout,
                rng,
                CausalSelfAttention(dim, heads, attention_dropout, rng, bias),
                activation,
            )
            for _ in range(layers)
        )

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Encode rows of left-aligned sequences; position l knows events 0..l."""
        x = self.dropout(self.norm(x))
        for layer in self.layers:
            x = layer(x)
        return x

    def newest(self, x: Float[Tensor, "B L D"], lengths: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """What `forward` gives at the newest event of each row; the last layer is computed there alone."""
        x = self.dropout(self.norm(x))
        for layer in self.layers[:-1]:
            x = layer(x)
        top: Any = self.layers[-1]
        wanted = newest(x, lengths)[:, None]
        out: Tensor = top.complete(wanted, top.attention.newest(x, wanted, lengths))[:, 0]
        return out
