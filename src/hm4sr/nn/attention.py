"""Causal Transformer encoder, post-LayerNorm as in BERT (paper eq. 17-18)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import linear

LAYER_NORM_EPS = 1e-12


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
        B, L, D = x.shape
        heads = self.query_key_value(x).view(B, L, 3, self.heads, D // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each B, heads, L, D / heads
        if self.training:
            scores = (query @ key.transpose(2, 3)) / math.sqrt(D // self.heads)
            weights = scores.masked_fill(self._future(L, x.device), -torch.inf).softmax(-1)
            mixed = self.dropout(weights) @ value
        elif self.block == 1:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, ~self._future(L, x.device))
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(B, L, D))
        return out

    def _future(self, length: int, device: torch.device) -> Bool[Tensor, "L L"]:
        """Which keys each position must not see."""
        event = torch.arange(length, device=device) // self.block
        return event > event[:, None]


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

    def forward(self, x: Float[Tensor, "B L D"], *context: Tensor) -> Float[Tensor, "B L D"]:
        """One layer; `context` is what the attention reads beside `x`."""
        return self.feed_forward(self.norm_attention(x + self.dropout(self.attention(x, *context))))

    def feed_forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The second half of the layer."""
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
