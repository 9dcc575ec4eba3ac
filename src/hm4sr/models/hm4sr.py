"""HM4SR: hierarchical time-aware mixture of experts (Zhang et al., WWW 2025)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from hm4sr.models.base import SeqRecModel, TransformerConfig, apply_preset, register, rows_of
from hm4sr.nn.attention import SequenceEncoder
from hm4sr.nn.init import embedding, linear
from hm4sr.nn.losses import category_loss, in_batch_contrastive
from hm4sr.nn.moe import InteractiveMoE, TemporalMoE
from hm4sr.nn.projection import FeatureProjection
from hm4sr.nn.ranks import gather
from hm4sr.nn.sampling import ItemView
from hm4sr.nn.time import TimeEmbedding, TimeKind, TimeUnit
from hm4sr.types import Catalog, ItemFeatures, SeqBatch

_LARGEST_TABLE = 16_000_000
"""Numbers that the interactive experts may find in all items together, to be kept while judging: 64 MB."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released": {
        "train_temporal_experts": False,
        "released_time": True,
        "time_unit": "seconds",
        "exclude_false_negatives": False,
        "replace_at_least_one": False,
        "score_padding": True,
        "learn_missing": False,
        "center_features": False,
        "cp_weight": 0.0,
    },
}
"""Named settings; keys given beside `preset` win over it."""


class HM4SRConfig(TransformerConfig):
    """Settings of HM4SR; where paper and released code differ, docs/hm4sr.md says what was chosen and why."""

    preset: Literal["paper", "released"] = "paper"
    """`released` flips all switches to what the authors' code does (CP is left out: theirs has a slip)."""
    interactive_experts: int = Field(4, ge=0)
    """K1; 0 removes the Interactive MoE (ablation -IMoE)."""
    temporal_experts: int = Field(4, ge=0)
    """K2; 0 removes the Temporal MoE and with it PCL (ablation -TMoE)."""
    train_temporal_experts: bool = True
    """Whether the temporal experts learn; the released code leaves them at their random start."""
    time_embedding: TimeKind = "full"
    """What routes the temporal experts: interval and absolute time, one of them, or one of section 5.5."""
    time_unit: TimeUnit = "days"
    """Unit of absolute time: days since the first training day, or seconds since then."""
    released_time: bool = False
    """Time in float32, phase inside the frequency factor, small random frequencies, as released."""
    interval_scale: float = Field(100.0, gt=0)
    """mu: rows of the interval table for each doubling of the interval."""
    frequency_base: float = Field(10_000.0, gt=1)
    """freq: ratio of the fastest to the slowest frequency of absolute time."""
    cp_weight: float = Field(1.0, ge=0)
    """lambda 1, weight of category prediction; 0 removes it."""
    idcl_weight: float = Field(1.0, ge=0)
    """lambda 2, weight of contrastive learning on IDs; 0 removes it."""
    pcl_weight: float = Field(1.0, ge=0)
    """lambda 3, weight of placeholder contrastive learning; 0 removes it."""
    temperature: float = Field(0.2, gt=0)
    """tau of contrastive learning on IDs."""
    pcl_temperature: float = Field(1.0, gt=0)
    """Temperature of placeholder contrastive learning."""
    placeholder_share: float = Field(0.3, ge=0, le=1)
    """beta: share of the positions that a placeholder replaces."""
    replace_at_least_one: bool = True
    """Replace one position even where beta times the length is below one (from length 2 on). It is a position
    of the whole row: in a pass over all positions the shortest prefixes of a row may have none."""
    exclude_false_negatives: bool = True
    """Leave rows of the same target out of the contrastive sums; otherwise each adds exp(0)."""
    score_padding: bool = False
    """Make padding a class of the training softmax, as RecBole does."""
    learn_missing: bool = True
    """A learned vector stands in for a missing modality; otherwise the projection of zeros."""
    center_features: bool = True
    """Project each frozen vector minus their mean; the projection's bias could express the same."""
    aware_gates: bool = False
    """Let the interactive gates know which modalities an item lacks, by a learned shift for each."""

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        return apply_preset(PRESETS, values)


