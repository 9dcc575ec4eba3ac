"""M3SRec, a re-implementation: mixtures of experts inside a Transformer over the modalities' tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from hm4sr.models.base import register, require_features, rows_of
from hm4sr.models.item_states import CosineConfig, CosineModel
from hm4sr.nn.attention import LAYER_NORM_EPS, CausalSelfAttention
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.experts import GatedFeedForward
from hm4sr.nn.init import embedding, normal
from hm4sr.nn.losses import in_batch_contrastive
from hm4sr.nn.projection import FeatureProjection, presence
from hm4sr.nn.ranks import anywhere, gather
from hm4sr.types import Catalog, SeqBatch


class M3SRecConfig(CosineConfig):
    """Settings of M3SRec. Half of the `layers` have experts for each modality, the others shared ones."""

    layers: int = Field(2, ge=2)
    """Transformer layers, of both kinds together."""
    experts: int = Field(4, gt=0)
    """K, feed-forward experts of a layer (of a modality, where they are specific)."""
    use_id: bool = True
    """Whether an item's ID is added to its modalities."""
    auxiliary_weight: float = Field(0.1, ge=0)
    """lambda, weight of contrasting the history, and the modalities of the answer, with each other."""
    pretrain_epochs: int = Field(0, ge=0)
    """First epochs, in which the auxiliary terms alone are learned, with weight 1."""


class ExpertLayer(nn.Module):
    """Attention over the tokens of all modalities, then experts: of each modality, or shared by all."""

    def __init__(self, config: M3SRecConfig, modalities: int, specific: bool, rng: torch.Generator):
        super().__init__()
        c = config
        self.attention = CausalSelfAttention(c.dim, c.heads, c.attention_dropout, rng, block=modalities)
        self.norm_attention = nn.LayerNorm(c.dim, LAYER_NORM_EPS)
        sets = modalities if specific else 1
        self.experts = nn.ModuleList(GatedFeedForward(c.dim, c.inner, c.experts, rng) for _ in range(sets))
        self.norm_out = nn.LayerNorm(c.dim, LAYER_NORM_EPS)
        self.dropout = Dropout(c.dropout, rng)

    def forward(self, x: Float[Tensor, "B L M D"]) -> Float[Tensor, "B L M D"]:
        """One layer; a token sees all modalities of its own and of earlier events."""
        mixed = self.attention(x.flatten(1, 2)).view(x.shape)
        x = self.norm_attention(x + self.dropout(mixed))
        if len(self.experts) == 1:
            found = self.experts[0](x)
        else:
            found = torch.stack([experts(x[:, :, m]) for m, experts in enumerate(self.experts)], dim=2)
        out: Tensor = self.norm_out(x + self.dropout(found))
        return out


