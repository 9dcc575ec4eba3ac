"""IISAN: side networks on the stored hidden states of frozen encoders."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from hm4sr.models.base import TransformerConfig, register, require_features
from hm4sr.models.item_states import ItemStateModel
from hm4sr.nn.attention import SequenceEncoder
from hm4sr.nn.init import embedding, linear, normal
from hm4sr.nn.levels import InterModalTower, IntraModalTower, LevelRule, stored_levels
from hm4sr.nn.projection import by_rows, presence
from hm4sr.nn.ranks import gather, share
from hm4sr.types import Catalog, SeqBatch


class IISANConfig(TransformerConfig):
    """Settings of IISAN."""

    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of inputs and residual branches of the user encoder."""
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of attention weights."""
    adapter: int = Field(64, gt=0)
    """Width of an adapter's hidden layer."""
    levels: LevelRule = "even"
    """Blocks of the encoders that are read: every second one, all, or the last half; the start always is."""
    center_levels: bool = True
    """Read each block's states minus their mean over the items, at a common scale; published: as they are."""
    loss: Literal["full", "in-batch"] = "full"
    """Softmax over all items (or the sample of train.loss), or as published over those of the batch alone."""


@register("iisan")
class IISAN(ItemStateModel):
    """Intra- and inter-modal side adapted network (Fu et al., SIGIR 2024), with cached hidden states.

    Nothing but small adapters beside the frozen encoders learns: a tower for each modality walks up the
    states of its encoder, another one walks up all of them at once. What they arrive at becomes the item
    vector, which a causal Transformer reads and which the score multiplies. There is no ID.

    `loss = "in-batch"` computes only the items of the batch, corrects their scores by the logarithm of their
    popularity, and takes no item of a user's own history as a negative, as published; a step then costs a
    quarter. Beside the original: one learning rate for all parts; an item that lacks a modality has a learned
    vector for that tower, and none of its share in the common one.
    """

    Config = IISANConfig
    multimodal = True
    present: Tensor

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        require_features(catalog, self.name)
        stored = stored_levels(dict(sorted(catalog.features.items())), c.levels, self.name, c.center_levels)
        self.levels = nn.ModuleDict(stored)
        self.register_buffer("present", presence(catalog.features), persistent=False)
        widths = [len(levels.start) for levels in stored.values()]
        depth = 1 + next(iter(stored.values())).levels.shape[1]
        self.towers = nn.ModuleList(IntraModalTower(width, c.adapter, depth, rng) for width in widths)
        self.common = InterModalTower(widths, c.adapter, depth, rng) if len(widths) > 1 else None
        towers = [*widths, widths[0]] if self.common is not None else widths
        self.heads = nn.ModuleList(
            nn.Sequential(linear(width, width, rng, std=None), linear(width, c.dim, rng, std=None))
            for width in towers
        )
        self.join = linear(len(towers) * c.dim, c.dim, rng, std=None)
        self.stand_ins = nn.ParameterDict(
            {
                name: normal(c.dim, std=0.02, rng=rng)
                for name, given in sorted(catalog.features.items())
                if not bool(given.present[1:].all())
            }
        )
        self.positions = embedding(catalog.max_length, c.dim, rng)
        self.encoder = SequenceEncoder(
            c.dim,
            c.layers,
            c.heads,
            c.inner,
            c.dropout,
            c.attention_dropout,
            rng,
            bias=False,
            activation=F.relu,
        )
        for name, weight in self.encoder.named_parameters():
            if weight.ndim == 2 and not weight.is_meta:
                maps = 3 if "query_key_value" in name else 1  # three maps that lie in one matrix
                for part in weight.data.chunk(maps):
                    nn.init.xavier_normal_(part, generator=rng)

    def item_states(self, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U D"]:
        """Item vectors from the stored states."""
        if items is None:
            device, num_rows = self.positions.weight.device, self.catalog.num_rows
            if not torch.is_grad_enabled():
                return by_rows(self.item_states, num_rows, device)
            items = torch.arange(num_rows, device=device)
        levels = [cached(items) for cached in self.levels.values()]
        present = self.present[items]
        found = []
        for m, (name, tower) in enumerate(zip(self.levels, self.towers, strict=True)):
            x = self.heads[m](tower(levels[m]))
            if name in self.stand_ins:
                x = torch.where(present[:, m, None], x, self.stand_ins[name].to(x.dtype))
            found.append(x)
        if self.common is not None:
            found.append(self.heads[-1](self.common(levels, present)))
        vectors: Tensor = self.join(torch.cat(found, dim=1))
        return vectors

    def read(self, states: Float[Tensor, "B L D"], batch: SeqBatch) -> Float[Tensor, "B L D"]:
        """Causal Transformer over items and positions."""
        hidden: Tensor = self.encoder(states + self.positions.weight[: states.shape[1]])
        return hidden

    def losses(self, batch: SeqBatch) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of the targets over all items, or over those of the batch."""
        if self.config.loss == "full":
            return super().losses(batch)
        if self.catalog.counts is None:
            raise ValueError("the loss within a batch needs the catalogue's training counts")
        own = torch.cat([batch.items, batch.targets], dim=1)
        (everyone,), first = gather(own.flatten())
        rows, place = torch.unique(F.pad(everyone, (1, 0)), return_inverse=True)  # row 0 is padding
        place = place[1 + first :][: own.numel()].view(own.shape)
        with self.mixed_precision():
            states = self.item_states(rows)
            seen, targets = place.chunk(2, dim=1)
            hidden = batch.at_targets(self.read(F.embedding(seen, states), batch)).float()
        popularity = self.catalog.counts.to(rows.device)[rows].clamp_min(1).float().log()
        logits = hidden @ states.float().T - popularity
        mine = torch.zeros(len(own), len(rows), dtype=torch.bool, device=rows.device).scatter_(1, place, True)
        mine[:, 0] = True
        row_of_target = batch.target_places // batch.targets.shape[1]
        answer = batch.at_targets(targets)
        no_negative = mine[row_of_target].scatter(1, answer[:, None], False)
        loss = F.cross_entropy(logits.masked_fill(no_negative, -torch.inf), answer)
        return {"main": share(loss, len(answer), "targets")}
