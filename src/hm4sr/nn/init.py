"""Parameters drawn from a generator that is passed in, never from the global one."""

import math

import torch
from torch import Tensor, nn


def normal(*shape: int, std: float, rng: torch.Generator) -> nn.Parameter:
    """A parameter drawn from N(0, std)."""
    tensor = torch.empty(shape)
    if not tensor.is_meta:
        tensor.normal_(0.0, std, generator=rng)
    return nn.Parameter(tensor)


def uniform(*shape: int, bound: float, rng: torch.Generator) -> nn.Parameter:
    """A parameter drawn from U(-bound, bound)."""
    tensor = torch.empty(shape)
    if not tensor.is_meta:
        tensor.uniform_(-bound, bound, generator=rng)
    return nn.Parameter(tensor)


def linear(
    inputs: int, outputs: int, rng: torch.Generator, std: float | None = 0.02, bias: bool = True
) -> nn.Linear:
    """A linear layer with weights N(0, std) and bias 0; `std = None` draws both from U(+-1/sqrt(inputs))."""
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta")  # its start would draw from the global seed
    if std is None:
        layer.weight = uniform(outputs, inputs, bound=1 / math.sqrt(inputs), rng=rng)
        if bias:
            layer.bias = uniform(outputs, bound=1 / math.sqrt(inputs), rng=rng)
    else:
        layer.weight = normal(outputs, inputs, std=std, rng=rng)
        if bias:
            layer.bias = nn.Parameter(torch.zeros(outputs))
    return layer


def embedding(
    rows: int, dim: int, rng: torch.Generator, std: float = 0.02, padding: bool = False
) -> nn.Embedding:
    """A table drawn from N(0, std); with `padding` row 0 is zero and stays so."""
    table = normal(rows, dim, std=std, rng=rng)
    if padding and not table.is_meta:
        table.data[0] = 0.0
    return table_of(table, padding)


def table_of(rows: Tensor, padding: bool) -> nn.Embedding:
    """A table with these rows that learns; with `padding`, row 0 does not."""
    # Made of rows that are there: a start of its own would draw from the global seed, and one on the meta
    # device loads a large part of torch, for two seconds at the first model of each process.
    padding_idx = 0 if padding else None
    made: nn.Embedding = nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=padding_idx)  # type: ignore[no-untyped-call]
    return made


def _device() -> torch.device:
    return torch.empty(0).device


def zeros(*shape: int) -> nn.Parameter:
    """A parameter of zeros."""
    return nn.Parameter(torch.zeros(shape))


def constant(values: list[float]) -> nn.Parameter:
    """A parameter with the given values."""
    tensor: Tensor = torch.tensor(values, device=_device())
    return nn.Parameter(tensor)


def xavier_std(inputs: int, outputs: int) -> float:
    """Standard deviation that keeps the scale of a matrix's inputs and of its gradients (Glorot & Bengio)."""
    return math.sqrt(2 / (inputs + outputs))


def truncated_normal(*shape: int, std: float, rng: torch.Generator) -> nn.Parameter:
    """A parameter drawn from N(0, std), cut off at two standard deviations."""
    tensor = torch.empty(shape)
    if not tensor.is_meta:
        nn.init.trunc_normal_(tensor, 0.0, std, -2 * std, 2 * std, generator=rng)
    return nn.Parameter(tensor)
