"""How the processes share a batch, without any second process."""

import logging

import numpy as np
import pytest
import torch

from contract.catalogs import small_model
from hm4sr.data.batches import Windows
from hm4sr.errors import UserError
from hm4sr.nn.ranks import ALONE, Ranks, together
from hm4sr.training.parallel import (
    describe_processes,
    joined,
    local_device,
    own_noise,
    share_of,
    sum_gradients,
)


def windows_of(count: int) -> Windows:
    rng = np.random.default_rng(count)
    lengths = rng.integers(1, 9, count)
    return Windows(np.arange(count), lengths, rng.integers(0, lengths), np.arange(count), width=8)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 30])
def test_every_row_of_a_batch_is_learned_by_one_process(count, size):
    windows = windows_of(count)
    shares = [share_of(windows, Ranks(rank, size)) for rank in range(size)]
    learned = [share.windows for share in shares if share.windows is not None]
    assert sorted(np.concatenate([one.starts for one in learned])) == list(range(count))
    assert {one.width for one in learned} == {8}
    assert {share.num_targets for share in shares} == {windows.targets.sum()}
    if count < size:
        assert [share.windows is None for share in shares] == [False] + [True] * (size - 1)
        assert shares[0].ranks == ALONE
    for share in shares if count >= size > 1 else []:
        assert share.ranks.rows["targets"] == [one.targets.sum() for one in learned]
        assert share.ranks.rows["events"] == [one.lengths.sum() for one in learned]
        assert share.ranks.rows["histories"] == [len(one) for one in learned]


def noise(rank: int, epoch: int = 1, count: int = 5) -> torch.Tensor:
    model = small_model("sasrec")
    with together(Ranks(rank, 2)):
        own_noise(model, 4, epoch, windows_of(count))
    return torch.rand(3, generator=model.rng)


def test_each_process_and_step_has_draws_of_its_own():
    assert torch.equal(noise(0), torch.rand(3, generator=small_model("sasrec").rng))
    assert torch.equal(noise(1), noise(1))
    draws = [noise(0), noise(1), noise(2), noise(1, epoch=2), noise(1, count=6)]
    assert len({tuple(draw.tolist()) for draw in draws}) == 5


def test_small_batches_for_many_processes_are_warned_of(caplog):
    with caplog.at_level(logging.INFO, "hm4sr"):
        describe_processes(8, 50)
        assert not caplog.messages
        with together(Ranks(0, 4)):
            describe_processes(800, 50)
            assert caplog.messages == ["4 processes, 200 targets a step and process"]
            describe_processes(100, 50)
    assert "100 is less than 4 processes times 50 targets" in caplog.messages[-1]


def test_one_gpu_for_several_processes_is_refused():
    assert local_device("cuda:1") == "cuda:1"
    with together(Ranks(1, 2)):
        assert local_device("cpu") == "cpu"
        with pytest.raises(UserError, match="one GPU for all processes"):
            local_device("cuda:1")


def test_processes_that_cannot_meet_are_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="start them with torchrun"), joined():
        pass


def test_a_process_that_was_not_launched_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as ranks:
        assert ranks == ALONE
    weight = torch.nn.Parameter(torch.ones(2))
    weight.sum().backward()
    before = weight.grad
    sum_gradients([weight], [])
    assert weight.grad is before
