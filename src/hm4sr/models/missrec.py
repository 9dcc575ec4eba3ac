"""MISSRec: interests found by clustering, read by a decoder over the history."""

import math
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hm4sr.models.base import register, require_features, rows_of
from hm4sr.models.item_states import CosineConfig, CosineModel
from hm4sr.nn.attention import LAYER_NORM_EPS
from hm4sr.nn.clustering import density_peaks, kmeans
from hm4sr.nn.cross_attention import ReadingLayer, SetLayer
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import embedding, zeros
from hm4sr.nn.projection import FeatureProjection, presence
from hm4sr.nn.ranks import share
from hm4sr.nn.sampling import ItemView
from hm4sr.types import Catalog, SeqBatch

_CHUNK_ELEMENTS = 8_000_000
_ORIGINAL_BATCH = 512


class MISSRecConfig(CosineConfig):
    """Settings of MISSRec. Half of the `layers` encode interests, the others read the history."""

    layers: int = Field(2, ge=2)
    """Transformer layers, of both stacks together."""
    cluster_ratio: float = Field(0.5, gt=0, le=1)
    """r, clusters for each feature vector of the catalogue."""
    clustering: Literal["kmeans", "density-peaks"] = "kmeans"
    """How interests are found before each epoch: as in the released code, or as in the paper (slower)."""
    cluster_passes: int = Field(5, gt=0)
    """Most passes of k-means; the released code asks for 5 and ends after 1."""
    cluster_neighbours: int = Field(5, gt=0)
    """Neighbours that say how dense a point lies, for density peaks."""
    fusion: Literal["dynamic", "static"] = "dynamic"
    """Whether the modalities' cosines weigh each other in a score, or count alike."""
    interest_weight: float = Field(1e-4, ge=0)
    """gamma, weight of the penalty on interests that resemble each other, for 512 histories a step."""
    penalty: Literal["masked-mean", "official"] = "masked-mean"
    """The penalty looks at the mean of the interests, or as released at a sum that includes padding."""


