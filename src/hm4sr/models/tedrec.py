"""TedRec: text and ID sequences multiplied in the frequency domain."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hm4sr.models.base import register, require_features, rows_of
from hm4sr.models.item_states import AdaptorConfig, CosineModel, make_adaptors
from hm4sr.nn.attention import SequenceEncoder
from hm4sr.nn.experts import EventExperts
from hm4sr.nn.frequency import fourier_matrices, spectral_product
from hm4sr.nn.init import embedding, linear, normal, uniform
from hm4sr.types import Catalog, SeqBatch


class TedRecConfig(AdaptorConfig):
    """Settings of TedRec."""

    zero_pad: bool = False
    """Padding enters the transforms as zeros; otherwise as in the original, as a vector like any other."""


class SpectralFusion(nn.Module):
    """Two products in the frequency domain, each with a gate for each position (TedRec, section 3.2).

    a filters the IDs by a learned spectrum, b multiplies the spectra of IDs and texts, which is their
    circular convolution over sqrt(P); the result is 2 (a sigmoid(w_1 a) + b sigmoid(w_2 b)). Spectra are
    taken in float32 whatever the surroundings.
    """

    waves: Tensor
    inverse: Tensor

    def __init__(self, length: int, dim: int, rng: torch.Generator):
        super().__init__()
        waves, inverse = fourier_matrices(length)
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("inverse", inverse, persistent=False)
        self.filter = normal(length // 2 + 1, dim, 2, std=0.02, rng=rng)
        self.gates = nn.ModuleList(linear(dim, 1, rng) for _ in range(2))
        for gate in self.gates:
            gate.bias = uniform(1, bound=dim**-0.5, rng=rng)

    def forward(
        self,
        ids: Float[Tensor, "B L D"],
        texts: Float[Tensor, "B P D"],
        rest: Float[Tensor, " D"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Fuse sequences of P positions, P the declared length; gives the first L.

        Args:
            ids: at the first L positions, those that hold events.
            texts: at all positions.
            rest: ID at all positions from L on; nothing for None.
        """
        L = ids.shape[1]
        with torch.autocast(ids.device.type, enabled=False):
            spectrum, of_texts = self.waves[:, :L] @ ids.float(), self.waves @ texts.float()
            if rest is not None:
                spectrum = spectrum + self.waves[:, L:].sum(1)[:, None] * rest
            own = self.filter.movedim(2, 0).flatten(0, 1)
            spectra = (spectral_product(spectrum, own), spectral_product(spectrum, of_texts))
            sequences = [self.inverse[:L] @ product for product in spectra]
            gated = [x * gate(x).sigmoid() for gate, x in zip(self.gates, sequences, strict=True)]
            return 2 * torch.stack(gated).sum(0)


@register("tedrec")
class TedRec(CosineModel):
    """Text-ID semantic fusion (Xu et al., CIKM 2024).

    Every event's text passes whitening experts with a bias for each position; the sequences of texts and of
    IDs, padded to the longest history, are fused in the frequency domain and read by a causal Transformer.
    The convolution wraps around, so every position knows all others: the model is trained on prefixes.
    Candidates are IDs alone, and a score is a cosine over tau.

    As in the original, padding takes part in the transforms: its ID is a random vector that never learns,
    its text is the experts' answer to zeros; `zero_pad` silences it. Beside the original: the experts share
    one dropout mask (`own_masks`), padding is no class of the softmax, several modalities are added up, and
    an event without text is treated like padding's text.
    """

    Config = TedRecConfig
    parallel = False
    multimodal = True
    blank: Tensor

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        require_features(catalog, self.name)
        self.items = embedding(catalog.num_rows, c.dim, rng, padding=True)
        blank = torch.empty(c.dim)
        self.register_buffer("blank", blank if blank.is_meta else blank.normal_(0.0, 0.02, generator=rng))
        self.positions = embedding(catalog.max_length, c.dim, rng)
        self.adaptors = make_adaptors(EventExperts, c, catalog, rng, catalog.max_length)
        self.fusion = SpectralFusion(catalog.max_length, c.dim, rng)
        self.encoder = SequenceEncoder(c.dim, c.layers, c.heads, c.inner, c.dropout, c.attention_dropout, rng)

    def item_states(self, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U D"]:
        """The ID table, or rows of it."""
        return rows_of(self.items, items)

    def read(self, states: Float[Tensor, "B L D"], batch: SeqBatch) -> Float[Tensor, "B L D"]:
        """Causal Transformer over the fused sequence and positions."""
        hidden: Tensor = self.encoder(self._fuse(states, batch))
        return hidden

    def read_newest(self, states: Float[Tensor, "B L D"], batch: SeqBatch) -> Float[Tensor, "B D"]:
        """The same at the newest event of each history alone."""
        return self.encoder.newest(self._fuse(states, batch), batch.lengths)

    def _fuse(self, states: Float[Tensor, "B L D"], batch: SeqBatch) -> Float[Tensor, "B L D"]:
        """Fuse at full length, of which the causal Transformer needs the events that are there."""
        L, P = states.shape[1], self.catalog.max_length
        items, rest = F.pad(batch.items, (0, P - L)), self.blank
        texts = torch.stack([adaptor(self.matmul_dtype, items) for adaptor in self.adaptors.values()]).sum(0)
        if self.config.zero_pad:
            texts, rest = texts * (items > 0)[..., None], torch.zeros_like(rest)
        ids = torch.where((batch.items > 0)[..., None], states, rest.to(states.dtype))
        fused: Tensor = self.fusion(ids, texts, rest) + self.positions.weight[:L]
        return fused
