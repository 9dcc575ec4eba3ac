"""HM4SR that is told when it is asked."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from hm4sr.models.base import register
from hm4sr.models.hm4sr import HM4SR, HM4SRConfig
from hm4sr.nn.question import QuestionTime
from hm4sr.types import Catalog, SeqBatch


class HM4SRPlusConfig(HM4SRConfig):
    """Settings of HM4SR, and of what is added to it."""

    question_scale: float = Field(4.0, gt=0)
    """Rows of the table of gaps before the question for each doubling of the gap."""


@register("hm4sr-plus")
class HM4SRPlus(HM4SR):
    """HM4SR with the moment of the question as an input: explicit time on both sides of the dot product.

    HM4SR lets time decide how the events of a history are read. What is wanted next depends as well on how
    long ago the newest event was (the same visit, or a year later) and on the season and the fashion of the
    moment, and a recommender knows when it is asked. In training and judging that is the moment of the
    target: beside a model that knows the history alone, say so.
    """

    Config = HM4SRPlusConfig

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__(config, catalog, rng)
        width = len(self.modalities) * config.dim
        self.question = QuestionTime(
            width, config.dim, catalog.clock, config.question_scale, config.frequency_base, rng
        )

    def ask(
        self, hidden: Float[Tensor, "*N Q"], batch: SeqBatch, place: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "*N Q"]:
        """Scale and shift the vectors of histories; see `QuestionTime`."""
        newest = place(batch.times)
        asked = newest if batch.asked is None else place(batch.asked)
        answer: Tensor = self.question(hidden, newest, asked)
        return answer
