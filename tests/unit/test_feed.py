"""Batches on their way to the device."""

import threading

import numpy as np
import pytest
import torch

from contract.catalogs import histories
from hm4sr.data.batches import training_windows
from hm4sr.data.dataset import EventLog
from hm4sr.nn.ranks import ALONE, Ranks
from hm4sr.training.feed import ahead, batches_on
from hm4sr.training.parallel import share_of
from hm4sr.types import SeqBatch


def test_values_computed_ahead_are_the_same_in_order():
    assert list(ahead(iter(range(50)))) == list(range(50))
    assert list(ahead([])) == []


def test_one_value_is_computed_while_the_one_before_is_used():
    begun = [threading.Event() for _ in range(3)]

    def values():
        for number, event in enumerate(begun):
            event.set()
            yield number

    for number in ahead(values()):
        if number < 2:
            assert begun[number + 1].wait(10)


def test_an_error_ahead_is_raised_where_its_value_is_wanted():
    def values():
        yield 1
        raise ValueError("broken")

    found = ahead(values())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_the_places_of_targets_and_events_are_found_before_a_batch_moves():
    batch = histories([3, 1, 4])
    there = batch.to(torch.device("meta"))  # where nothing could be found
    assert there.at_targets(there.times).shape == (8,)
    assert there.at_events(there.items).shape == (8,)
    assert batch.to(torch.device("cpu")) is batch
    assert torch.equal(batch.at_targets(batch.targets), batch.targets[batch.targets > 0])
    assert torch.equal(batch.at_events(batch.times), batch.times[batch.valid])
    prefixes = histories([3, 1, 4], parallel=False)
    assert torch.equal(prefixes.at_targets(prefixes.times), prefixes.times[prefixes.targets > 0])


def test_a_device_gets_every_batch_of_this_process_and_nothing_in_steps_of_others(monkeypatch):
    monkeypatch.setattr(SeqBatch, "pinned", lambda batch: batch)  # pinned memory needs a GPU
    items, times = np.arange(1, 13, dtype=np.int32), np.arange(12)
    log = EventLog(items, times, starts=np.array([0, 12]), train_end=np.array([10]), valid_end=np.array([11]))
    windows = training_windows(log, 5, parallel=True)
    shares = [share_of(windows, ALONE), share_of(windows.take(np.array([0])), Ranks(1, 2))]
    (first, batch), (second, nothing) = batches_on(torch.device("meta"), log, shares)
    assert batch.items.device.type == "meta"
    assert len(batch.target_places) == first.num_targets == 9
    assert nothing is None
    assert second.num_targets == 5
    ((_, here),) = batches_on(torch.device("cpu"), log, shares[:1])
    assert torch.equal(here.items[here.items > 0].sort().values, torch.arange(1, 10))
