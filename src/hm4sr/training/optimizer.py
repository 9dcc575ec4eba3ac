"""Adam, with updates of only the touched rows where a step sees only a sample of the items."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hm4sr.models.base import SeqRecModel


class Optimizer:
    """Adam for all parameters, or Adam beside sparse Adam for the tables of items.

    In sparse mode the moments of a row move only when the row is touched, so that a step costs the same for a
    thousand items as for ten million.
    """

    def __init__(self, model: SeqRecModel, learning_rate: float, weight_decay: float, sparse: bool):
        tables = [table for table in _item_tables(model) if sparse]
        for table in tables:
            table.sparse = True
        rows = {id(table.weight) for table in tables}
        dense = [parameter for parameter in model.parameters() if id(parameter) not in rows]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Adam(dense, lr=learning_rate, weight_decay=weight_decay, fused=True)
        ]
        if tables:
            self.parts.append(torch.optim.SparseAdam([table.weight for table in tables], lr=learning_rate))

    def step(self, loss: Tensor) -> None:
        """Move the parameters against the gradient of a loss."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for part in self.parts:
            part.step()

    def state(self) -> dict[str, Tensor]:
        """All moments and step counts, by part, parameter number and name."""
        return {
            f"{number}.{parameter}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
            for number, part in enumerate(self.parts)
            for parameter, values in part.state_dict()["state"].items()
            for name, value in values.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for number, part in enumerate(self.parts):
            state: dict[int, dict[str, Tensor | int]] = {}
            for key, tensor in tensors.items():
                owner, parameter, name = key.split(".", 2)
                if int(owner) == number:
                    # Sparse Adam counts its steps in a plain number.
                    whole = isinstance(part, torch.optim.SparseAdam) and name == "step"
                    state.setdefault(int(parameter), {})[name] = int(tensor) if whole else tensor
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def _item_tables(model: SeqRecModel) -> Iterator[nn.Embedding]:
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings == model.catalog.num_rows:
            yield module
