"""GRU4Rec: a recurrent network over the history."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from hm4sr.models.base import ModelConfig, SeqRecModel, register
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import embedding, linear, uniform, xavier_std
from hm4sr.types import Catalog, SeqBatch


class GRU4RecConfig(ModelConfig):
    """Settings of GRU4Rec."""

    dim: int = Field(64, gt=0)
    """Width of item vectors (D)."""
    hidden: int = Field(64, gt=0)
    """Width of the recurrent state; 128 in RecBole."""
    layers: int = Field(1, gt=0)
    """Recurrent layers."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout of the item vectors of the history."""
    loss: Literal["softmax", "bpr"] = "softmax"
    """Cross-entropy over the catalogue, or each target against one random item (BPR)."""


@register("gru4rec")
class GRU4Rec(SeqRecModel):
    """Gated recurrent units over the items of a history (Hidasi et al., ICLR 2016; Tan et al., DLRS 2016).

    As in RecBole: gates without bias, a linear map from the state to the item space, output vectors tied to
    the input vectors, and cross-entropy over all items. The original trains sessions in parallel with the
    state carried over, and takes its negatives from the batch.
    """

    Config = GRU4RecConfig

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        std = xavier_std(catalog.num_rows, c.dim)
        self.items = embedding(catalog.num_rows, c.dim, rng, std=std, padding=True)
        self.dropout = Dropout(c.dropout, rng)
        self.recurrent = _gru(c.dim, c.hidden, c.layers, rng)
        self.out = linear(c.hidden, c.dim, rng, std=None)

    def encode(self, batch: SeqBatch) -> Float[Tensor, "B L Q"]:
        """Vector of the state after each event (Q = dim)."""
        states, _ = self.recurrent(self.dropout(self.items(batch.items)))
        vectors: Tensor = self.out(states)
        return vectors

    def losses(self, batch: SeqBatch) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy over the catalogue, or BPR."""
        if self.config.loss == "softmax":
            return super().losses(batch)
        return {"main": self.one_negative_loss(batch, "bpr")}


def _gru(inputs: int, hidden: int, layers: int, rng: torch.Generator) -> nn.GRU:
    """Gates without bias: the first layer's matrices uniform by Glorot, the others' as torch does."""
    gru = nn.GRU(inputs, hidden, layers, bias=False, batch_first=True, device="meta")
    for layer in range(layers):
        for name in (f"weight_ih_l{layer}", f"weight_hh_l{layer}"):
            rows, columns = getattr(gru, name).shape
            first = math.sqrt(3) * xavier_std(columns, rows)
            bound = first if layer == 0 else 1 / math.sqrt(hidden)
            setattr(gru, name, uniform(rows, columns, bound=bound, rng=rng))
    return gru
