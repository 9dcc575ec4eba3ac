"""LRURec: a diagonal linear recurrence in place of attention."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from hm4sr.models.base import ModelConfig, SeqRecModel, register, rows_of
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import table_of, truncated_normal
from hm4sr.nn.recurrence import linear_recurrence
from hm4sr.types import Catalog, SeqBatch

_STD = 0.02


class LRURecConfig(ModelConfig):
    """Settings of LRURec."""

    dim: int = Field(64, gt=0)
    """Width of item and hidden vectors (D)."""
    layers: int = Field(2, gt=0)
    """Blocks of a recurrence and a feed-forward part."""
    expansion: int = Field(2, gt=0)
    """Complex states of a recurrence for each of the `dim` hidden values."""
    inner: int = Field(256, gt=0)
    """Width of the feed-forward part."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout of inputs and of the feed-forward part."""
    recurrence_dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout of what a recurrence gives."""
    slowest: float = Field(0.99, gt=0, lt=1)
    """Largest |lambda| at the start: how much of a state an event leaves over."""
    fastest: float = Field(0.8, ge=0, lt=1)
    """Smallest |lambda| at the start."""
    second_gelu: bool = False
    """GELU after the feed-forward part too, as the paper's formula has it and the authors' code has not."""

    @model_validator(mode="after")
    def _fastest_is_below_slowest(self) -> "LRURecConfig":
        if self.fastest >= self.slowest:
            raise ValueError(f"fastest = {self.fastest} is not less than slowest = {self.slowest}")
        return self


@register("lrurec")
class LRURec(SeqRecModel):
    """Linear recurrent units for sequential recommendation (Yue et al., WSDM 2024).

    No positions and no times. Histories stand on the left here, so that the state before the first event is
    zero without a mask. Items have an output bias: the vectors get one column more, a history's is 1. As in
    the authors' code the first event, too, is scaled by gamma, and GELU comes once in the feed-forward part;
    their loader also predicts the first event from nothing, which the common protocol leaves out. Their
    optimiser (AdamW, clipped gradients) is replaced by the common one.

    Complex weights are stored as pairs of real numbers; the imaginary half of the output bias, which nothing
    depends on, is left out. Attributes named `nu`, `theta` and `gamma` are logarithms.
    """

    Config = LRURecConfig
    item_tables = ("items", "bias")

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        self.items = _table(catalog.num_rows, c.dim, rng)
        self.bias = _table(catalog.num_rows, 1, rng)
        self.dropout = Dropout(c.dropout, rng)
        self.norm = nn.LayerNorm(c.dim)
        self.stack = nn.ModuleList(LRUBlock(c, rng) for _ in range(c.layers))

    def encode(self, batch: SeqBatch) -> Float[Tensor, "B L Q"]:
        """Hidden vector after each event, and a 1 for the bias (Q = dim + 1)."""
        x = self.norm(self.dropout(self.items(batch.items)))
        for block in self.stack:
            x = block(x)
        return F.pad(x, (0, 1), value=1.0)

    def item_vectors(self, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U Q"]:
        """Item table and output bias side by side."""
        return torch.cat([rows_of(self.items, items), rows_of(self.bias, items)], dim=1)


class LRUBlock(nn.Module):
    """A recurrence and a feed-forward part, each with dropout, residual and LayerNorm after it."""

    def __init__(self, config: Any, rng: torch.Generator):
        super().__init__()
        c = config
        states = c.expansion * c.dim
        self.nu, self.theta, self.gamma = _decays(states, c.fastest, c.slowest, rng)
        self.into_states = _linear(c.dim, 2 * states, rng)
        self.out_of_states = _linear(2 * states, c.dim, rng)
        self.norm_states = nn.LayerNorm(c.dim)
        self.expand = _linear(c.dim, c.inner, rng)
        self.contract = _linear(c.inner, c.dim, rng)
        self.norm_out = nn.LayerNorm(c.dim)
        self.dropout = Dropout(c.dropout, rng)
        self.recurrence_dropout = Dropout(c.recurrence_dropout, rng)
        self.second_gelu = c.second_gelu

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """One block."""
        x = self.norm_states(x + self.recurrence_dropout(self.recur(x)))
        change = self.contract(self.dropout(F.gelu(self.expand(x))))
        if self.second_gelu:
            change = F.gelu(change)
        out: Tensor = self.norm_out(x + self.dropout(change))
        return out

    def recur(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Re(W_out h + b_out) with h_t = lambda h_{t-1} + gamma (W_in x_t + b_in), in full precision."""
        with torch.autocast(x.device.type, enabled=False):
            decay = torch.polar(torch.exp(-torch.exp(self.nu)), torch.exp(self.theta))
            pairs = self.into_states(x.float()).unflatten(-1, (-1, 2)) * torch.exp(self.gamma)[:, None]
            states = linear_recurrence(torch.view_as_complex(pairs), decay)
            out: Tensor = self.out_of_states(torch.view_as_real(states).flatten(2))
            return out


def _decays(states: int, fastest: float, slowest: float, rng: torch.Generator) -> list[nn.Parameter]:
    """Logarithms nu, theta, gamma: |lambda| uniform on the ring between the radii, the inputs scaled to it.

    lambda = exp(-exp(nu) + i exp(theta)); gamma = log sqrt(1 - |lambda|^2) keeps the states' variance.
    """
    draws = torch.empty(2, states)
    if not draws.is_meta:
        draws.uniform_(generator=rng).clamp_(1e-6)
    nu = torch.log(-0.5 * torch.log(draws[0] * (slowest**2 - fastest**2) + fastest**2))
    theta = torch.log(2 * math.pi * draws[1])
    gamma = 0.5 * torch.log1p(-torch.exp(-2 * torch.exp(nu)))
    return [nn.Parameter(values) for values in (nu, theta, gamma)]


def _linear(inputs: int, outputs: int, rng: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, device="meta")
    layer.weight = truncated_normal(outputs, inputs, std=_STD, rng=rng)
    layer.bias = truncated_normal(outputs, std=_STD, rng=rng)
    return layer


def _table(rows: int, dim: int, rng: torch.Generator) -> nn.Embedding:
    table = truncated_normal(rows, dim, std=_STD, rng=rng)
    if not table.is_meta:
        table.data[0] = 0.0
    return table_of(table, padding=True)