@register("missrec")
class MISSRec(CosineModel):
    """Multi-modal interest-aware sequence representation (Wang et al., MM 2023), trained from scratch.

    Before each epoch all projected feature vectors are clustered. A history is then two things: the set of
    its items' clusters, read by an encoder, and the sequence of its items, read by a decoder that attends to
    that set. Both see the whole history, so the model is trained on prefixes.

    A score is (cos(u, E) + m sum_i w_i cos(u, x_i)) / ((1 + m) tau) over m modalities, w a softmax of
    phi cos(u, x_i) with one learned phi: it does not factorise unless there is one modality or fusion is
    static. There is no pre-training on other data sets.

    Beside the original: a learned vector stands in for a missing modality, which has no cluster; padding is
    no class of the softmax; the penalty does not grow with the batch; projections start like all other linear
    layers here.
    """

    Config = MISSRecConfig
    parallel = False
    multimodal = True
    score_tables = 10
    centroids: Tensor
    clusters: Tensor
    present: Tensor

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        require_features(catalog, self.name)
        features = sorted(catalog.features.items())
        self.items = embedding(catalog.num_rows, c.dim, rng, padding=True)
        self.positions = embedding(catalog.max_length, c.dim, rng)
        self.projections = nn.ModuleDict(
            {name: FeatureProjection(given, c.dim, rng) for name, given in features}
        )
        self.norm = nn.LayerNorm(c.dim, LAYER_NORM_EPS)
        self.dropout = Dropout(c.dropout, rng)
        widths = (c.dim, c.heads, c.inner, c.dropout, c.attention_dropout, rng)
        self.encoder = nn.ModuleList(SetLayer(*widths) for _ in range(c.layers // 2))
        self.decoder = nn.ModuleList(ReadingLayer(*widths) for _ in range(c.layers - c.layers // 2))
        self.norm_interests = nn.LayerNorm(c.dim, LAYER_NORM_EPS)
        self.norm_out = nn.LayerNorm(c.dim, LAYER_NORM_EPS)
        self.phi = zeros(1) if c.fusion == "dynamic" and len(features) > 1 else None
        self.register_buffer("present", presence(catalog.features), persistent=False)
        num_vectors = sum(int(given.present.sum()) for given in catalog.features.values())
        num_clusters = max(1, math.ceil(c.cluster_ratio * num_vectors))
        self.register_buffer("centroids", torch.zeros(num_clusters + 1, c.dim))  # row 0 is no interest
        self.register_buffer("clusters", torch.zeros(self.present.shape, dtype=torch.int64))

    def item_states(self, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U S"]:
        """[E; x_1; ...; x_m] of each item (S = (1 + m) dim)."""
        projected = [projection(self.matmul_dtype, items) for projection in self.projections.values()]
        return torch.cat([rows_of(self.items, items), *projected], dim=1)

    @torch.no_grad()
    def start_epoch(self, epoch: int) -> None:
        """Find the interests anew in the present projections of all features."""
        c = self.config
        projected = [projection(torch.float32) for projection in self.projections.values()]
        points = torch.stack(projected, dim=1)[self.present]
        num_clusters = len(self.centroids) - 1
        if not len(points):
            return
        if c.clustering == "kmeans":
            centroids, assigned = kmeans(points, num_clusters, c.cluster_passes, self.rng)
        else:
            centroids, assigned = density_peaks(points, num_clusters, c.cluster_neighbours)
        self.centroids[1:] = centroids
        self.clusters[self.present] = assigned + 1

    def interests(self, items: Int[Tensor, "B L"]) -> tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"]]:
        """The distinct clusters of each history's items, encoded, and which of the T slots are empty.

        A history without any has one slot, a vector of zeros.
        """
        found = F.embedding(items, self.clusters).flatten(1).sort(dim=1, descending=True).values
        repeated = F.pad(found[:, 1:] == found[:, :-1], (1, 0))
        distinct = found.masked_fill(repeated, 0).sort(dim=1, descending=True).values
        width = int((distinct > 0).sum(1).max()) + 1
        distinct = F.pad(distinct, (0, 1))[:, :width]
        empty = distinct == 0
        x = F.embedding(distinct, self.centroids)
        for layer in self.encoder:
            x = layer(x, _unread(empty))
        return self.norm_interests(x), empty

    def read(self, states: Float[Tensor, "B L S"], batch: SeqBatch) -> Float[Tensor, "B L D"]:
        """Read the history in the light of its interests."""
        return self._read(states, batch, *self.interests(batch.items), everywhere=True)

    def read_newest(self, states: Float[Tensor, "B L S"], batch: SeqBatch) -> Float[Tensor, "B D"]:
        """The same; the last layer at the newest event of each history alone."""
        return self._read(states, batch, *self.interests(batch.items), everywhere=False)[:, 0]

    def _read(
        self, states: Tensor, batch: SeqBatch, memory: Tensor, empty: Tensor, everywhere: bool
    ) -> Tensor:
        summed = states.view(*states.shape[:-1], -1, self.config.dim).sum(-2)
        x = self.dropout(self.norm(summed + self.positions.weight[: batch.items.shape[1]]))
        context = (~batch.valid, memory, _unread(empty))
        *lower, top = self.decoder
        for layer in lower:
            x = layer(x, *context)
        x = top(x, *context) if everywhere else top(batch.at_end(x)[:, None], *context, x)
        out: Tensor = self.norm_out(x)
        return out

    def candidates(self, states: Float[Tensor, "U S"]) -> Float[Tensor, "U S"]:
        """The states themselves: `scores` needs the modalities apart."""
        return states

    def scores(self, batch: SeqBatch, candidates: Float[Tensor, "V S"]) -> Float[Tensor, "B V"]:
        """Fused cosines over tau; padding gets minus infinity."""
        scores = self._fused(self.last_hidden(batch), self._directions(candidates))
        scores[:, 0] = -torch.inf
        return scores

    def _directions(self, states: Float[Tensor, "U S"]) -> Float[Tensor, "U M D"]:
        return F.normalize(states.view(len(states), -1, self.config.dim), dim=-1)

    def _fused(self, query: Float[Tensor, "N D"], items: Float[Tensor, "U M D"]) -> Float[Tensor, "N U"]:
        """Score of each item after each history; M counts the ID, which comes first."""
        if self.phi is None:
            return query @ items.mean(1).T
        x_id, *rest = ((query @ items[:, m].T) for m in range(items.shape[1]))
        cosines = torch.stack(rest)
        weights = (self.phi * self.config.temperature * cosines).softmax(0)
        fused: Tensor = (x_id + len(rest) * (weights * cosines).sum(0)) / (1 + len(rest))
        return fused

    def losses(self, batch: SeqBatch) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of the targets, and the penalty on interests."""
        c = self.config
        with self.mixed_precision():
            view = self.view(batch, self.item_states)
            memory, empty = self.interests(batch.items)
            seen = F.embedding(view.items, view.vectors, padding_idx=0)
            hidden = self._read(seen, batch, memory, empty, everywhere=False)[:, 0]
        query = self.query(hidden)
        items = self._directions(view.vectors.float())
        if self.phi is None:
            terms = {"main": self.main_loss(query, replace(view, vectors=items.mean(1)))}
        else:
            terms = {"main": self._fused_loss(query, items, view)}
        if c.interest_weight:
            terms["interests"] = c.interest_weight * self._penalty(memory.float(), empty)
        return terms

    def _fused_loss(
        self, query: Float[Tensor, "N D"], items: Float[Tensor, "U M D"], view: ItemView
    ) -> Float[Tensor, ""]:
        """Cross-entropy of scores that do not factorise; a chunk's are computed again for the gradient."""
        size = max(1, _CHUNK_ELEMENTS // items.shape[:2].numel())
        parts = [
            checkpoint(
                self._chunk_loss,
                *chunk,
                items,
                view.log_weights,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for chunk in zip(torch.split(query, size), torch.split(view.targets, size), strict=True)
        ]
        return share(torch.stack(parts).sum() / len(query), len(query), "targets")

    def _chunk_loss(
        self, query: Tensor, targets: Tensor, items: Tensor, log_weights: Tensor | None
    ) -> Float[Tensor, ""]:
        with self.mixed_precision():
            logits = self._fused(query, items).float()
        if log_weights is not None:
            own = logits.gather(1, targets[:, None])
            logits = (logits + log_weights).scatter(1, targets[:, None], own)
        return F.cross_entropy(logits[:, 1:], targets - 1, reduction="sum")

    def _penalty(self, memory: Float[Tensor, "B T D"], empty: Bool[Tensor, "B T"]) -> Float[Tensor, ""]:
        """Squared mean of a history's interests: their products in pairs, over all histories of a step."""
        real = ~empty
        if self.config.penalty == "official":
            means = real.float().mean(1, keepdim=True) * memory.sum(1)
        else:
            means = (memory * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp_min(1)
        return share(_ORIGINAL_BATCH * means.square().mean(), len(means), "histories")


def _unread(empty: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """The slots that attention leaves out: all empty ones but the first, for it must see something."""
    unread = empty.clone()
    unread[:, 0] = False
    return unread
