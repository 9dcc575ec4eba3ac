"""DIF-SR: side information shapes the attention and stays out of the values."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from hm4sr.models.base import SeqRecModel, TransformerConfig, register
from hm4sr.nn.attention import LAYER_NORM_EPS, TransformerLayer, future, merge_heads, split_heads
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import embedding, linear
from hm4sr.nn.losses import category_loss
from hm4sr.types import Catalog, SeqBatch

Fusion = Literal["sum", "concat", "gate"]


class DIFSRConfig(TransformerConfig):
    """Settings of DIF-SR."""

    attribute_dim: int = Field(32, gt=0)
    """Width of a category's vector; `heads` must divide it."""
    fusion: Fusion = "gate"
    """How the scores of IDs, positions and categories become one."""
    causal_fusion: bool = False
    """Hide the scores of later events from gate and concat: one pass over all positions is then exact."""
    attribute_weight: float = Field(10.0, ge=0)
    """lambda, weight of predicting the categories of the answer."""
    train_attributes: bool = True
    """Whether the categories' vectors learn; the released code leaves them at their random start, N(0, 1)."""

    @model_validator(mode="after")
    def _heads_divide_attribute_dim(self) -> "DIFSRConfig":
        if self.attribute_dim % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide attribute_dim = {self.attribute_dim}")
        return self


class ScoreFusion(nn.Module):
    """One score for each query and key from those of several sources (DIF-SR, section 4.2.3).

    `concat` and `gate` read whole rows of scores: they look at every key of a query at once. A row is
    `length` wide; narrower ones count as filled up with zeros.
    """

    def __init__(self, kind: Fusion, sources: int, length: int, rng: torch.Generator):
        super().__init__()
        self.kind, self.length = kind, length
        if kind == "concat":
            self.row = linear(sources * length, length, rng)
        elif kind == "gate":
            self.row = linear(length, length, rng)
            self.energy = linear(length, 1, rng)

    def forward(
        self, scores: list[Float[Tensor, "#B H L L"]], hidden_keys: Bool[Tensor, "#B 1 #L L"]
    ) -> Float[Tensor, "B H L L"]:
        """Fuse; the scores of `hidden_keys` count as 0 where rows are read."""
        if self.kind == "sum":
            return _stack(scores, 0).sum(0)
        L, P = scores[0].shape[-1], self.length
        shown = [part.masked_fill(hidden_keys, 0.0) for part in scores]
        stacked = _stack(shown, 3)  # B H L sources L
        if self.kind == "concat":
            weight = self.row.weight.view(P, -1, P)[:L, :, :L].flatten(1)
            return F.linear(stacked.flatten(3), weight, self.row.bias[:L])
        energy = self.energy(F.linear(stacked, self.row.weight[:, :L], self.row.bias).relu())
        fused: Tensor = (energy.softmax(3) * stacked).sum(3)
        return fused


def _stack(parts: list[Tensor], dim: int) -> Tensor:
    """Tensors side by side; those of the positions are the same for all rows."""
    alike: tuple[Tensor, ...] = torch.broadcast_tensors(*parts)  # type: ignore[no-untyped-call]
    return torch.stack(alike, dim=dim)


