"""Causal Transformer encoder, post-LayerNorm as in BERT (paper eq. 17-18)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import linear

LAYER_NORM_EPS = 1e-12


def take_position(x: Float[Tensor, "B L D"], position: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
    """One position of each row."""
    return x.gather(1, position[:, None, None].expand(-1, 1, x.shape[-1])).squeeze(1)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and earlier ones.

    Rows are left-aligned, so padding always lies in the future of a real position and needs no mask.
    """

    def __init__(self, dim: int, heads: int, dropout: float, rng: torch.Generator):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim ({dim}) must be a multiple of heads ({heads})")
        self.heads = heads
        self.query_key_value = linear(dim, 3 * dim, rng)
        self.out = linear(dim, dim, rng)
        self.dropout = Dropout(dropout, rng)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Mix each position with its past."""
        B, L, D = x.shape
        heads = self.query_key_value(x).view(B, L, 3, self.heads, D // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each B, heads, L, D / heads
        if self.training:
            scores = (query @ key.transpose(2, 3)) / math.sqrt(D // self.heads)
            future = torch.ones(L, L, dtype=torch.bool, device=x.device).triu(1)
            weights = scores.masked_fill(future, -torch.inf).softmax(-1)
            mixed = self.dropout(weights) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(B, L, D))
        return out

    def at(self, x: Float[Tensor, "B L D"], position: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """What `forward` gives at one position of each row, without dropout."""
        B, L, D = x.shape
        to_query, to_key_value = torch.split(self.query_key_value.weight, [D, 2 * D])
        bias_query, bias_key_value = torch.split(self.query_key_value.bias, [D, 2 * D])
        query = F.linear(take_position(x, position), to_query, bias_query).view(B, self.heads, 1, -1)
        heads = F.linear(x, to_key_value, bias_key_value).view(B, L, 2, self.heads, D // self.heads)
        key, value = heads.permute(2, 0, 3, 1, 4)
        past = torch.arange(L, device=x.device) <= position[:, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=past[:, None, None])
        out: Tensor = self.out(mixed.reshape(B, D))
        return out


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each with dropout, residual and LayerNorm after it."""

    def __init__(
        self, dim: int, heads: int, inner: int, dropout: float, attention_dropout: float, rng: torch.Generator
    ):
        super().__init__()
        self.attention = CausalSelfAttention(dim, heads, attention_dropout, rng)
        self.norm_attention = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.expand = linear(dim, inner, rng)
        self.contract = linear(inner, dim, rng)
        self.norm_out = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.dropout = Dropout(dropout, rng)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """One layer."""
        return self._feed_forward(self.norm_attention(x + self.dropout(self.attention(x))))

    def at(self, x: Float[Tensor, "B L D"], position: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """What the layer gives at one position of each row, without dropout."""
        own = take_position(x, position)
        return self._feed_forward(self.norm_attention(own + self.attention.at(x, position)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm_out(x + self.dropout(self.contract(F.gelu(self.expand(x)))))
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
    ):
        super().__init__()
        self.norm = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.dropout = Dropout(dropout, rng)
        self.layers = nn.ModuleList(
            TransformerLayer(dim, heads, inner, dropout, attention_dropout, rng) for _ in range(layers)
        )

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Encode rows of left-aligned sequences; position l knows events 0..l."""
        x = self.dropout(self.norm(x))
        for layer in self.layers:
            x = layer(x)
        return x

    def at(self, x: Float[Tensor, "B L D"], position: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """What the encoder gives at one position of each row, without dropout.

        Judging and serving need the last event alone, which spares most of the last layer.
        """
        x = self.norm(x)
        for layer in self.layers[:-1]:
            x = layer(x)
        last = self.layers[-1]
        assert isinstance(last, TransformerLayer)
        return last.at(x, position)
