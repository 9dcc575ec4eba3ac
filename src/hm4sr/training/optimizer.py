"""Adam, with updates of only the touched rows where a step sees only a sample of the items."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from hm4sr.errors import UserError
from hm4sr.models.base import SeqRecModel
from hm4sr.nn.shards import sharded_tables
from hm4sr.training.average import WeightAverage
from hm4sr.training.parallel import sum_gradients

_AVERAGE = "average."


class Optimizer:
    """Adam for all parameters, or Adam beside sparse Adam for the tables of items.

    In sparse mode the moments of a row move only when the row is touched, so that a step costs the same for a
    thousand items as for ten million.

    Args:
        model: its parameters are moved.
        learning_rate: step size.
        weight_decay: L2 penalty.
        sparse: whether the tables of items get sparse updates.
        average: share of the past that a moving average of the weights keeps in a step; 0 keeps none.
    """

    def __init__(
        self,
        model: SeqRecModel,
        learning_rate: float,
        weight_decay: float,
        sparse: bool,
        average: float = 0.0,
    ):
        tables = [table for table in _item_tables(model) if sparse]
        for table in tables:
            table.sparse = True
        rows = {id(table.weight) for table in tables}
        dense = [parameter for parameter in model.parameters() if id(parameter) not in rows]
        self._parts = {id(table.weight) for table in sharded_tables(model).values()}
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Adam(dense, lr=learning_rate, weight_decay=weight_decay, fused=True)
        ]
        if tables:
            self.parts.append(torch.optim.SparseAdam([table.weight for table in tables], lr=learning_rate))
        # What each process keeps its own rows of has the gradient of all processes already.
        self._dense = [parameter for parameter in dense if id(parameter) not in self._parts]
        self._sparse = [table.weight for table in tables if id(table.weight) not in self._parts]
        self._learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._average = WeightAverage(model, average) if average else None

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model has the averaged weights, if an average is kept."""
        return nullcontext() if self._average is None else self._average.applied()

    @property
    def whole(self) -> bool:
        """Whether weights and averages are where they belong, so that they can be saved."""
        return self._average is None or not self._average.in_place

    def step(self, loss: Tensor | None) -> None:
        """Move the parameters against the gradient of a loss, and of those of the other processes.

        Args:
            loss: this process's part of the loss; None if it has no part in this step.
        """
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
        sum_gradients(self._dense, self._sparse)
        for part in self.parts:
            part.step()
        if self._average is not None:
            self._average.update()

    def state(self) -> dict[str, Tensor]:
        """All moments and step counts, by part, parameter number and name; and the averages."""
        averages = {} if self._average is None else self._average.state()
        return {f"{_AVERAGE}{name}": value for name, value in averages.items()} | {
            f"{number}.{parameter}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
            for number, part in enumerate(self.parts)
            for parameter, values in part.state_dict()["state"].items()
            for name, value in values.items()
        }

    def has_rows(self, key: str) -> bool:
        """Whether an entry of `state` is about the rows of a sharded table that this process keeps."""
        if key.startswith(_AVERAGE):
            number = key.removeprefix(_AVERAGE)
            return number.isdecimal() and id(self._learned[int(number)]) in self._parts
        owner, parameter, name = key.split(".", 2)
        moved = self.parts[int(owner)].param_groups[0]["params"][int(parameter)]
        return name != "step" and id(moved) in self._parts

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            UserError: it belongs to other parameters.
        """
        averages = {key: tensor for key, tensor in tensors.items() if key.startswith(_AVERAGE)}
        tensors = {key: tensor for key, tensor in tensors.items() if key not in averages}
        if self._average is not None:
            self._average.load_state({key.removeprefix(_AVERAGE): tensor for key, tensor in averages.items()})
        for number, part in enumerate(self.parts):
            state: dict[int, dict[str, Tensor | int]] = {}
            for key, tensor in tensors.items():
                owner, parameter, name = key.split(".", 2)
                if int(owner) == number:
                    # Sparse Adam counts its steps in a plain number.
                    whole = isinstance(part, torch.optim.SparseAdam) and name == "step"
                    state.setdefault(int(parameter), {})[name] = int(tensor) if whole else tensor
            if not _fits(state, part):
                raise UserError(
                    "the state is of another version, which moved other parameters: start the run again."
                )
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def _fits(state: dict[int, dict[str, Tensor | int]], part: torch.optim.Optimizer) -> bool:
    """Whether saved moments are as large as the parameters that they belong to."""
    moved = part.param_groups[0]["params"]
    for number, values in state.items():
        shapes = {value.shape for value in values.values() if isinstance(value, Tensor) and value.dim()}
        if number >= len(moved) or shapes - {moved[number].shape}:
            return False
    return True


def _item_tables(model: SeqRecModel) -> Iterator[nn.Embedding]:
    for name in model.item_tables:
        if isinstance(table := getattr(model, name, None), nn.Embedding):
            yield table
