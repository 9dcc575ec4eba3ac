"""Batches of an epoch on the device that learns them; a GPU's are built one ahead."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from hm4sr.data.batches import make_batch
from hm4sr.data.dataset import EventLog
from hm4sr.training.parallel import Share
from hm4sr.types import SeqBatch

T = TypeVar("T")


def batches_on(
    device: torch.device, log: EventLog, shares: Iterable[Share]
) -> Iterator[tuple[Share, SeqBatch | None]]:
    """This process's batch of each step; None where it has no part in it.

    On a CPU the step itself uses all cores, and a batch is a hundredth of its time: it is built in turn. A
    GPU gets pinned copies, which it fetches by itself while the host goes on.
    """
    made = ((share, None if share.windows is None else make_batch(log, share.windows)) for share in shares)
    if device.type == "cpu":
        yield from made
        return
    pinned = ((share, None if batch is None else batch.pinned()) for share, batch in made)
    for share, batch in ahead(pinned):
        yield share, None if batch is None else batch.to(device)


def ahead(values: Iterable[T]) -> Iterator[T]:
    """The same values, each computed in a thread while the one before is used."""
    iterator, end = iter(values), object()
    with ThreadPoolExecutor(1, "batches") as pool:
        coming = pool.submit(next, iterator, end)
        while (value := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield value  # type: ignore[misc]  # `end` alone is no T
