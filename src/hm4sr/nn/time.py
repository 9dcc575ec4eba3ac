"""Explicit time as vectors: intervals, absolute time, and the variants of section 5.5 of the paper."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from hm4sr.nn.init import embedding, normal, zeros
from hm4sr.types import Clock

SECONDS_PER_DAY = 86_400

TimeKind = Literal["full", "interval", "absolute", "day", "day-of-year", "cos"]
TimeUnit = Literal["days", "seconds"]


def intervals(times: Real[Tensor, "B L"]) -> Real[Tensor, "B L"]:
    """Seconds since the event before, 0 for the first (eq. 11). Negative gaps count as 0."""
    gaps = torch.zeros_like(times)
    gaps[:, 1:] = (times[:, 1:] - times[:, :-1]).clamp_min(0)
    return gaps


class IntervalEmbedding(nn.Module):
    """A table of interval lengths on a logarithmic scale (eq. 12).

    Row floor(scale * log2(seconds + 1)); the table is sized from the largest training gap, longer gaps
    share its last row.
    """

    def __init__(self, dim: int, scale: float, largest_gap: int, float32: bool, rng: torch.Generator):
        super().__init__()
        self.scale = scale
        self.dtype = torch.float32 if float32 else torch.float64
        self.table = embedding(int(scale * math.log2(largest_gap + 1)) + 1, dim, rng)

    def forward(self, times: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Vectors of the gaps between neighbouring times."""
        if self.dtype == torch.float32:
            gaps = intervals(times.float())
        else:
            gaps = intervals(times)
        bucket = (self.scale * torch.log2(gaps.to(self.dtype) + 1)).floor().long()
        rows: Tensor = self.table(bucket.clamp_max(self.table.num_embeddings - 1))
        return rows


class AbsoluteTime(nn.Module):
    """cos(l_i t / base^(i/D) + z_i) with trainable l and z (eq. 13).

    In days, counted from the first training day, the frequencies start at 1; `released` keeps raw seconds in
    float32 with z inside the frequency factor, where phases are rounding noise.
    """

    inverse: Tensor

    def __init__(
        self, dim: int, base: float, clock: Clock, unit: TimeUnit, released: bool, rng: torch.Generator
    ):
        super().__init__()
        self.unit, self.released = unit, released
        self.origin = clock.first // SECONDS_PER_DAY * SECONDS_PER_DAY
        inverse = base ** (-torch.arange(dim, dtype=torch.float32) / dim)
        self.register_buffer("inverse", inverse, persistent=False)
        self.frequency = normal(dim, std=0.02, rng=rng) if released else nn.Parameter(torch.ones(dim))
        self.phase = zeros(dim)

    def forward(self, times: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Vectors of points in time."""
        if self.released:
            return torch.cos((self.frequency * times.float()[..., None] + self.phase) * self.inverse)
        seconds = (times - self.origin).double()
        t = (seconds / SECONDS_PER_DAY if self.unit == "days" else seconds).float()[..., None]
        return torch.cos(self.frequency * t * self.inverse + self.phase)


class DayEmbedding(nn.Module):
    """A table of days of the data set, or of days of the year."""

    def __init__(self, dim: int, clock: Clock, of_year: bool, rng: torch.Generator):
        super().__init__()
        self.of_year = of_year
        self.first_day = clock.first // SECONDS_PER_DAY
        days = 366 if of_year else clock.last // SECONDS_PER_DAY - self.first_day + 1
        self.table = embedding(days, dim, rng)

    def forward(self, times: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Vectors of the days; those outside the training range share the nearest row."""
        day = times.div(SECONDS_PER_DAY, rounding_mode="floor")
        if self.of_year:
            # The mean year keeps the index within a day of the calendar without a table of leap years.
            row = (day.double() % 365.2425).floor().long()
        else:
            row = day - self.first_day
        rows: Tensor = self.table(row.clamp(0, self.table.num_embeddings - 1))
        return rows


class CosineInterval(nn.Module):
    """[cos(w_i a + b_i)] of the interval a in days (section 5.5, "Cos")."""

    def __init__(self, dim: int, rng: torch.Generator):
        super().__init__()
        self.frequency = normal(dim, std=1.0, rng=rng)
        self.phase = zeros(dim)

    def forward(self, times: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Vectors of the gaps between neighbouring times."""
        days = (intervals(times).double() / SECONDS_PER_DAY).float()[..., None]
        return torch.cos(self.frequency * days + self.phase)


class TimeEmbedding(nn.Module):
    """The time vectors that route the Temporal MoE, side by side: [r1; r2] in the full model (eq. 14)."""

    def __init__(
        self,
        kind: TimeKind,
        dim: int,
        clock: Clock,
        interval_scale: float,
        frequency_base: float,
        unit: TimeUnit,
        released: bool,
        rng: torch.Generator,
    ):
        super().__init__()
        parts: list[nn.Module] = []
        if kind in ("full", "interval"):
            parts.append(IntervalEmbedding(dim, interval_scale, clock.largest_gap, released, rng))
        if kind in ("full", "absolute"):
            parts.append(AbsoluteTime(dim, frequency_base, clock, unit, released, rng))
        if kind in ("day", "day-of-year"):
            parts.append(DayEmbedding(dim, clock, kind == "day-of-year", rng))
        if kind == "cos":
            parts.append(CosineInterval(dim, rng))
        self.parts = nn.ModuleList(parts)
        self.width = dim * len(parts)

    def forward(self, times: Int[Tensor, "B L"]) -> Float[Tensor, "B L T"]:
        """Vectors of width T = `width`."""
        return torch.cat([part(times) for part in self.parts], dim=-1)