class DecoupledAttention(nn.Module):
    """Attention whose scores come from items, positions and attributes apart, and whose values from items."""

    def __init__(
        self, config: DIFSRConfig, attribute_dim: int, length: int, dropout: float, rng: torch.Generator
    ):
        super().__init__()
        dim, self.heads = config.dim, config.heads
        self.causal_fusion = config.causal_fusion
        self.query_key_value = linear(dim, 3 * dim, rng)
        self.position = linear(dim, 2 * dim, rng)
        self.attribute = linear(attribute_dim, 2 * attribute_dim, rng) if attribute_dim else None
        self.fusion = ScoreFusion(config.fusion, 3 if attribute_dim else 2, length, rng)
        self.out = linear(dim, dim, rng)
        self.dropout = Dropout(dropout, rng)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        positions: Float[Tensor, "L D"],
        attributes: Float[Tensor, "B L A"],
        valid: Bool[Tensor, "B L"],
    ) -> Float[Tensor, "B L D"]:
        """Mix each position's past; positions and attributes only say how much of what."""
        query, key, value = split_heads(self.query_key_value(x), 3, self.heads)
        pairs = [(query, key), split_heads(self.position(positions[None]), 2, self.heads)]
        if self.attribute is not None:
            pairs.insert(0, split_heads(self.attribute(attributes), 2, self.heads))
        sources = [query @ key.transpose(2, 3) for query, key in pairs]
        blocked = future(x.shape[1], x.device)
        padding = ~valid[:, None, None]
        fused = self.fusion(sources, padding | blocked if self.causal_fusion else padding)
        scores = fused / math.sqrt(value.shape[-1])
        weights = self.dropout(scores.masked_fill(blocked, -torch.inf).softmax(-1))
        out: Tensor = self.out(merge_heads(weights.to(value.dtype) @ value))
        return out


@register("difsr")
class DIFSR(SeqRecModel):
    """Decoupled side information fusion (Xie et al., SIGIR 2022), with categories as side information.

    Items are read without position; positions and the summed vectors of an item's categories enter every
    layer's attention scores alone. A second term predicts the categories of the answer.

    `gate` and `concat` read whole rows of scores, later events included, so they are trained on prefixes;
    `sum` and `causal_fusion` are exact in one pass over all positions. Beside the original: scores of padding
    count as 0 in those rows (there: as those of a random vector), a category counts once for an item (there:
    as often as it is listed), and the categories' vectors learn (`train_attributes`). A catalogue without
    categories leaves IDs and positions.
    """

    Config = DIFSRConfig
    parallel = False
    categories: Tensor

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        self.parallel = c.fusion == "sum" or c.causal_fusion
        self.items = embedding(catalog.num_rows, c.dim, rng, padding=True)
        self.positions = embedding(catalog.max_length, c.dim, rng)
        self.attributes, self.attribute_head, width = None, None, 0
        if catalog.categories is not None:
            width, rows = c.attribute_dim, catalog.num_categories + 1
            std = 0.02 if c.train_attributes else 1.0
            self.attributes = embedding(rows, width, rng, std=std, padding=True)
            self.attributes.weight.requires_grad_(c.train_attributes)
            self.register_buffer("categories", catalog.categories.to(torch.empty(0).device), persistent=False)
        self.norm = nn.LayerNorm(c.dim, LAYER_NORM_EPS)
        self.dropout = Dropout(c.dropout, rng)
        self.layers = nn.ModuleList(
            TransformerLayer(
                c.dim,
                c.inner,
                c.dropout,
                rng,
                DecoupledAttention(c, width, catalog.max_length, c.attention_dropout, rng),
            )
            for _ in range(c.layers)
        )
        if catalog.categories is not None and c.attribute_weight:
            self.attribute_head = linear(c.dim, catalog.num_categories + 1, rng)

    def encode(self, batch: SeqBatch) -> Float[Tensor, "B L Q"]:
        """Hidden vector after each event (Q = dim)."""
        length = batch.items.shape[1]
        x: Tensor = self.dropout(self.norm(self.items(batch.items)))
        attributes = x.new_zeros(*batch.items.shape, 0)
        if self.attributes is not None:
            attributes = self.attributes(F.embedding(batch.items, self.categories)).sum(2)
        for layer in self.layers:
            x = layer(x, self.positions.weight[:length], attributes, batch.valid)
        return x

    def losses(self, batch: SeqBatch) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of the targets, and of their categories."""
        hidden = self.hidden_at_targets(batch)
        terms = {"main": self.main_loss(hidden, self.view(batch))}
        if self.attribute_head is not None:
            logits = self.attribute_head(hidden)[:, 1:]  # without the class of padding
            truth = F.embedding(batch.at_targets(batch.targets), self.categories)
            terms["attributes"] = self.config.attribute_weight * category_loss(logits, truth, "targets")
        return terms
