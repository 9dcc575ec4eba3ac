"""Moving average of a model's weights over the steps of training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hm4sr.models.base import SeqRecModel


class WeightAverage:
    """Exponential moving average of the trained weights; judged and kept in their place.

    With strong dropout and a constant step size the weights wander around a good place; their average is
    nearer to it. Over the first steps the average forgets faster, so that it is not held back by the start.

    Attributes:
        in_place: whether the model has averaged weights, or some of them: no state to be saved.
    """

    def __init__(self, model: SeqRecModel, decay: float):
        self.decay = decay
        self.steps = 0
        self.in_place = False
        self._weights: list[Tensor] = [
            parameter for parameter in model.parameters() if parameter.requires_grad
        ]
        self._average = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._average, self._weights, 1 - keep)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the model has the averaged weights."""
        self.in_place = True  # and still, should the swap back be interrupted
        self._swap()
        try:
            yield
        finally:
            self._swap()
            self.in_place = False

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self._weights, self._average, strict=True):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)

    def state(self) -> dict[str, Tensor]:
        """All averages, by the number of the parameter, and the number of steps."""
        averages = {str(number): average.cpu() for number, average in enumerate(self._average)}
        return averages | {"steps": torch.tensor(self.steps)}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self.steps = int(tensors["steps"])
        for number, average in enumerate(self._average):
            average.copy_(tensors[str(number)])
