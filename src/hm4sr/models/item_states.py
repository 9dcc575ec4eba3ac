"""Models whose encoder reads what they score against: the table of item states is built once a step."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from hm4sr.models.base import SeqRecModel, TransformerConfig
from hm4sr.nn.experts import FeatureExperts, NoisyDenseMoE
from hm4sr.nn.sampling import ItemView
from hm4sr.types import Catalog, SeqBatch


class ItemStateModel(SeqRecModel):
    """A model with one table of item states, from which both the encoder's input and the candidates are made.

    A subclass gives `item_states` and `read`, and where a candidate is not the state itself, `candidates`
    and `query`: a score is the dot product of `query(read(...))` and `candidates(...)`.
    """

    def item_states(self, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U S"]:
        """States of the given items, or of the whole catalogue."""
        raise NotImplementedError

    def read(self, states: Float[Tensor, "B L S"], batch: SeqBatch) -> Float[Tensor, "B L D"]:
        """Hidden vector after each event of histories whose items have these states."""
        raise NotImplementedError

    def read_newest(self, states: Float[Tensor, "B L S"], batch: SeqBatch) -> Float[Tensor, "B D"]:
        """Hidden vector after the newest event of each history; a subclass may compute that alone."""
        return batch.at_end(self.read(states, batch))

    def candidates(self, states: Float[Tensor, "U S"]) -> Float[Tensor, "U Q"]:
        """What the dot product takes of the items."""
        return states

    def query(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... Q"]:
        """What the dot product takes of the histories."""
        return hidden.float()

    def item_vectors(self, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U Q"]:
        """Candidate vectors of the given items, or of the whole catalogue."""
        return self.candidates(self.item_states(items))

    def tables_to_fix(self) -> dict[str, Tensor]:
        """See the base; the states are kept beside the candidates made of them."""
        states = self.item_states()
        return {"items": self.candidates(states), "states": states}

    def encode(self, batch: SeqBatch) -> Float[Tensor, "B L Q"]:
        """Query vector after each event."""
        return self.query(self.read(F.embedding(batch.items, self._states_now()), batch))

    def last_hidden(self, batch: SeqBatch) -> Float[Tensor, "B Q"]:
        """Query vector of each whole history."""
        return self.query(self.read_newest(F.embedding(batch.items, self._states_now()), batch))

    def _states_now(self) -> Tensor:
        return self._fixed["states"] if self._fixed else self.item_states()

    def losses(self, batch: SeqBatch) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of the targets."""
        hidden, view = self.look(batch)
        return {"main": self.state_loss(hidden, view)}

    def look(self, batch: SeqBatch) -> tuple[Float[Tensor, "N D"], ItemView]:
        """Hidden vectors at the learned positions, and a view whose vectors are item states.

        A model that is not parallel learns at the newest event of each history.
        """
        with self.mixed_precision():
            view = self.view(batch, self.item_states)
            # Padding must not learn, whatever the encoder makes of it.
            seen = F.embedding(view.items, view.vectors, padding_idx=0)
            hidden = (
                batch.at_targets(self.read(seen, batch)) if self.parallel else self.read_newest(seen, batch)
            )
        return hidden.float(), view

    def state_loss(self, hidden: Float[Tensor, "N D"], view: ItemView) -> Float[Tensor, ""]:
        """Cross-entropy against the candidates that a view's states make."""
        return self.main_loss(
            self.query(hidden), replace(view, vectors=self.candidates(view.vectors.float()))
        )


class CosineConfig(TransformerConfig):
    """Settings of a model that scores by the cosine."""

    temperature: float = Field(0.07, gt=0)
    """tau, which divides the cosine."""


class AdaptorConfig(CosineConfig):
    """Settings of a model that reads features through whitening experts."""

    experts: int = Field(8, gt=0)
    """K, whitening experts of a modality."""
    adaptor_dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout of the features in front of the experts."""
    gate_noise: float = Field(1.0, ge=0)
    """Scale of the noise on the experts' gate in training."""
    own_masks: bool = False
    """Each expert drops other elements, as in the original, at K times the cost."""


def make_adaptors(
    kind: type[FeatureExperts],
    config: AdaptorConfig,
    catalog: Catalog,
    rng: torch.Generator,
    positions: int | None = None,
) -> nn.ModuleDict:
    """Whitening experts for each modality, by name."""
    c, made = config, nn.ModuleDict()
    for name, given in sorted(catalog.features.items()):
        width = given.vectors.shape[1]
        moe = NoisyDenseMoE(
            width, c.dim, c.experts, c.adaptor_dropout, c.gate_noise, c.own_masks, rng, positions
        )
        made[name] = kind(given, moe)
    return made


class CosineModel(ItemStateModel):
    """Score = cosine / tau, as a dot product of normalised vectors. Its `config` has a `temperature`."""

    def represent(self, states: Float[Tensor, "U S"]) -> Float[Tensor, "U D"]:
        """The item vector whose direction counts."""
        return states

    def candidates(self, states: Float[Tensor, "U S"]) -> Float[Tensor, "U D"]:
        """Item vectors of length 1."""
        return F.normalize(self.represent(states), dim=-1)

    def query(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """History vectors of length 1 / tau."""
        query: Tensor = F.normalize(hidden.float(), dim=-1) / self.config.temperature
        return query