@register("m3srec")
class M3SRec(CosineModel):
    """Multi-modal mixture of experts for recommendation (Bian et al., CIKM 2023): a re-implementation.

    No code was released, and the details below are ours: results must be labelled "re-implementation". Known
    from the paper are modality-specific and cross-modal mixtures of experts within a Transformer, and tasks
    that tie the multi-modal history to the answer.

    Each event is a token for each modality, its projection plus ID, position and modality vectors. The
    history's vector is the mean of its newest event's tokens; an item's is the mean of its projections, plus
    its ID. The auxiliary terms contrast the history with each modality of the answer, and the modalities of
    the answer with each other. A learned vector stands in for a missing modality.
    """

    Config = M3SRecConfig
    item_tables = ("ids",)
    multimodal = True
    present: Tensor

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        require_features(catalog, self.name)
        features = sorted(catalog.features.items())
        self.ids = embedding(catalog.num_rows, c.dim, rng, padding=True) if c.use_id else None
        self.positions = embedding(catalog.max_length, c.dim, rng)
        self.modality = normal(len(features), c.dim, std=0.02, rng=rng)
        self.projections = nn.ModuleDict(
            {name: FeatureProjection(given, c.dim, rng) for name, given in features}
        )
        self.register_buffer("present", presence(catalog.features), persistent=False)
        self.norm = nn.LayerNorm(c.dim, LAYER_NORM_EPS)
        self.dropout = Dropout(c.dropout, rng)
        self.layers = nn.ModuleList(
            ExpertLayer(c, len(features), number < c.layers // 2, rng) for number in range(c.layers)
        )
        self.pretraining = False

    def start_epoch(self, epoch: int) -> None:
        """Learn the auxiliary terms alone in the first epochs, where that is wanted."""
        self.pretraining = epoch <= self.config.pretrain_epochs

    def item_states(self, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U S"]:
        """[x_1; ...; x_M; E] of each item: its projections and its ID."""
        states = [projection(self.matmul_dtype, items) for projection in self.projections.values()]
        if self.ids is not None:
            states.append(rows_of(self.ids, items))
        return torch.cat(states, dim=1)

    def _parts(self, states: Float[Tensor, "... S"]) -> tuple[Float[Tensor, "... M D"], Tensor]:
        """Projections, and IDs (0 without)."""
        parts = states.view(*states.shape[:-1], -1, self.config.dim)
        num_modalities = len(self.projections)
        projections, ids = parts[..., :num_modalities, :], parts[..., num_modalities:, :]
        return projections, ids.sum(-2)

    def represent(self, states: Float[Tensor, "U S"]) -> Float[Tensor, "U D"]:
        """Mean of the projections, plus the ID."""
        projections, ids = self._parts(states)
        vectors: Tensor = projections.mean(-2) + ids
        return vectors

    def read(self, states: Float[Tensor, "B L S"], batch: SeqBatch) -> Float[Tensor, "B L D"]:
        """Mean over modalities of the tokens of each event."""
        projections, ids = self._parts(states)
        shared = ids + self.positions.weight[: states.shape[1]]
        x = self.dropout(self.norm(projections + shared[:, :, None] + self.modality))
        for layer in self.layers:
            x = layer(x)
        hidden: Tensor = x.mean(2)
        return hidden

    def losses(self, batch: SeqBatch) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of the targets, and the contrasts."""
        hidden, view = self.look(batch)
        terms = {"main": self.state_loss(hidden, view)}
        weight = 1.0 if self.pretraining else self.config.auxiliary_weight
        if self.pretraining:
            terms["main"] = 0.0 * terms["main"]
        if not weight:
            return terms
        answers, _ = self._parts(F.embedding(view.targets, view.vectors).float())
        terms["context"] = weight * self._contrast_history(hidden, answers, batch)
        if len(self.projections) > 1:
            terms["alignment"] = weight * self._contrast_modalities(answers, batch)
        return terms

    def _contrast_history(
        self, hidden: Float[Tensor, "N D"], answers: Float[Tensor, "N M D"], batch: SeqBatch
    ) -> Float[Tensor, ""]:
        """The history against each modality of the answers of the batch; equal answers are no negatives."""
        targets = batch.at_targets(batch.targets)
        return self._mean(
            [
                self._contrast(hidden[has], answers[has, m], targets[has])
                for m, has in enumerate(self.present[targets].unbind(1))
                if anywhere(bool(has.any()))
            ]
        )

    def _contrast_modalities(self, answers: Float[Tensor, "N M D"], batch: SeqBatch) -> Float[Tensor, ""]:
        """Each pair of modalities of the answers against each other, in both directions."""
        targets = batch.at_targets(batch.targets)
        present = self.present[targets].unbind(1)
        return self._mean(
            [
                self._contrast(answers[both, a], answers[both, b], targets[both])
                for a in range(len(present))
                for b in range(len(present))
                if a != b and anywhere(bool((both := present[a] & present[b]).any()))
            ]
        )

    def _contrast(self, queries: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
        (keys, others), first = gather(keys, targets)
        same = targets[:, None] == others
        return in_batch_contrastive(queries, keys, same, self.config.temperature, first=first)

    def _mean(self, terms: list[Tensor]) -> Tensor:
        return torch.stack(terms).mean() if terms else self.positions.weight.new_zeros(())
