"""Attention that knows the time between two events (TiSASRec)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hm4sr.nn.attention import future, merge_heads, split_heads
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import linear

_NEVER = 2**62
_STEP = 64


def personal_intervals(
    times: Int[Tensor, "B L"], largest: int, whole_row: bool = False
) -> Int[Tensor, "B L L"]:
    """min(largest, floor(|t_i - t_j| / r)), r the shortest time above 0 between two neighbouring events.

    Row i looks for r among the events 0..i, so that a later event changes nothing before it.

    Args:
        times: seconds, ascending; padding repeats the last one.
        largest: k, where longer intervals are cut off.
        whole_row: look for one r in all events of the row.
    """
    gaps = times[:, 1:] - times[:, :-1]
    gaps = torch.cat([torch.full_like(times[:, :1], _NEVER), torch.where(gaps > 0, gaps, _NEVER)], dim=1)
    unit = gaps.amin(1, keepdim=True) if whole_row else _running_minimum(gaps)
    unit = torch.where(unit == _NEVER, 1, unit)
    apart = (times[:, :, None] - times[:, None, :]).abs()
    return apart.div(unit[:, :, None], rounding_mode="floor").clamp_max(largest)


def _running_minimum(gaps: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    if not torch.onnx.is_in_onnx_export():
        return gaps.cummin(1).values
    # That has no counterpart in ONNX.
    return gaps[:, None].masked_fill(future(gaps.shape[1], gaps.device), _NEVER).amin(2)


def present_intervals(
    intervals: Int[Tensor, "B L L"], largest: int
) -> tuple[Int[Tensor, "B L L"], Int[Tensor, " R"]]:
    """Number the intervals that occur, so that tables need no others; short histories have few.

    Args:
        intervals: 0 to `largest`.
        largest: k.

    Returns:
        their numbers, and the interval of each number; then zeros up to a multiple of 64, since each new
        shape costs the compilation of a kernel.
    """
    occurs = torch.zeros(largest + 1, dtype=torch.bool, device=intervals.device)
    occurs[intervals.flatten()] = True
    found = occurs.nonzero()[:, 0]
    numbers = occurs.cumsum(0) - 1
    wanted = min(-len(found) % _STEP, largest + 1 - len(found))
    return numbers[intervals], torch.cat([found, found.new_zeros(wanted)])


class IntervalAttention(nn.Module):
    """Causal attention whose keys and values depend on the interval between query and key.

    e_ij = q_i . (k_j + K[r_ij]) / sqrt(d) and o_i = sum_j a_ij (v_j + V[r_ij]), K and V tables of intervals.
    All products of a query with the table are formed at once and picked by r; the weights are summed up by r
    before they meet the table. So no tensor of size B x L x L x D comes up.
    """

    def __init__(self, dim: int, heads: int, dropout: float, rng: torch.Generator, std: float):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (linear(dim, dim, rng, std=std) for _ in range(3))
        self.dropout = Dropout(dropout, rng)

    def forward(
        self,
        queries: Float[Tensor, "B L D"],
        x: Float[Tensor, "B L D"],
        intervals: Int[Tensor, "B L L"],
        positions: tuple[Float[Tensor, "B L D"], Float[Tensor, "B L D"]],
        tables: tuple[Float[Tensor, "R D"], Float[Tensor, "R D"]],
    ) -> Float[Tensor, "B L D"]:
        """Mix each position with its past.

        Args:
            queries: what the queries are made of.
            x: what keys and values are made of.
            intervals: r, rows of the tables.
            positions: added to keys and to values.
            tables: K and V.
        """
        (query,) = split_heads(self.query(queries), 1, self.heads)
        (key,) = split_heads(self.key(x) + positions[0], 1, self.heads)
        (value,) = split_heads(self.value(x) + positions[1], 1, self.heads)
        table_key, table_value = (
            split_heads(table[None], 1, self.heads)[0].to(query.dtype) for table in tables
        )
        place = intervals[:, None].expand(-1, self.heads, -1, -1)
        scores = query @ key.transpose(2, 3) + (query @ table_key.transpose(2, 3)).gather(3, place)
        scores = scores / math.sqrt(query.shape[-1])
        scores = scores.masked_fill(future(x.shape[1], x.device), -torch.inf)
        weights = self.dropout(scores.float().softmax(-1))
        by_interval = weights.new_zeros(*weights.shape[:3], table_key.shape[2]).scatter_add(3, place, weights)
        return merge_heads(weights @ value.to(weights.dtype) + by_interval @ table_value.to(weights.dtype))
