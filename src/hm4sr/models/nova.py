"""NOVA: side information shapes attention weights, item vectors alone are mixed."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from hm4sr.models.base import SeqRecModel, TransformerConfig, register
from hm4sr.nn.attention import LAYER_NORM_EPS, TransformerLayer, attend, future, merge_heads, split_heads
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import embedding, linear, normal
from hm4sr.nn.losses import softmax_loss
from hm4sr.nn.projection import FeatureProjection
from hm4sr.types import Catalog, SeqBatch

Fusion = Literal["gate", "add", "concat"]


class NOVAConfig(TransformerConfig):
    """Settings of NOVA."""

    fusion: Fusion = "gate"
    """How item vector, position and side vectors become what queries and keys are made of."""
    gate: Literal["softmax", "sigmoid"] = "softmax"
    """Weights of the gate: shares that add up to one, or each by itself."""
    normalise_sides: bool = True
    """LayerNorm and dropout on each projected modality, as on the item vectors."""
    training: Literal["causal", "cloze"] = "causal"
    """Next items from the past alone, or, as in the paper, masked items from both sides (BERT4Rec)."""
    mask_ratio: float = Field(0.2, gt=0, lt=1)
    """Share of the events that are masked in cloze training."""


@register("nova")
class NOVA(SeqRecModel):
    """Non-invasive self-attention for side information fusion (Liu et al., AAAI 2021).

    Queries and keys are made of item vector, position and side vectors together; values, residuals and the
    score are made of item vectors alone. The side vectors are the catalogue's modalities, each projected
    linearly; they are the same in every layer. Without modalities the position is the only side information.
    The authors published no code; the paper leaves open whether the gate is a softmax or a sigmoid (`gate`)
    and whether layers share the fusion (here each has its own).

    The paper's backbone is BERT4Rec. Here it is causal, as the models it is compared with; `training =
    "cloze"` is the paper's, trained on prefixes: after a history comes a mask, whose vector is the answer.
    """

    Config = NOVAConfig
    multimodal = True

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        self.cloze = c.training == "cloze"
        self.parallel = not self.cloze
        self.items = embedding(catalog.num_rows, c.dim, rng, padding=True)
        self.positions = embedding(catalog.max_length + int(self.cloze), c.dim, rng)
        self.mask = normal(c.dim, std=0.02, rng=rng) if self.cloze else None
        self.projections = nn.ModuleDict(
            {name: FeatureProjection(catalog.features[name], c.dim, rng) for name in sorted(catalog.features)}
        )
        self.norms = nn.ModuleDict(
            {name: nn.LayerNorm(c.dim, LAYER_NORM_EPS) for name in self.projections if c.normalise_sides}
        )
        self.norm = nn.LayerNorm(c.dim, LAYER_NORM_EPS)
        self.dropout = Dropout(c.dropout, rng)
        num_vectors = 2 + len(self.projections)
        self.layers = nn.ModuleList(
            TransformerLayer(
                c.dim,
                c.inner,
                c.dropout,
                rng,
                NonInvasiveAttention(
                    c.dim,
                    c.heads,
                    c.attention_dropout,
                    SideFusion(c.fusion, c.gate, num_vectors, c.dim, rng),
                    rng,
                ),
            )
            for _ in range(c.layers)
        )

    def encode(self, batch: SeqBatch) -> Float[Tensor, "B L Q"]:
        """Hidden vector after each event (Q = dim); in cloze training the answer stands at the last event."""
        if not self.cloze:
            blocked = future(batch.items.shape[1], batch.items.device)
            return self._run(batch.items, blocked)
        items, masked = _append(batch.items, batch.lengths, torch.zeros_like(batch.lengths))
        hidden = self._run(items, _padding(masked | (items > 0)), masked)
        answers = hidden[masked]
        place = torch.arange(batch.items.shape[1], device=items.device) == batch.lengths[:, None] - 1
        return torch.where(place[..., None], answers[:, None], hidden[:, :-1])

    def tables_to_fix(self) -> dict[str, Tensor]:
        """See the base; the projected modalities of all items are kept as well."""
        sides = {f"side.{name}": self._project(name, None) for name in self.projections}
        return super().tables_to_fix() | sides

    def losses(self, batch: SeqBatch) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of the next items, or of the masked ones."""
        if not self.cloze:
            return super().losses(batch)
        items, at_end = _append(batch.items, batch.lengths, batch.at_end(batch.targets))
        draws = torch.rand(items.shape, generator=self.rng, device=items.device)
        masked = (draws < self.config.mask_ratio) & (items > 0) | at_end
        with self.mixed_precision():
            hidden = self._run(torch.where(masked, 0, items), _padding(items > 0), masked)[masked].float()
        view = self.view(batch)
        wanted, _ = _append(view.items, batch.lengths, view.targets)
        loss = softmax_loss(
            hidden, view.vectors, wanted[masked], self.matmul_dtype, log_weights=view.log_weights
        )
        return {"main": loss}

    def _run(
        self,
        items: Int[Tensor, "B L"],
        blocked: Bool[Tensor, "..."],
        masked: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        x = self.items(items)
        if masked is not None and self.mask is not None:
            x = torch.where(masked[..., None], self.mask, x)
        x = self.dropout(self.norm(x))
        sides = [self.positions.weight[: items.shape[1]].expand_as(x)]
        for name in self.projections:
            if self._fixed:
                side = F.embedding(items, self._fixed[f"side.{name}"])
            else:
                side = self._project(name, items.flatten()).view(x.shape)
            if masked is not None:  # padding stands there, whose projection would say "masked" once more
                side = side.masked_fill(masked[..., None], 0.0)
            sides.append(self.dropout(side) if self.config.normalise_sides else side)
        beside = torch.stack(sides, dim=2)
        for layer in self.layers:
            x = layer(x, beside, blocked)
        hidden: Tensor = x
        return hidden

    def _project(self, name: str, items: Int[Tensor, "U"] | None) -> Float[Tensor, "U D"]:
        side: Tensor = self.projections[name](self.matmul_dtype, items)
        if self.config.normalise_sides:
            side = self.norms[name](side)
        return side


class SideFusion(nn.Module):
    """One vector of several: their sum, a linear map of them side by side, or a weighted sum."""

    def __init__(
        self,
        kind: Fusion,
        gate: Literal["softmax", "sigmoid"],
        num_vectors: int,
        dim: int,
        rng: torch.Generator,
    ):
        super().__init__()
        self.kind, self.gate = kind, gate
        self.map = linear(num_vectors * dim, dim, rng) if kind == "concat" else None
        self.score = linear(dim, 1, rng, bias=False) if kind == "gate" else None

    def forward(self, vectors: Float[Tensor, "B L S D"]) -> Float[Tensor, "B L D"]:
        """Fuse the vectors of each position."""
        if self.map is not None:
            mapped: Tensor = self.map(vectors.flatten(2))
            return mapped
        if self.score is None:
            return vectors.sum(2)
        score = self.score(vectors)
        weights = score.softmax(2) if self.gate == "softmax" else score.sigmoid()
        fused: Tensor = (weights * vectors).sum(2)
        return fused


class NonInvasiveAttention(nn.Module):
    """Attention whose weights come from fused vectors and whose values come from item vectors alone."""

    def __init__(self, dim: int, heads: int, dropout: float, fusion: SideFusion, rng: torch.Generator):
        super().__init__()
        self.heads = heads
        self.fusion = fusion
        self.query_key = linear(dim, 2 * dim, rng)
        self.value = linear(dim, dim, rng)
        self.out = linear(dim, dim, rng)
        self.dropout = Dropout(dropout, rng)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        sides: Float[Tensor, "B L S D"],
        blocked: Bool[Tensor, "..."],
    ) -> Float[Tensor, "B L D"]:
        """Mix item vectors.

        Args:
            x: item vectors.
            sides: position and side vectors.
            blocked: pairs of a query and a key that must not meet.
        """
        query, key = split_heads(
            self.query_key(self.fusion(torch.cat([x[:, :, None], sides], dim=2))), 2, self.heads
        )
        (value,) = split_heads(self.value(x), 1, self.heads)
        out: Tensor = self.out(merge_heads(attend(query, key, value, blocked, self.dropout)))
        return out


def _append(
    items: Int[Tensor, "B L"], lengths: Int[Tensor, "B"], last: Int[Tensor, "B"]
) -> tuple[Tensor, Bool[Tensor, "B W"]]:
    """One more event after each history (W = L + 1), and where it stands."""
    wide = F.pad(items, (0, 1))
    at_end = torch.arange(wide.shape[1], device=items.device) == lengths[:, None]
    return torch.where(at_end, last[:, None], wide), at_end


def _padding(real: Bool[Tensor, "B L"]) -> Bool[Tensor, "B 1 1 L"]:
    """Nobody looks at padding."""
    return ~real[:, None, None, :]
