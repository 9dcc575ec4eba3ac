"""UniSRec: text through whitening experts, with an ID in the transductive setting."""

from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from hm4sr.models.base import register, require_features
from hm4sr.models.item_states import CosineConfig, CosineModel
from hm4sr.nn.attention import SequenceEncoder
from hm4sr.nn.experts import NoisyDenseMoE
from hm4sr.nn.init import embedding
from hm4sr.nn.projection import FrozenFeatures, by_rows
from hm4sr.types import Catalog, SeqBatch


class UniSRecConfig(CosineConfig):
    """Settings of UniSRec."""

    experts: int = Field(8, gt=0)
    """K, whitening experts of a modality."""
    adaptor_dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout of the features in front of the experts."""
    own_masks: bool = False
    """Each expert drops other elements, as in the original, at K times the cost."""


@register("unisrec")
class UniSRec(CosineModel):
    """Universal sequence representation (Hou et al., KDD 2022), transductive, trained from scratch.

    An item is z + E: frozen text through a mixture of whitening experts, plus an ID vector. Both the history
    and the candidates are made of it, and a score is their cosine over tau.

    Beside the original: items are mapped once a step, so that history and candidates share dropout and gate
    noise, and the experts share one mask (`own_masks`); an item without text is its ID alone (there: the
    experts' answer to zeros); several modalities are added up. There is no pre-training on other data sets,
    as in the original's own training from scratch.
    """

    Config = UniSRecConfig
    multimodal = True

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        require_features(catalog, self.name)
        self.items = embedding(catalog.num_rows, c.dim, rng, padding=True)
        self.positions = embedding(catalog.max_length, c.dim, rng)
        features = sorted(catalog.features.items())
        self.frozen = nn.ModuleDict({name: FrozenFeatures(given) for name, given in features})
        self.adaptors = nn.ModuleDict(
            {
                name: NoisyDenseMoE(
                    given.vectors.shape[1], c.dim, c.experts, c.adaptor_dropout, rng, own_masks=c.own_masks
                )
                for name, given in features
            }
        )
        self.encoder = SequenceEncoder(c.dim, c.layers, c.heads, c.inner, c.dropout, c.attention_dropout, rng)

    def item_states(self, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U D"]:
        """z + E of the given items, or of the whole catalogue."""
        if items is None and not torch.is_grad_enabled():
            return by_rows(self.item_states, self.catalog.num_rows, self.items.weight.device)
        states = self.items.weight if items is None else self.items(items)
        for name, adaptor in self.adaptors.items():
            frozen = self.frozen[name]
            missing = frozen.missing if items is None else frozen.missing[items]
            z = adaptor(frozen.rows(self.matmul_dtype, items))
            states = states + z.masked_fill(missing[:, None], 0.0)
        return states

    def read(self, states: Float[Tensor, "B L D"], batch: SeqBatch) -> Float[Tensor, "B L D"]:
        """Causal Transformer over items and positions."""
        hidden: Tensor = self.encoder(states + self.positions.weight[: batch.items.shape[1]])
        return hidden
