"""UniSRec: text through whitening experts, with an ID in the transductive setting."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hm4sr.models.base import register, require_features, rows_of
from hm4sr.models.item_states import AdaptorConfig, CosineModel, make_adaptors
from hm4sr.nn.attention import SequenceEncoder
from hm4sr.nn.experts import ItemExperts
from hm4sr.nn.init import embedding
from hm4sr.nn.projection import by_rows
from hm4sr.types import Catalog, SeqBatch


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

    Config = AdaptorConfig
    multimodal = True

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        c = config
        require_features(catalog, self.name)
        self.items = embedding(catalog.num_rows, c.dim, rng, padding=True)
        self.positions = embedding(catalog.max_length, c.dim, rng)
        self.adaptors = make_adaptors(ItemExperts, c, catalog, rng)
        self.encoder = SequenceEncoder(c.dim, c.layers, c.heads, c.inner, c.dropout, c.attention_dropout, rng)

    def item_states(self, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U D"]:
        """z + E of the given items, or of the whole catalogue."""
        if items is None and not torch.is_grad_enabled():
            return by_rows(self.item_states, self.catalog.num_rows, self.items.weight.device)
        states = rows_of(self.items, items)
        for adaptor in self.adaptors.values():
            states = states + adaptor(self.matmul_dtype, items)
        return states

    def read(self, states: Float[Tensor, "B L D"], batch: SeqBatch) -> Float[Tensor, "B L D"]:
        """Causal Transformer over items and positions."""
        hidden: Tensor = self.encoder(states + self.positions.weight[: batch.items.shape[1]])
        return hidden
