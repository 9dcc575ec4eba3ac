"""How long recommending takes, measured alike for every model."""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from hm4sr.data.batches import evaluation_batches, make_batch
from hm4sr.data.dataset import EventLog
from hm4sr.evaluation.ranking import judging
from hm4sr.models.base import SeqRecModel

NUM_USERS = 1_000
NUM_RECOMMENDED = 20
_BATCH = 256
_CHUNK_SCORES = 16_000_000
"""Scores alive at a time: 64 MB in float32."""
_REPEATS = 3


@torch.inference_mode()
def seconds_per_thousand(model: SeqRecModel, log: EventLog, device: torch.device) -> float:
    """Seconds to encode a thousand histories, score all items and take the best 20, in float32.

    The item vectors are computed beforehand, as for serving, and do not count. The histories are those before
    the test targets of users spread evenly over the data set (repeated where there are fewer); the best of
    three repeats after one that warms up.
    """
    with judging(model) as candidates:
        size = max(1, min(_BATCH, _CHUNK_SCORES // len(candidates)))
        k = min(NUM_RECOMMENDED, len(candidates) - 1)
        seconds = []
        for _ in range(1 + _REPEATS):
            started = time.perf_counter()
            for windows in evaluation_batches(log, _targets(log), model.catalog.max_length, size):
                batch = make_batch(log, windows).to(device)
                # Copied back, so that a device that works ahead has finished.
                model.scores(batch, candidates).topk(k, dim=1).indices.cpu()
            seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def _targets(log: EventLog) -> NDArray[np.int64]:
    targets = log.targets("test")
    targets = targets[targets > log.starts[log.users_of(targets)]]
    if not len(targets):
        raise ValueError("no user has a test target with an event before it")
    spread: NDArray[np.int64] = targets[np.arange(NUM_USERS) * len(targets) // NUM_USERS]
    return spread