@register("hm4sr")
class HM4SR(SeqRecModel):
    """Interactive and Temporal MoE, a causal Transformer for each modality; CP, IDCL and PCL in training.

    The modalities stand side by side in one tensor (B L M D): ID first, then those of the catalogue by
    name, so that it runs with text and pictures, with one of them, or with IDs alone.
    """

    Config = HM4SRConfig
    categories: Tensor
    multimodal = True
    shardable = True

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        self.modalities = ["id", *sorted(catalog.features)]
        num_modalities = len(self.modalities)
        width = num_modalities * c.dim
        self.items = embedding(catalog.num_rows, c.dim, rng, padding=True)
        self.positions = embedding(catalog.max_length, c.dim, rng)
        self.projections = nn.ModuleDict(
            {
                name: FeatureProjection(
                    catalog.features[name], c.dim, rng, c.learn_missing, c.center_features
                )
                for name in self.modalities[1:]
            }
        )
        self.interactive = None
        if c.interactive_experts:
            strength = [0.0] + [1.0] * (num_modalities - 1)
            lacking = any(not bool(known.present[1:].all()) for known in catalog.features.values())
            self.interactive = InteractiveMoE(
                num_modalities, c.dim, c.interactive_experts, strength, rng, c.aware_gates and lacking
            )
        self.time, self.temporal = None, None
        if c.temporal_experts:
            self.time = TimeEmbedding(
                c.time_embedding,
                c.dim,
                catalog.clock,
                c.interval_scale,
                c.frequency_base,
                c.time_unit,
                c.released_time,
                rng,
            )
            self.temporal = TemporalMoE(
                width, self.time.width, c.temporal_experts, c.train_temporal_experts, rng
            )
        self.encoders = nn.ModuleDict(
            {
                name: SequenceEncoder(c.dim, c.layers, c.heads, c.inner, c.dropout, c.attention_dropout, rng)
                for name in self.modalities
            }
        )
        self.category_head = None
        if c.cp_weight and catalog.categories is not None:
            self.category_head = linear(width, catalog.num_categories, rng, std=None)
            self.register_buffer("categories", catalog.categories.to(torch.empty(0).device), persistent=False)
        self._lacking: Tensor | None = None  # of new items as well, once there are some
        self.placeholders = None
        if c.pcl_weight and self.time is not None and num_modalities > 1:
            self.placeholders = nn.ModuleDict(
                {name: linear(self.time.width, c.dim, rng, std=None) for name in self.modalities[1:]}
            )

    def item_vectors(self, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U Q"]:
        """[x_id; x_txt; x_img] of each item, without position (Q = M D; eq. 4-5, 19)."""
        projected = [self.projections[name](self.matmul_dtype, items) for name in self.modalities[1:]]
        return torch.cat([rows_of(self.items, items), *projected], dim=1)

    def new_item_vectors(self, features: Mapping[str, ItemFeatures]) -> Float[Tensor, "U Q"] | None:
        """[mean of x_id; x_txt; x_img] of items that came after training; None for a model on IDs alone.

        The mean gives the ID term its average over the catalogue, so the other modalities alone decide on a
        new item's place. Zeros would lift whatever is new where training has pushed the ID vectors of seldom
        chosen items away from the histories, so that the average ID term is below zero.
        """
        if not self.projections:
            return None
        projected = []
        for name, projection in self.projections.items():
            assert isinstance(projection, FeatureProjection)
            projected.append(projection.new(features[name], self.config.learn_missing))
        x_id = self.items.weight[1:].mean(0)
        return torch.cat([x_id.expand(len(projected[0]), -1), *projected], dim=1)

    def append_items(self, vectors: Float[Tensor, "U Q"], features: Mapping[str, ItemFeatures]) -> None:
        """See the base; the interactive gates may want to know what the new items lack."""
        super().append_items(vectors, features)
        lacking = torch.stack([~features[name].present[1:] for name in self.modalities[1:]], dim=-1)
        self._lacking = torch.cat([self._what_items_lack(), lacking.to(vectors.device)])

    def blocks(self) -> dict[str, slice]:
        """The vectors of the modalities stand side by side (eq. 19)."""
        D = self.config.dim
        return {name: slice(m * D, (m + 1) * D) for m, name in enumerate(self.modalities)}

    @contextmanager
    def fixed_items(self) -> Iterator[Float[Tensor, "V Q"]]:
        """See the base; what the interactive experts find in each item is computed once as well.

        They are linear, so what they find in an event is what they find in its item and in its position.
        """
        with super().fixed_items() as vectors:
            experts = (
                None if self.interactive is None or self.bounds is not None else self.interactive.experts
            )
            if experts is not None and len(vectors) * experts.out_features <= _LARGEST_TABLE:
                self._fixed["found"] = F.linear(vectors, experts.weight).detach()
            yield vectors

    def encode(self, batch: SeqBatch) -> Float[Tensor, "B L Q"]:
        """[H_id; H_txt; H_img] after each event (eq. 18)."""
        x, _ = self._mix_experts(self.vectors_of(batch.items), batch)
        hidden = [self.encoders[name](x[:, :, m]) for m, name in enumerate(self.modalities)]
        return self.ask(torch.cat(hidden, dim=-1), batch, lambda moments: moments)

    def last_hidden(self, batch: SeqBatch) -> Float[Tensor, "B Q"]:
        """Vector of each whole history."""
        x, _ = self._mix_experts(self.vectors_of(batch.items), batch)
        parts = enumerate(self.modalities)
        hidden = [self._encoder(name).newest(x[:, :, m], batch.lengths) for m, name in parts]
        return self.ask(torch.cat(hidden, dim=1), batch, batch.at_end)

    def ask(
        self, hidden: Float[Tensor, "*N Q"], batch: SeqBatch, place: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "*N Q"]:
        """Room for what the moment of the question says, of which HM4SR as published knows nothing.

        Args:
            hidden: vectors of histories.
            batch: where they come from.
            place: picks what belongs to them from one value a position (B x L).
        """
        return hidden

    def _encoder(self, name: str) -> SequenceEncoder:
        encoder = self.encoders[name]
        assert isinstance(encoder, SequenceEncoder)
        return encoder

    def _mix_experts(self, x: Float[Tensor, "B L Q"], batch: SeqBatch) -> tuple[Tensor, Tensor | None]:
        """Positions, Interactive MoE, Temporal MoE (eq. 6-16); also the time vectors for the placeholders."""
        e = self._positioned(x)
        if self.interactive is not None:
            e = self.interactive(e, self._missing(batch), self._found(batch.items))
        if self.time is None or self.temporal is None:
            return e, None
        time: Tensor = self.time(batch.times)
        return self.temporal(e, time), time

    def _found(self, items: Int[Tensor, "B L"]) -> Float[Tensor, "B L E"] | None:
        """What the interactive experts find in the events, where their items' part is known."""
        if self.interactive is None or "found" not in self._fixed:
            return None
        positions = self.positions.weight[: items.shape[1]].repeat(1, len(self.modalities))
        at_positions: Tensor = self.interactive.experts(positions)
        return F.embedding(items, self._fixed["found"]).add_(at_positions)

    def _positioned(self, x: Float[Tensor, "B L Q"]) -> Float[Tensor, "B L M D"]:
        """Modalities side by side, each with the vector of its position (eq. 6)."""
        B, L, _ = x.shape
        e: Tensor = x.view(B, L, len(self.modalities), self.config.dim) + self.positions.weight[:L, None]
        return e

    def gates(self, batch: SeqBatch) -> dict[str, Float[Tensor, "B L K"]]:
        """Gates of the Interactive MoE, one for each modality (eq. 9), and of the Temporal MoE (eq. 14)."""
        gates = {}
        if self.interactive is not None:
            found = self.interactive.gates(
                self._positioned(self.vectors_of(batch.items)), self._missing(batch)
            )
            gates = {f"interactive {name}": found[:, :, m] for m, name in enumerate(self.modalities)}
        if self.time is not None and self.temporal is not None:
            gates["temporal"] = self.temporal.gates(self.time(batch.times))
        return gates

    def _missing(self, batch: SeqBatch) -> Bool[Tensor, "B L _"] | None:
        """Which modalities beside the ID each event's item lacks, where the gates want to know."""
        if self.interactive is None or self.interactive.missing_shift is None:
            return None
        return self._what_items_lack(batch.items)

    def _what_items_lack(self, items: Int[Tensor, "..."] | slice = slice(None)) -> Bool[Tensor, "... _"]:
        if self._lacking is not None:
            return self._lacking[items]
        lacking = [self.projections[name].get_buffer("missing")[items] for name in self.modalities[1:]]
        return torch.stack(lacking, dim=-1)

    def losses(self, batch: SeqBatch) -> dict[str, Float[Tensor, ""]]:
        """Main loss, CP, IDCL and PCL (eq. 20-27), weighted."""
        c = self.config
        view = self.view(batch)
        seen = view.of_batch()
        with self.mixed_precision():
            x, time = self._mix_experts(seen, batch)
            hidden, twins = self._encode_twice(x, time, batch)
        asked = self.ask(torch.cat(hidden, dim=1), batch, batch.at_targets)
        terms = {"main": self.next_item_loss(asked, view, batch)}
        if self.category_head is not None:
            logits = self.category_head(batch.at_events(seen))
            categories = F.embedding(batch.at_events(batch.items), self.categories)
            terms["cp"] = c.cp_weight * category_loss(logits, categories, "events")
        return terms | self._contrasts(hidden, twins, batch)

    def next_item_loss(
        self, hidden: Float[Tensor, "N Q"], view: ItemView, batch: SeqBatch
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the next items (eq. 20)."""
        return self.main_loss(hidden, view, self.config.score_padding)

    def _encode_twice(
        self, x: Float[Tensor, "B L M D"], time: Tensor | None, batch: SeqBatch
    ) -> tuple[list[Tensor], list[Tensor]]:
        """History vectors of each modality at the learned positions, and of the twins with placeholders."""
        hidden, twins = [], []
        replaced = self._draw_replaced(batch)
        for m, name in enumerate(self.modalities):
            plain = x[:, :, m]
            if self.placeholders is None or m == 0:
                hidden.append(batch.at_targets(self.encoders[name](plain)).float())
                continue
            other = torch.where(replaced, self.placeholders[name](time).to(plain.dtype), plain)
            both = self.encoders[name](torch.cat([plain, other]))  # one call, two dropout draws
            view, twin = both.chunk(2)
            hidden.append(batch.at_targets(view).float())
            twins.append(batch.at_targets(twin).float())
        return hidden, twins

    def _draw_replaced(self, batch: SeqBatch) -> Bool[Tensor, "B L 1"]:
        """Choose floor(beta * length) random real positions of each row for the placeholder."""
        counts = (self.config.placeholder_share * batch.lengths).floor()
        if self.config.replace_at_least_one and self.config.placeholder_share:
            counts = counts.clamp_min(1) * (batch.lengths > 1)
        draws = torch.rand(batch.items.shape, generator=self.rng, device=batch.items.device)
        place = draws.masked_fill(~batch.valid, 2.0).argsort(1).argsort(1)
        replaced: Tensor = (place < counts[:, None])[..., None]
        return replaced

    def _contrasts(self, hidden: list[Tensor], twins: list[Tensor], batch: SeqBatch) -> dict[str, Tensor]:
        """IDCL: each history's ID vector and its target (eq. 23). PCL: each history and its twin with
        placeholders, mean over modalities (eq. 24-26).

        In a pass over all positions, neighbouring prefixes of one user are nearly the same history; they are
        no negatives of each other in PCL.
        """
        c = self.config
        targets, users = (
            batch.at_targets(x) for x in (batch.targets, batch.users[:, None].expand_as(batch.items))
        )
        answers = [self.items(targets)] if c.idcl_weight else []
        if not answers and not twins:
            return {}
        everyone, first = gather(targets, users, *answers, *twins, of="targets")
        all_targets, all_users, *keys = everyone
        ignored = targets[:, None] == all_targets
        terms = {}
        if answers:
            terms["idcl"] = c.idcl_weight * in_batch_contrastive(
                hidden[0], keys.pop(0), ignored, c.temperature, c.exclude_false_negatives, first, "targets"
            )
        if twins:
            if c.exclude_false_negatives:
                ignored = ignored | (users[:, None] == all_users)
            contrasts = [
                in_batch_contrastive(
                    view, twin, ignored, c.pcl_temperature, c.exclude_false_negatives, first, "targets"
                )
                for view, twin in zip(hidden[1:], keys, strict=True)
            ]
            terms["pcl"] = c.pcl_weight * torch.stack(contrasts).mean()
        return terms
