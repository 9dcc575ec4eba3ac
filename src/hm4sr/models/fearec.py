"""FEARec: frequency-enhanced attention, and contrast with histories that led to the same item."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from hm4sr.models.base import SeqRecModel, TransformerConfig, apply_preset, register
from hm4sr.nn.attention import LAYER_NORM_EPS, TransformerLayer
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.frequency import FrequencyAttention, frequency_band
from hm4sr.nn.histories import TargetIndex
from hm4sr.nn.init import embedding
from hm4sr.nn.losses import nt_xent
from hm4sr.nn.ranks import share
from hm4sr.types import Catalog, SeqBatch

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "script": {"padding": "signal", "cosine": False, "frequency_weight": 0.0},
    "recbole": {
        "padding": "signal",
        "cosine": False,
        "frequency_weight": 0.0,
        "contrast": "none",
        "band_ratio": 1.0,
        "time_share": 0.0,
    },
}
"""Named settings; keys given beside `preset` win over it."""


_PAIRS = {
    "us_x": [("again", "other")],
    "us": [("z", "again"), ("z", "other")],
    "un": [("z", "again")],
    "su": [("z", "other")],
    "none": [],
}
"""What each kind of contrast compares."""
_NEEDED = {kind: {name for pair in pairs for name in pair} for kind, pairs in _PAIRS.items()}
_GROUPS = 4


class FEARecConfig(TransformerConfig):
    """Settings of FEARec."""

    preset: Literal["paper", "script", "recbole"] = "paper"
    """All parts; as the authors' script trains it; or as RecBole's defaults leave it: without bands, without
    attention in time, without contrast."""
    band_ratio: float = Field(0.6, gt=0, le=1)
    """Share of the frequencies that a layer reads (global_ratio)."""
    lag_factor: float = Field(1.0, gt=0)
    """A layer shifts by this times ln(max_length) lags (topk_factor)."""
    time_share: float = Field(0.1, ge=0, le=1)
    """Share of attention in time; 0 removes it (spatial_ratio)."""
    filter_time: bool = True
    """Attention in time, too, reads the layer's frequencies alone."""
    padding: Literal["silent", "signal"] = "silent"
    """Slots without an event are zeros to the correlation, or signal as their vectors are, in all slots."""
    contrast: Literal["us_x", "us", "un", "su", "none"] = "us_x"
    """Pairs of a history z, z again under other dropout (z') and another with the same target (z''): z' with
    z'', z with both, with z', or with z''."""
    same_weight: float = Field(0.1, ge=0)
    """Weight of the contrast with the history itself (lambda)."""
    other_weight: float = Field(0.1, ge=0)
    """Weight of the contrast with another history (lambda_sem)."""
    temperature: float = Field(1.0, gt=0)
    """Divides the similarity of two histories."""
    cosine: bool = True
    """Compare directions alone; the authors' script compares by dot products of vectors of length sqrt(D),
    whose gradient at the start is far larger than the softmax's, so that it hardly learns at first."""
    frequency_weight: float = Field(0.1, ge=0)
    """Weight of the difference of two histories' spectra; the authors' script leaves it out."""

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        return apply_preset(PRESETS, values)


