"""TiSASRec: self-attention with the time between any two events."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from hm4sr.models.base import ModelConfig, SeqRecModel, register
from hm4sr.nn.attention import TransformerLayer
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import embedding, linear, xavier_std
from hm4sr.nn.intervals import IntervalAttention, personal_intervals, present_intervals
from hm4sr.nn.ranks import gather, once
from hm4sr.types import Catalog, SeqBatch

_EPS = 1e-8
_STD = 0.02
"""Initial scale of SASRec."""


class TiSASRecConfig(ModelConfig):
    """Settings of TiSASRec."""

    dim: int = Field(64, gt=0)
    """Width of item and hidden vectors (D)."""
    layers: int = Field(2, gt=0)
    """Blocks of attention and feed-forward part."""
    heads: int = Field(2, gt=0)
    """Attention heads; must divide `dim`."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout of inputs, tables, attention weights and the feed-forward part."""
    max_interval: int = Field(256, gt=0)
    """k: intervals of more than k personal units count as k."""
    blocks: Literal["authors", "sasrec"] = "authors"
    """Blocks of the authors' code, or those of SASRec, with intervals in their attention."""
    inner: int = Field(256, gt=0)
    """Width of the feed-forward part of SASRec's blocks; the authors' have width `dim`."""
    personal_unit: Literal["prefix", "row"] = "prefix"
    """Where the shortest interval, the unit of the others, is looked for: in the events so far, or in the
    whole training row, the later ones included, as the authors do."""
    loss: Literal["softmax", "bce"] = "softmax"
    """Cross-entropy over the catalogue, or each target and one random item judged by themselves."""
    embedding_penalty: float = Field(0.0, ge=0)
    """Weight of half the squared length of all tables; 5e-5 in the authors' code."""

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> "TiSASRecConfig":
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide dim = {self.dim}")
        return self


@register("tisasrec")
class TiSASRec(SeqRecModel):
    """Time interval aware self-attention (Li et al., WSDM 2020).

    Laid out as the authors' code: item vectors scaled by sqrt(D), LayerNorm of the queries alone, the
    residual from the normalised query, no projection after the heads, a feed-forward part of width D with
    ReLU, a last LayerNorm. Positions and intervals have tables for keys and values, shared by all blocks.
    `blocks = "sasrec"` puts the same attention into SASRec's layout and initial scale instead: LayerNorm of
    the item vectors and after each part, a projection after the heads, a feed-forward part of width `inner`
    with GELU.

    Different from it: several heads (theirs works with one); cross-entropy over all items unless `loss` says
    otherwise; the personal unit of time is that of the events so far, which needs no later event
    (`personal_unit`); positions count from the oldest kept event; dropout of an interval's vector falls on a
    table row in the whole batch, not on each pair of events.
    """

    Config = TiSASRecConfig

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        self.items = self._table(catalog.num_rows, rng, padding=True)
        self.position_keys, self.position_values = (self._table(catalog.max_length, rng) for _ in range(2))
        self.interval_keys, self.interval_values = (self._table(c.max_interval + 1, rng) for _ in range(2))
        self.stack = nn.ModuleList(self._block(rng) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim, _EPS)
        self.dropout = Dropout(c.dropout, rng)

    def _table(self, rows: int, rng: torch.Generator, padding: bool = False) -> nn.Embedding:
        c = self.config
        std = xavier_std(rows, c.dim) if c.blocks == "authors" else _STD
        return embedding(rows, c.dim, rng, std=std, padding=padding)

    def _block(self, rng: torch.Generator) -> nn.Module:
        c = self.config
        if c.blocks == "authors":
            return IntervalBlock(c.dim, c.heads, c.dropout, rng)
        return TransformerLayer(
            c.dim, c.inner, c.dropout, rng, ProjectedIntervals(c.dim, c.heads, c.dropout, rng)
        )

    def encode(self, batch: SeqBatch) -> Float[Tensor, "B L Q"]:
        """Hidden vector after each event (Q = dim)."""
        authors = self.config.blocks == "authors"
        x = self.items(batch.items)
        x = self.dropout(x * math.sqrt(self.config.dim) if authors else self.norm(x))
        whole_row = self.config.personal_unit == "row"
        intervals = personal_intervals(batch.times, self.config.max_interval, whole_row)
        positions = tuple(
            self.dropout(table.weight[: x.shape[1]].expand(x.shape))
            for table in (self.position_keys, self.position_values)
        )
        tables = (self.dropout(self.interval_keys.weight), self.dropout(self.interval_values.weight))
        # Elsewhere the host would wait for the number of rows; a graph is made for one number.
        if intervals.is_cpu and not (torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()):
            intervals, rows = present_intervals(intervals, self.config.max_interval)
            tables = (tables[0].index_select(0, rows), tables[1].index_select(0, rows))
        for block in self.stack:
            x = block(x, intervals, positions, tables)
        hidden: Tensor = self.norm(x) if authors else x
        return hidden

    def losses(self, batch: SeqBatch) -> dict[str, Float[Tensor, ""]]:
        """The main loss, and the penalty of long table rows if there is one."""
        if self.config.loss == "softmax":
            terms = super().losses(batch)
        else:
            terms = {"main": self.one_negative_loss(batch, "bce")}
        if self.config.embedding_penalty:
            terms["penalty"] = self.config.embedding_penalty * self._squared_length(batch)
        return terms

    def _squared_length(self, batch: SeqBatch) -> Float[Tensor, ""]:
        """Half the squares of all tables; of the batch's items alone where a step touches only a sample."""
        touched = torch.unique(gather(batch.items.flatten())[0][0]) if self.negatives else None
        items = self.item_vectors(touched)
        others = (self.position_keys, self.position_values, self.interval_keys, self.interval_values)
        return once(0.5 * sum((table.weight.square().sum() for table in others), items.square().sum()))


class IntervalBlock(nn.Module):
    """Attention with intervals, then a feed-forward part."""

    def __init__(self, dim: int, heads: int, dropout: float, rng: torch.Generator):
        super().__init__()
        self.norm_queries = nn.LayerNorm(dim, _EPS)
        std = xavier_std(dim, dim)
        self.attention = IntervalAttention(dim, heads, dropout, rng, std)
        self.norm_inner = nn.LayerNorm(dim, _EPS)
        self.expand, self.contract = linear(dim, dim, rng, std=std), linear(dim, dim, rng, std=std)
        self.dropout = Dropout(dropout, rng)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        intervals: Int[Tensor, "B L L"],
        positions: tuple[Tensor, ...],
        tables: tuple[Tensor, ...],
    ) -> Float[Tensor, "B L D"]:
        """One block."""
        queries = self.norm_queries(x)
        x = self.norm_inner(queries + self.attention(queries, x, intervals, positions, tables))
        out: Tensor = x + self.dropout(self.contract(self.dropout(F.relu(self.expand(x)))))
        return out


class ProjectedIntervals(nn.Module):
    """Attention with intervals whose queries are made of what keys are made of, and whose heads are mixed."""

    def __init__(self, dim: int, heads: int, dropout: float, rng: torch.Generator):
        super().__init__()
        self.attention = IntervalAttention(dim, heads, dropout, rng, _STD)
        self.out = linear(dim, dim, rng, std=_STD)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        intervals: Int[Tensor, "B L L"],
        positions: tuple[Tensor, ...],
        tables: tuple[Tensor, ...],
    ) -> Float[Tensor, "B L D"]:
        """Mix each position with its past."""
        mixed: Tensor = self.out(self.attention(x, x, intervals, positions, tables))
        return mixed
