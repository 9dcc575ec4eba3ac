"""The sampled softmax: probabilities, positions, and its limit, the full softmax."""

import math

import pytest
import torch

from contract.catalogs import small_model
from hm4sr.errors import UserError
from hm4sr.models import get_model
from hm4sr.models.sasrec import SASRec
from hm4sr.nn.sampling import sample_items
from hm4sr.training.optimizer import Optimizer
from hm4sr.types import Catalog, SeqBatch

V = 41


def batch_of(items: list[list[int]], targets: list[list[int]]) -> SeqBatch:
    rows = torch.tensor(items)
    return SeqBatch(
        items=rows,
        times=torch.zeros_like(rows),
        lengths=(rows > 0).sum(1),
        targets=torch.tensor(targets),
        users=torch.arange(len(rows)),
    )


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(num_items=V - 1, target_counts=torch.arange(V), max_length=4)


@pytest.fixture
def batch() -> SeqBatch:
    return batch_of([[3, 7, 3], [9, 0, 0]], [[7, 3, 30], [12, 0, 0]])


def test_the_batch_finds_its_own_items(catalog: Catalog, batch: SeqBatch) -> None:
    rows, view = sample_items(batch, catalog, 5, torch.Generator().manual_seed(0))
    seen = view(rows[:, None].float())
    assert rows[0] == 0
    assert torch.equal(rows, rows.unique())
    assert torch.equal(rows[seen.items], batch.items)
    assert torch.equal(rows[seen.targets], batch.targets[batch.targets > 0])


def test_weights_are_one_over_the_probability_of_being_listed(catalog: Catalog, batch: SeqBatch) -> None:
    rows, view = sample_items(batch, catalog, 5, torch.Generator().manual_seed(0))
    seen = view(rows[:, None].float())
    assert seen.log_weights is not None
    assert seen.log_weights[0] == -math.inf  # padding
    for row, item in list(enumerate(rows.tolist()))[1:]:
        expected = 4 * item / (V * (V - 1) / 2) + 5 / (V - 1)
        weight = float(seen.log_weights[row])
        only_in_history = weight == -math.inf
        assert only_in_history or weight == pytest.approx(-math.log(1 - math.exp(-expected)), rel=1e-5)
        assert not (only_in_history and item in batch.targets)


def test_many_draws_approach_the_full_softmax(catalog: Catalog, batch: SeqBatch) -> None:
    model = SASRec(SASRec.Config(dim=8), catalog, torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        model.items.weight.mul_(40)
        full = float(model.losses(batch)["main"])
        model.negatives = 2_000
        assert float(model.losses(batch)["main"]) == pytest.approx(full, rel=1e-3)


@pytest.mark.parametrize("name", ["hm4sr", "hm4sr-plus"])
def test_padding_is_a_class_of_the_sampled_softmax_where_it_is_one_of_the_full(
    name: str, catalog: Catalog, batch: SeqBatch
) -> None:
    config = get_model(name).Config(dim=8, heads=2, score_padding=True)
    model = get_model(name)(config, catalog, torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        full = float(model.losses(batch)["main"])
        model.negatives = 2_000
        assert float(model.losses(batch)["main"]) == pytest.approx(full, rel=1e-3)
        model.config = config.model_copy(update={"score_padding": False})
        assert float(model.losses(batch)["main"]) != pytest.approx(full, rel=1e-3)


def test_the_estimate_of_the_normaliser_is_unbiased(catalog: Catalog) -> None:
    rng = torch.Generator().manual_seed(5)
    gains = torch.rand(V, generator=rng) + 0.5
    estimates = []
    for _ in range(4_000):
        targets = torch.multinomial(catalog.target_counts.float(), 8, replacement=True, generator=rng)
        rows, view = sample_items(batch_of([[1] * 8], [targets.tolist()]), catalog, 6, rng)
        seen = view(rows[:, None].float())
        estimates.append(float((gains[rows] * seen.log_weights.exp()).sum()))
    assert sum(estimates) / len(estimates) == pytest.approx(float(gains[1:].sum()), rel=0.03)


def test_a_sparse_step_leaves_other_rows_alone(catalog: Catalog, batch: SeqBatch) -> None:
    model = SASRec(SASRec.Config(dim=8), catalog, torch.Generator().manual_seed(1))
    model.negatives = 3
    optimizer = Optimizer(model, 0.1, 0.0, sparse=True)
    before = model.items.weight.detach().clone()
    optimizer.step(model.losses(batch)["main"])
    moved = (model.items.weight.detach() != before).any(1)
    assert moved[[3, 7, 9, 12, 30]].all()
    assert not moved[0]
    assert moved.sum() <= 5 + 3
    again = Optimizer(model, 0.1, 0.0, sparse=True)
    again.load_state(optimizer.state())
    assert {key: value.tolist() for key, value in again.state().items()} == {
        key: value.tolist() for key, value in optimizer.state().items()
    }


def test_moments_of_other_parameters_are_refused():
    """They would move what they do not belong to, and diverge."""
    optimizer, other = (Optimizer(small_model(name), 0.01, 0.0, False) for name in ("lrurec", "sasrec"))
    moved = optimizer.parts[0].param_groups[0]["params"]
    optimizer.step(torch.stack([parameter.square().sum() for parameter in moved]).sum())
    with pytest.raises(UserError, match="moved other parameters"):
        other.load_state(optimizer.state())