@register("fearec")
class FEARec(SeqRecModel):
    """Frequency enhanced hybrid attention network (Du et al., SIGIR 2023).

    SASRec with another attention: each layer reads a band of frequencies, shifts values by the lags of
    highest auto-correlation, and adds a share of causal attention. Lags wrap around, so a position sees later
    ones: the model learns from prefixes. In training it contrasts histories that led to the same item.

    By default slots without an event are silent, as padding with zeros means; in the authors' code and in
    RecBole their vectors (position and LayerNorm) take part in the correlation (`padding = "signal"`), which
    costs 50 slots for every history. The regulariser of the spectra is on, as in the paper. Histories
    are compared by their cosine, which the authors' code offers; their script's dot products are
    `cosine = false`.
    """

    Config = FEARecConfig
    parallel = False
    reads_histories = True

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c, length = config, catalog.max_length
        self.items = embedding(catalog.num_rows, c.dim, rng, padding=True)
        self.positions = embedding(length, c.dim, rng)
        self.norm = nn.LayerNorm(c.dim, LAYER_NORM_EPS)
        self.dropout = Dropout(c.dropout, rng)
        num_lags = min(length, max(1, int(c.lag_factor * math.log(length))))
        layers = []
        for layer in range(c.layers):
            band = frequency_band(layer, c.layers, c.band_ratio, length // 2 + 1)
            attention = FrequencyAttention(
                c.dim,
                c.heads,
                c.attention_dropout,
                length,
                band,
                num_lags,
                c.time_share,
                c.filter_time,
                c.padding == "silent",
                rng,
            )
            layers.append(TransformerLayer(c.dim, c.inner, c.dropout, rng, attention))
        self.layers, self.top = nn.ModuleList(layers[:-1]), layers[-1]
        self.index = None if catalog.histories is None else TargetIndex(catalog.histories)

    def encode(self, batch: SeqBatch) -> Float[Tensor, "B L Q"]:
        """Hidden vector of each position (Q = dim); the last event's alone stands for the history."""
        slots = torch.arange(batch.items.shape[1], device=batch.items.device)
        return self._run(batch.items, slots.expand_as(batch.items))

    def last_hidden(self, batch: SeqBatch) -> Float[Tensor, "B Q"]:
        """Vector of each whole history; the last layer is computed at its last event alone."""
        return self._run(batch.items, batch.lengths[:, None] - 1)[:, 0]

    def losses(self, batch: SeqBatch) -> dict[str, Float[Tensor, ""]]:
        """The main loss, contrast, and the difference of spectra."""
        c = self.config
        with self.mixed_precision():
            passes = 2 if "again" in _NEEDED[c.contrast] else 1
            z, *again = self._last(batch.items.repeat(passes, 1), batch.lengths.repeat(passes)).chunk(passes)
            views = {"z": z}
            if again:
                views["again"] = again[0]
            if "other" in _NEEDED[c.contrast]:
                views["other"] = self._same_target(batch)
        terms = {"main": self.main_loss(z, self.view(batch))}
        for number, (first, second) in enumerate(_PAIRS[c.contrast]):
            pair = views[first], views[second]
            weight = c.other_weight if second == "other" else c.same_weight
            terms[f"contrast_{second}"] = weight * nt_xent(*pair, c.temperature, c.cosine, "histories")
            if c.frequency_weight and number == 0:
                spectra = [torch.fft.rfft(vectors, norm="ortho") for vectors in pair]
                difference = (spectra[0] - spectra[1]).abs().mean()
                terms["frequency"] = c.frequency_weight * share(difference, len(z), "histories")
        return terms

    def _run(self, items: Int[Tensor, "B L"], at: Int[Tensor, "B P"]) -> Float[Tensor, "B P D"]:
        if self.config.padding == "signal":
            items = F.pad(items, (0, self.catalog.max_length - items.shape[1]))
        real = items > 0
        x = self.dropout(self.norm(self.items(items) + self.positions.weight[: items.shape[1]]))
        everywhere = torch.arange(items.shape[1], device=items.device).expand_as(items)
        for layer in self.layers:
            x = layer(x, real, everywhere)
        wanted = x.gather(1, at[..., None].expand(-1, -1, x.shape[2]))
        return self.top.complete(wanted, self.top.attention(x, real, at))

    def _last(self, items: Int[Tensor, "B L"], lengths: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        return self._run(items, lengths[:, None] - 1)[:, 0].float()

    def _same_target(self, batch: SeqBatch) -> Float[Tensor, "B D"]:
        """Another training history with each row's target; the same history where there is none.

        They are of all lengths, so the short ones are encoded apart from the long ones, each part with the
        lags that are best for it.
        """
        items = F.pad(batch.items, (0, self.catalog.max_length - batch.items.shape[1]))
        lengths = batch.lengths
        if self.index is not None:
            events, found = self.index.others(batch.at_end(batch.targets), batch.users, self.rng)
            others, other_lengths = self.index.before(events, self.catalog.max_length)
            items = torch.where(found[:, None], others, items)
            lengths = torch.where(found, other_lengths, lengths)
        order = lengths.argsort()
        groups = []
        for rows in order.chunk(_GROUPS):
            width = -(-int(lengths[rows[-1]]) // 4) * 4  # few widths: kernels are compiled for each
            groups.append(self._last(items[rows, :width], lengths[rows]))
        return torch.cat(groups)[order.argsort()]
