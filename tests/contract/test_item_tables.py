"""What every registered model does with tables whose rows are items: fixed ones, and samples of them."""

from dataclasses import replace

import pytest
import torch

from contract.catalogs import NAMES, scores, small_catalog, small_model, total_loss, training_batch
from hm4sr.nn.projection import FrozenFeatures
from hm4sr.training.optimizer import Optimizer


@pytest.mark.parametrize("name", NAMES)
def test_a_step_on_a_sample_takes_a_catalogue_as_small_as_a_history_is_long(name):
    small = small_catalog(num_items=11)  # as many rows as there are positions
    catalog = replace(small, max_length=12, target_counts=torch.arange(12))
    model, batch = small_model(name, catalog), training_batch(name, [3, 2])
    batch = replace(batch, items=batch.items % 11, targets=batch.targets % 11)
    model.negatives = 5
    optimizer = Optimizer(model.train(), 0.01, 0.0, sparse=True)
    optimizer.step(total_loss(model, batch))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_step_on_a_sample_moves_the_batchs_items_and_not_all(name):
    catalog = replace(small_catalog(), target_counts=torch.arange(41))
    model, batch = small_model(name, catalog), training_batch(name, [3, 2])
    model.negatives = 5
    tables = {key: table for key, table in model.named_parameters() if len(table) == catalog.num_rows}
    optimizer = Optimizer(model.train(), 0.01, 0.0, sparse=True)
    before = {key: table.detach().clone() for key, table in tables.items()}
    terms = model.losses(batch)
    assert all(term.isfinite() for term in terms.values())
    optimizer.step(torch.stack(list(terms.values())).sum())
    assert tables or name == "iisan", "IISAN alone has no row of its own for an item"
    for key, table in tables.items():
        moved = (table != before[key]).any(1)
        assert moved[batch.targets[batch.targets > 0]].all(), key
        assert not moved[0], key
        assert moved.sum() <= 5 + 5 + 5, key


@pytest.mark.parametrize("name", NAMES)
def test_item_vectors_are_fixed_within_their_context_alone(name):
    model, batch = small_model(name), training_batch(name)
    expected = scores(model, batch)
    with torch.no_grad(), model.fixed_items() as vectors:
        torch.testing.assert_close(model.scores(batch, vectors), expected, rtol=1e-6, atol=1e-6)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=0.1)
    total_loss(model, batch).backward()
    optimizer.step()
    fresh = small_model(name, seed=2)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(scores(model, batch), scores(fresh, batch))
    assert not torch.equal(scores(model, batch), expected)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_fixed_holds_no_graph_and_goes_with_its_context(name):
    """Serving fixes the items outside of any context, with gradients on."""
    model = small_model(name).eval()
    with model.fixed_items():
        kept = tensors_of(model)
        assert kept
        assert not any(tensor.requires_grad for tensor in kept)
        for module in model.modules():
            if isinstance(module, FrozenFeatures) and module._converted is not None:
                kept_once = module._converted.data_ptr() == module.features.data_ptr()
                assert kept_once, "a converted copy of all features stays"
    assert not tensors_of(model)
    model.fix_items()
    model.train()
    assert not tensors_of(model)


def tensors_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """Tensors that a model keeps beside parameters and buffers."""
    owned = [value for key, value in vars(model).items() if not key.startswith(("_parameters", "_buffers"))]
    inside = [part for value in owned if isinstance(value, dict) for part in value.values()]
    return [tensor for tensor in [*owned, *inside] if isinstance(tensor, torch.Tensor)]


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_modalities_in_the_catalogue_does_not_matter(name):
    catalog, batch = small_catalog(), training_batch(name)
    turned = replace(catalog, features=dict(reversed(catalog.features.items())))
    assert list(turned.features) != list(catalog.features)
    one, other = small_model(name, catalog), small_model(name, turned)
    for key, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key
    assert torch.equal(scores(one, batch), scores(other, batch))
