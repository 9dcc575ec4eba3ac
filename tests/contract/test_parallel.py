"""Two processes with half of a batch each get the losses and gradients that one gets from the whole batch.

Whatever a model draws at random is switched off or made to depend on the row alone.
"""

from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor

from contract.catalogs import histories, rows_of, small_catalog, small_model, without_noise
from hm4sr.models import get_model, registered_models
from hm4sr.models.base import SeqRecModel
from hm4sr.nn.ranks import Rows, current, together
from hm4sr.training.optimizer import Optimizer
from hm4sr.training.parallel import sum_gradients
from hm4sr.types import Catalog, ItemFeatures, SeqBatch
from processes import in_processes

LENGTHS = [9, 1, 2, 5, 9, 3, 8]
ALL_LAGS = 4.9
"""FEARec's lag factor with which every lag is taken: else each process would choose by its own rows."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in registered_models()},
    "fearec": ("fearec", {"lag_factor": ALL_LAGS}),
    "tisasrec": ("tisasrec", {"embedding_penalty": 0.01}),
    "hm4sr, released": ("hm4sr", {"preset": "released", "idcl_weight": 0.5}),
    "iisan, in batch": ("iisan", {"loss": "in-batch"}),
    "missrec, static": ("missrec", {"fusion": "static"}),
    "nova, cloze": ("nova", {"training": "cloze", "mask_ratio": 1e-9}),
    "one modality's rows in one process": ("m3srec", {}),
    "sampled": ("sasrec", {}),
    "sampled hm4sr": ("hm4sr", {}),
    "sampled tisasrec": ("tisasrec", {"embedding_penalty": 0.01}),
}
NEGATIVES = 7


def lopsided(catalog: Catalog, batch: SeqBatch) -> Catalog:
    """Pictures of the items alone that are targets of the first row and of no row of the second process."""
    others = batch.targets[1::2].unique()
    mine = batch.targets[0][batch.targets[0] > 0]
    present = torch.zeros(catalog.num_rows, dtype=torch.bool)
    present[mine] = True
    present[others] = False
    given = catalog.features["image"]
    image = ItemFeatures(given.vectors * present[:, None], present)
    return replace(catalog, features={**catalog.features, "image": image})


def without_first_targets(batch: SeqBatch) -> SeqBatch:
    """Fewer targets than events, as in a window that repeats the end of the one before."""
    position = torch.arange(batch.items.shape[1])
    repeated = (position < batch.lengths[:, None] - 1) & (position < 2)
    return replace(batch, targets=batch.targets.masked_fill(repeated, 0))


def known_rows(batch: SeqBatch, size: int) -> dict[Rows, list[int]]:
    """What the trainer knows about every process's rows."""
    parts = [rows_of(batch, slice(rank, None, size)) for rank in range(size)]
    return {
        "targets": [int((part.targets > 0).sum()) for part in parts],
        "events": [int((part.items > 0).sum()) for part in parts],
        "histories": [len(part.users) for part in parts],
    }


def alike(model: SeqRecModel) -> None:
    """Replace what a model draws for each row by something that depends on the row alone."""
    if model.name in ("hm4sr", "hm4sr-plus"):
        model._draw_replaced = lambda batch: ((batch.items % 3 == 0) & batch.valid)[..., None]
    if model.name == "ticoserec":
        turns = cycle([2, 3])
        model.view_of = lambda batch: batch.items.masked_fill(batch.items % next(turns) == 0, 0).index_fill(
            1, torch.tensor([0]), 1
        )


def gradients(case: str) -> dict[str, Tensor]:
    """Losses and summed gradients of this process's rows of the batch."""
    name, settings = CASES[case]
    ranks = current()
    batch = histories(LENGTHS, parallel=get_model(name).parallel and settings.get("training") != "cloze")
    batch = without_first_targets(batch)
    counts = torch.arange(41)
    catalog = replace(small_catalog(), counts=counts, target_counts=counts)
    if case.startswith("one modality"):
        catalog = lopsided(catalog, batch)
    model = small_model(name, catalog, **without_noise(name), **settings).train()
    alike(model)
    if case.startswith("sampled"):
        model.negatives = NEGATIVES
        model.rng = torch.Generator().manual_seed(3)
        if ranks.rank:  # goes on where the first process stops drawing
            torch.randint(1, 41, (NEGATIVES // 2,), generator=model.rng)
    optimizer = Optimizer(model, 0.1, 0.0, sparse=case.startswith("sampled"))
    with together(replace(ranks, rows=known_rows(batch, ranks.size))):
        terms = model.losses(rows_of(batch, slice(ranks.rank, None, ranks.size)))
    torch.stack(list(terms.values())).sum().backward()
    sum_gradients(optimizer._dense, optimizer._sparse)
    result = {f"{case}: loss {term}": value.detach() for term, value in terms.items()}
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            result[f"{case}: {key}"] = parameter.grad.to_dense()
    return result


def all_gradients() -> dict[str, Tensor]:
    return {key: value for case in CASES for key, value in gradients(case).items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict[str, Tensor]]:
    return in_processes(2, tmp_path_factory.mktemp("processes"), all_gradients)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_get_the_losses_and_gradients_of_one(case, found):
    alone = gradients(case)
    assert any("loss" in key for key in alone)
    first, second = ({k: v for k, v in one.items() if k.startswith(f"{case}: ")} for one in found)
    assert set(first) == set(second) == set(alone)
    for key, expected in alone.items():
        if ": loss" in key:
            torch.testing.assert_close(first[key] + second[key], expected, rtol=1e-5, atol=1e-6)
            continue
        assert torch.equal(first[key], second[key]), f"{key}: the processes would drift apart"
        scale = expected.abs().max().clamp_min(1e-3).item()
        torch.testing.assert_close(first[key], expected, rtol=1e-4, atol=3e-6 * max(scale, 1.0), msg=key)


def test_every_registered_model_is_covered():
    assert {name for name, _ in CASES.values()} == set(registered_models())
