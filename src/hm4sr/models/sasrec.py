"""SASRec, the anchor of the comparison."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hm4sr.models.base import SeqRecModel, TransformerConfig, register
from hm4sr.nn.attention import SequenceEncoder
from hm4sr.nn.init import embedding
from hm4sr.types import Catalog, SeqBatch


@register("sasrec")
class SASRec(SeqRecModel):
    """Self-attentive sequential recommendation (Kang & McAuley, ICDM 2018).

    As in RecBole: post-LayerNorm blocks and cross-entropy over all items, which is stronger than the
    original's binary loss with one negative.
    """

    Config = TransformerConfig
    shardable = True

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        self.items = embedding(catalog.num_rows, c.dim, rng, padding=True)
        self.positions = embedding(catalog.max_length, c.dim, rng)
        self.encoder = SequenceEncoder(c.dim, c.layers, c.heads, c.inner, c.dropout, c.attention_dropout, rng)

    def encode(self, batch: SeqBatch) -> Float[Tensor, "B L Q"]:
        """Hidden vector after each event (Q = dim)."""
        hidden: Tensor = self.encoder(self._embed(batch))
        return hidden

    def last_hidden(self, batch: SeqBatch) -> Float[Tensor, "B Q"]:
        """Vector of each whole history."""
        return self.encoder.newest(self._embed(batch), batch.lengths)

    def _embed(self, batch: SeqBatch) -> Float[Tensor, "B L D"]:
        embedded: Tensor = self.items(batch.items) + self.positions.weight[: batch.items.shape[1]]
        return embedded
