"""What the moment of a question says about its answer."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hm4sr.nn.init import linear
from hm4sr.nn.time import AbsoluteTime, IntervalEmbedding
from hm4sr.types import Clock


class QuestionTime(nn.Module):
    """Scale and shift history vectors by when the question is asked, and how long after the newest event.

    Both are embedded as HM4SR embeds the times of events (eq. 11-13); a small network turns them into a
    factor and an addend for each column. The product of the addend with an item's vector is what the season
    and the fashion of the day say for the item. It starts near the identity. Moments outside the training
    time count as its first or last one: nothing is known about what comes after.

    Args:
        width: of the history vectors (Q).
        dim: width of the two embeddings (D).
        clock: range of the training events.
        scale: rows of the table of gaps for each doubling of the gap.
        base: ratio of the fastest to the slowest frequency of absolute time.
        rng: draws the weights.
    """

    def __init__(self, width: int, dim: int, clock: Clock, scale: float, base: float, rng: torch.Generator):
        super().__init__()
        self.first, self.last = clock.first, clock.last
        self.gap = IntervalEmbedding(dim, scale, max(clock.last - clock.first, 1), False, rng)
        self.moment = AbsoluteTime(dim, base, clock, "days", False, rng)
        self.inner = linear(2 * dim, 2 * dim, rng, std=None)
        self.outer = linear(2 * dim, 2 * width, rng)

    def forward(
        self, hidden: Float[Tensor, "*N Q"], newest: Int[Tensor, "*N"], asked: Int[Tensor, "*N"]
    ) -> Float[Tensor, "*N Q"]:
        """The history vectors as the question makes them.

        Args:
            hidden: vectors of histories.
            newest: moment of each history's newest event, in seconds since 1970.
            asked: moment of the question; the gap to a newest event that comes after it counts as none.
        """
        gap = self.gap(torch.stack([newest, asked], dim=-1).flatten(0, -2))[:, 1]
        moment = self.moment(asked.clamp(self.first, self.last).flatten()[:, None])[:, 0]
        inner = F.gelu(self.inner(torch.cat([gap, moment], dim=-1)))
        shift, scale = self.outer(inner).chunk(2, dim=-1)
        answer: Tensor = hidden * (1 + scale.view(hidden.shape)) + shift.view(hidden.shape)
        return answer
