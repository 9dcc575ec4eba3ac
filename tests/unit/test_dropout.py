"""How much dropout drops, and by how much it scales the rest."""

import pytest
import torch

from hm4sr.nn.dropout import Dropout

SHARES = [1, 26, 64, 128, 205, 255]
"""Of 256."""


@pytest.mark.parametrize("dropped", SHARES)
def test_of_all_256_bytes_exactly_the_share_is_dropped(dropped, monkeypatch):
    def every_byte(words: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        words.view(torch.uint8).copy_(torch.arange(256))
        return words

    monkeypatch.setattr(torch.Tensor, "random_", every_byte)
    found = Dropout(dropped / 256, torch.Generator()).train()(torch.ones(256))
    assert int((found == 0).sum()) == dropped
    assert found.unique().tolist() == [0.0, pytest.approx(256 / (256 - dropped))]
    assert float(found.mean()) == pytest.approx(1.0)


@pytest.mark.parametrize("dropped", SHARES)
def test_draws_are_even_over_the_bytes(dropped):
    count = 400_001  # no multiple of the eight elements of a draw
    found = Dropout(dropped / 256, torch.Generator().manual_seed(1)).train()(torch.ones(count))
    share = dropped / 256
    error = (share * (1 - share) / count) ** 0.5
    assert float((found == 0).double().mean()) == pytest.approx(share, abs=4 * error)


@pytest.mark.parametrize(("p", "dropped"), [(0.0, 0), (0.001, 0), (0.3, 77), (0.5, 128), (0.9999, 255)])
def test_a_share_is_rounded_to_256ths_and_never_everything(p, dropped):
    layer = Dropout(p, torch.Generator().manual_seed(0)).train()
    assert layer.dropped == dropped
    x = torch.ones(50_000)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(layer.train()(x), x) == (dropped == 0)
    assert layer(x).any()


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_other_shares_are_refused(p):
    with pytest.raises(ValueError, match="dropout must be in"):
        Dropout(p, torch.Generator())
