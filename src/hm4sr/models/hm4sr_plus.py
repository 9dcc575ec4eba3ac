"""HM4SR that is told when it is asked and what was had."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from hm4sr.models.base import register
from hm4sr.models.hm4sr import HM4SR, HM4SRConfig
from hm4sr.nn.question import QuestionTime
from hm4sr.nn.sampling import ItemView
from hm4sr.nn.seen import SeenTerm, seen_at_targets
from hm4sr.types import Catalog, SeqBatch


class HM4SRPlusConfig(HM4SRConfig):
    """Settings of HM4SR, and of what is added to it; PCL is left out, which validates better without."""

    pcl_weight: float = Field(0.0, ge=0)
    """lambda 3, weight of placeholder contrastive learning (the paper's model has 1); 0 leaves it out."""
    question_scale: float = Field(4.0, gt=0)
    """Rows of the table of gaps before the question for each doubling of the gap."""
    question: bool = True
    """Read the moment of the question."""
    seen_bias: bool = True
    """Learn one number that is added to the scores of the items of the history."""


@register("hm4sr-plus")
class HM4SRPlus(HM4SR):
    """HM4SR with the moment of the question as an input, and a term for the items of the history.

    HM4SR lets time decide how the events of a history are read. What is wanted next depends as well on how
    long ago the newest event was (the same visit, or a year later) and on the season and the fashion of the
    moment, and a recommender knows when it is asked. In training and judging that is the moment of the
    target: beside a model that knows the history alone, say so.

    Beside the dot product stands one learned number for whatever was had already, which two vectors cannot
    tell: see `SeenTerm`.
    """

    Config = HM4SRPlusConfig

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        width = len(self.modalities) * config.dim
        self.question = None
        if config.question:
            self.question = QuestionTime(
                width, config.dim, catalog.clock, config.question_scale, config.frequency_base, rng
            )
        self.seen = SeenTerm() if config.seen_bias else None

    def ask(
        self, hidden: Float[Tensor, "*N Q"], batch: SeqBatch, place: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "*N Q"]:
        """Scale and shift the vectors of histories; see `QuestionTime`."""
        if self.question is None:
            return hidden
        newest = place(batch.times)
        asked = newest if batch.asked is None else place(batch.asked)
        answer: Tensor = self.question(hidden, newest, asked)
        return answer

    def next_item_loss(
        self, hidden: Float[Tensor, "N Q"], view: ItemView, batch: SeqBatch
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the next items (eq. 20), the scores of those that were had raised."""
        if self.seen is None:
            return super().next_item_loss(hidden, view, batch)
        raised = view.rows_of(seen_at_targets(batch))
        return self.main_loss(hidden, view, self.config.score_padding, raised, self.seen())

    def seen_bias(self) -> float:
        """What is added to the score of every item that stands in the history."""
        return 0.0 if self.seen is None else float(self.seen().detach())
