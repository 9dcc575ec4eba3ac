"""A training step never asks the device for a value: a GPU would have to finish everything first.

Looked for on a CPU, where the same operations run: reads of single values, and results whose size depends on
values (masks as indices, non-zero places, distinct values).
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from contract.catalogs import histories, small_catalog, small_model
from hm4sr.models import get_model, registered_models
from hm4sr.training.optimizer import Optimizer
from hm4sr.types import SeqBatch

READING = {
    "_coalesce",
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
MASK = "a mask as index"

KNOWN = {
    "fearec": {"_local_scalar_dense"},  # how long the other histories with the same target are
    "m3srec": {"_local_scalar_dense", MASK},  # whether and which targets have a modality
    "missrec": {"_local_scalar_dense"},  # how many interests a history has at most
    "tedrec": {MASK},  # experts read the features of real events alone
    "ticoserec": {"nonzero"},  # which rows an operator was drawn for
}
"""Models that do, and what they ask; to do without, they would work on what is not there."""
CPU_ONLY = {"tisasrec": {"nonzero"}}
"""What models ask on a CPU alone, where there is nothing to wait for; the `meta` device would refuse it."""


class Reads(TorchDispatchMode):
    """Names of the operations that read values from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READING:
            self.found.add(name)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
            masks = [t for t in args[1] if t is not None and t.dtype in (torch.bool, torch.uint8)]
            if masks:
                self.found.add(MASK)
        return func(*args, **(kwargs or {}))


def prepared(name: str) -> SeqBatch:
    """A batch whose places were found on the host, as on the way to a GPU."""
    batch = histories([9, 1, 2, 5, 9, 3, 8], parallel=get_model(name).parallel)
    assert len(batch.target_places)
    assert len(batch.event_places)
    return batch


def reads_of_a_step(name: str, negatives: int = 0) -> set[str]:
    catalog = replace(small_catalog(), target_counts=torch.arange(41))
    model = small_model(name, catalog).train()
    model.negatives = negatives
    optimizer = Optimizer(model, 1e-3, 0.0, sparse=negatives > 0, average=0.0 if negatives else 0.9)
    optimizer.step(torch.stack(list(model.losses(prepared(name)).values())).sum())  # makes its moments
    batch = prepared(name)
    with Reads() as reads:
        terms = model.losses(batch)
        optimizer.step(torch.stack(list(terms.values())).sum())
    return reads.found


@pytest.mark.parametrize("name", registered_models())
def test_a_training_step_waits_for_nothing(name):
    assert reads_of_a_step(name) == KNOWN.get(name, set()) | CPU_ONLY.get(name, set())


@pytest.mark.parametrize("name", ["sasrec", "hm4sr"])
def test_a_sampled_loss_waits_for_its_distinct_items_and_rows(name):
    # The mask is within torch's sparse Adam.
    assert reads_of_a_step(name, negatives=7) == {"_unique2", "_coalesce", MASK}


@pytest.mark.parametrize("name", [name for name in registered_models() if name not in KNOWN])
def test_a_step_mixes_no_devices(name, monkeypatch):
    """On the `meta` device, which has no values and takes no tensor of another device."""
    off = torch.autocast("cpu", enabled=False)  # it knows no such device
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: off)
    with torch.device("meta"):
        torch.empty(0)  # torch keeps a list of its constructors from the first time on: of the true ones
    for draw in ("rand", "randn", "randint"):
        monkeypatch.setattr(torch, draw, without_generator(getattr(torch, draw)))
    catalog = replace(small_catalog(), target_counts=torch.arange(41))
    with torch.device("meta"):
        model = small_model(name, catalog).train()
    terms = model.losses(prepared(name).to(torch.device("meta")))
    torch.stack(list(terms.values())).sum().backward()
    assert {p.grad.device.type for p in model.parameters() if p.grad is not None} == {"meta"}


def without_generator(draw: Any) -> Any:
    """A generator draws for its own device, and there is none for this one."""
    return lambda *sizes, generator, **options: draw(*sizes, **options)


def test_what_waits_is_found():
    values = torch.tensor([1.0, 0.0, 2.0])
    with Reads() as reads:
        values[values > 0].sum().item()
        values.nonzero()
        values.unique()
    assert reads.found == {MASK, "_local_scalar_dense", "nonzero", "_unique2"}
