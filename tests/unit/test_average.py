"""The moving average of the weights, and features centred on their mean."""

import pytest
import torch

from contract.catalogs import histories, small_catalog, small_model
from hm4sr.errors import StoppedError
from hm4sr.nn.projection import FeatureProjection
from hm4sr.training.average import WeightAverage
from hm4sr.training.checkpoint import Progress, States, saved_states, where_saved
from hm4sr.training.optimizer import Optimizer
from hm4sr.training.settings import TrainConfig
from hm4sr.training.stopping import StopSignals


def train_a_little(optimizer: Optimizer, model, steps: int) -> None:
    model.train()
    for seed in range(steps):
        terms = model.losses(histories([5, 3, 8], seed=seed))
        optimizer.step(torch.stack(list(terms.values())).sum())


@pytest.mark.parametrize("steps", [1, 10, 200])
def test_the_average_is_the_one_computed_by_hand(steps):
    # After 200 steps the start is forgotten; after 10 it shows how fast the average forgets at first.
    model = small_model("sasrec")
    average = WeightAverage(model, 0.9)
    weight = model.items.weight
    expected = weight.detach().clone()
    for step in range(1, steps + 1):
        with torch.no_grad():
            weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        average.update()
        keep = min(0.9, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * weight.detach()
    with average.applied():
        torch.testing.assert_close(model.items.weight.detach(), expected, rtol=1e-4, atol=1e-4)


def test_training_goes_on_from_its_own_weights():
    one, other = small_model("sasrec"), small_model("sasrec")
    plain, averaging = Optimizer(one, 1e-2, 0.0, False), Optimizer(other, 1e-2, 0.0, False, 0.99)
    for _ in range(3):
        train_a_little(plain, one, 2)
        train_a_little(averaging, other, 2)
        before = other.items.weight.detach().clone()
        with averaging.averaged():
            assert not torch.equal(other.items.weight, before)
        assert torch.equal(other.items.weight, before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_no_state_is_saved_with_averages_half_in_place(tmp_path, monkeypatch):
    model = small_model("sasrec")
    optimizer = Optimizer(model, 1e-2, 0.0, False, 0.99)
    train_a_little(optimizer, model, 2)
    states = States(tmp_path, 1, model, optimizer, StopSignals(active=False))
    progress = Progress(epoch=1)

    def stopped_in(swap: int) -> None:
        swaps = []
        whole = WeightAverage._swap

        def swapped(average: WeightAverage) -> None:
            swaps.append(average)
            if len(swaps) == swap:
                raise StoppedError
            whole(average)

        with monkeypatch.context() as patch:
            patch.setattr(WeightAverage, "_swap", swapped)
            with states.saved_if_stopped(progress, {}), optimizer.averaged():
                raise StoppedError

    for swap in (1, 2):
        assert optimizer.whole
        with pytest.raises(StoppedError):
            stopped_in(swap)
        assert not optimizer.whole
        assert saved_states(tmp_path) == []
        optimizer._average.in_place = False
    with pytest.raises(StoppedError):
        stopped_in(0)
    assert [path.name for path in saved_states(tmp_path)] == ["epoch-00001"]
    assert where_saved(tmp_path) == "after epoch 1"


def test_an_average_is_part_of_the_state():
    model, again = small_model("sasrec"), small_model("sasrec")
    optimizer, restored = (Optimizer(each, 1e-2, 0.0, False, 0.99) for each in (model, again))
    train_a_little(optimizer, model, 3)
    again.load_state_dict(model.state_dict())
    restored.load_state({key: value.clone() for key, value in optimizer.state().items()})
    again.rng.set_state(model.rng.get_state())
    for each, part in ((model, optimizer), (again, restored)):
        train_a_little(part, each, 2)
    with optimizer.averaged(), restored.averaged():
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "decay"),
    [({}, 0.998), ({"loss": "sampled"}, 0.0), ({"average": 0.0}, 0.0), ({"average": 0.9}, 0.9)],
)
def test_a_sampled_loss_keeps_no_average_unless_told_to(settings, decay):
    assert TrainConfig.parse(settings, "test").average_decay == decay


def test_centring_moves_the_bias_and_nothing_else():
    features = small_catalog().features["text"]
    plain, centred = (
        FeatureProjection(features, 16, torch.Generator().manual_seed(1), False, center)
        for center in (False, True)
    )
    mean = features.vectors[features.present].mean(0)
    torch.testing.assert_close(centred.mean, mean)
    with torch.no_grad():
        centred.linear.bias += mean @ centred.linear.weight.T
        there = features.present
        torch.testing.assert_close(centred(torch.float32)[there], plain(torch.float32)[there])
        zeros = (~there).nonzero()[1:, 0]  # row 0 is padding
        torch.testing.assert_close(
            centred(torch.float32, zeros), centred.linear.bias.expand(len(zeros), -1), rtol=0, atol=0
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_centred_item_is_the_same_alone_in_the_catalogue_and_as_a_new_one(dtype):
    features = small_catalog().features["text"]
    project = FeatureProjection(features, 16, torch.Generator().manual_seed(1), True, True)
    whole, items = project(dtype), torch.tensor([3, 1, 17])
    torch.testing.assert_close(project(dtype, items), whole[items])
    with torch.no_grad():
        torch.testing.assert_close(project(dtype), whole)
        tolerance = 1e-5 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(project.new(features, False), whole, rtol=tolerance, atol=tolerance)
