"""Signals by their frequencies: transforms as matrices (TedRec); bands, auto-correlation, shifts (FEARec)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hm4sr.nn.attention import merge_heads, split_heads
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import linear


def frequency_band(layer: int, layers: int, ratio: float, num_frequencies: int) -> tuple[int, int]:
    """First frequency of a layer's band, and the first above it: high ones in the lowest layer.

    Bands are `ratio` of all frequencies wide and slide down evenly; where they would leave gaps, the
    frequencies are divided among the layers.
    """
    if ratio > 1 / layers:
        width, step = ratio, float(math.floor(num_frequencies * (1 - ratio) / (layers - 1)))
    else:
        width, step = 1 / layers, num_frequencies / layers
    low = int(num_frequencies * (1 - width) - layer * step)
    return low, int(num_frequencies - layer * step)


def band_filter(low: int, high: int, length: int) -> Float[Tensor, "T T"]:
    """What keeps the frequencies low <= f < high of a signal of that length, as a symmetric matrix."""
    frequency = torch.arange(low, high)
    weight = torch.where((frequency == 0) | (2 * frequency == length), 1.0, 2.0)
    time = torch.arange(length)
    waves = torch.cos(2 * math.pi * ((time[:, None] * frequency) % length) / length)
    by_distance = (waves * weight).sum(-1) / length
    return by_distance[(time[:, None] - time) % length]


def circular_correlation(
    query: Float[Tensor, "B L D"], key: Float[Tensor, "B L D"], length: int
) -> Float[Tensor, "B T"]:
    """c_tau = sum over t of q_(t + tau) . k_t of signals that go on with zeros to `length` and then repeat.

    The products of all pairs are at hand in one matrix; its diagonals are summed without an index: rows that
    are one element too long, read on as if they were not, shift by one each.
    """
    L = query.shape[1]
    pairs = query @ key.flip(1).transpose(1, 2)  # column j is key L - 1 - j: lag = row + column - (L - 1)
    wide = F.pad(pairs, (0, L)).flatten(1)[:, : L * (2 * L - 1)]
    lags = wide.view(-1, L, 2 * L - 1).sum(1)
    ahead = F.pad(lags[:, L - 1 :], (0, length - L))
    behind = F.pad(lags[:, : L - 1], (length - L + 1, 0))
    return ahead + behind


def fourier_matrices(length: int) -> tuple[Float[Tensor, "W T"], Float[Tensor, "T W"]]:
    """The orthonormal transform of real signals, and the way back, as matrices.

    A spectrum of F = T // 2 + 1 frequencies is W = 2 F numbers, the real parts before the imaginary ones.
    Signals as short as histories are faster multiplied than transformed, backwards above all.
    """
    frequency, time = torch.arange(length // 2 + 1), torch.arange(length)
    angle = 2 * math.pi * ((frequency[:, None] * time) % length).double() / length
    waves = torch.cat([angle.cos(), -angle.sin()]) / math.sqrt(length)
    twice = torch.where((frequency == 0) | (2 * frequency == length), 1.0, 2.0).repeat(2)
    return waves.float(), (waves * twice[:, None]).T.contiguous().float()


def spectral_product(
    a: Float[Tensor, "*rows W D"], b: Float[Tensor, "*columns W D"]
) -> Float[Tensor, "*all W D"]:
    """Product of spectra, each W real numbers: real parts, then imaginary ones."""
    (a_real, a_imaginary), (b_real, b_imaginary) = a.chunk(2, -2), b.chunk(2, -2)
    real = a_real * b_real - a_imaginary * b_imaginary
    return torch.cat([real, a_real * b_imaginary + a_imaginary * b_real], -2)


class FrequencyAttention(nn.Module):
    """Auto-correlation attention within a band of frequencies, mixed with attention in time.

    Histories are signals of `length` slots. The correlation of queries and keys at each lag, averaged over
    channels, says by which lags the values are shifted; lags wrap around, so every slot reaches every other.
    Averaging comes first and the filter after it, both being linear, so no transform of B x L x D is needed.

    Args:
        dim: width of the vectors.
        heads: heads of the attention in time.
        dropout: of its weights.
        length: slots of a signal (T).
        band: first frequency, and the first above it.
        num_lags: lags that are used.
        time_share: how much of the result comes from attention in time.
        filter_time: whether that, too, reads the band alone.
        silent: whether the slots that hold no event are zeros, or signal as their vectors are.
        rng: source of the weights and of dropout.
    """

    filter: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float,
        length: int,
        band: tuple[int, int],
        num_lags: int,
        time_share: float,
        filter_time: bool,
        silent: bool,
        rng: torch.Generator,
    ):
        super().__init__()
        self.heads, self.length, self.silent = heads, length, silent
        self.num_lags, self.time_share, self.filter_time = num_lags, time_share, filter_time
        self.query_key_value = linear(dim, 3 * dim, rng)
        self.out = linear(dim, dim, rng)
        self.dropout = Dropout(dropout, rng)
        self.register_buffer("filter", band_filter(*band, length), persistent=False)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        real: Bool[Tensor, "B L"],
        at: Int[Tensor, "B P"],
    ) -> Float[Tensor, "B P D"]:
        """Mix the slots.

        Args:
            x: vectors of the slots; those beyond L are silent.
            real: slots that hold an event.
            at: slots whose new vectors are wanted.
        """
        parts = self.query_key_value(x)
        with torch.autocast(x.device.type, enabled=False):
            parts = parts.float()
            if self.silent:
                parts = parts * real[..., None]
            query, key, value = parts.chunk(3, dim=-1)
            mixed = self.shifted(query, key, value, at)
            if self.time_share:
                in_time = self.attended(parts, real, at)
                mixed = (1 - self.time_share) * mixed + self.time_share * in_time
        out: Tensor = self.out(mixed)
        return out

    def shifted(
        self,
        query: Float[Tensor, "B L D"],
        key: Float[Tensor, "B L D"],
        value: Float[Tensor, "B L D"],
        at: Int[Tensor, "B P"],
    ) -> Float[Tensor, "B P D"]:
        """The values at the best lags, weighted; in training they are those best for all rows given."""
        L, D = value.shape[1:]
        correlation = circular_correlation(query, key, self.length) @ self.filter / D
        ranked = correlation.mean(0, keepdim=True) if self.training else correlation
        lags = ranked.topk(self.num_lags, dim=1).indices.expand(len(query), -1)
        weights = correlation.gather(1, lags).softmax(1)
        source = (at[:, :, None] + lags[:, None]) % self.length
        padded = F.pad(value, (0, 0, 0, 1))  # slot L stands for all silent ones
        source = source.clamp_max(L).transpose(1, 2).flatten(1)
        rows = padded.gather(1, source[..., None].expand(-1, -1, D))
        shifts = rows.view(len(query), self.num_lags, at.shape[1], D)
        return (weights[:, :, None, None] * shifts).sum(1)

    def attended(
        self, parts: Float[Tensor, "B L W"], real: Bool[Tensor, "B L"], at: Int[Tensor, "B P"]
    ) -> Float[Tensor, "B P D"]:
        """Causal attention in time, of the filtered signals if so set."""
        L = parts.shape[1]
        if self.filter_time:
            parts = self.filter[:L, :L] @ parts
        query, key, value = split_heads(parts, 3, self.heads)
        place = at[:, None, :, None].expand(-1, self.heads, -1, query.shape[3])
        scores = query.gather(2, place) @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        blocked = (torch.arange(L, device=at.device) > at[..., None]) | ~real[:, None]
        weights = scores.masked_fill(blocked[:, None], -torch.inf).softmax(-1)
        return merge_heads(self.dropout(weights) @ value)
