"""Full ranking: every target against all items, a chunk of users at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from hm4sr.data.batches import evaluation_batches, make_batch
from hm4sr.data.dataset import EventLog, Part
from hm4sr.errors import DivergedError
from hm4sr.models.base import SeqRecModel
from hm4sr.nn.seen import seen_at_end
from hm4sr.types import SeqBatch

_CHUNK_SCORES = 4_000_000
"""Scores alive at a time: 16 MB in float32, which stay in the processor's cache."""
_FEWEST_ROWS, _MOST_SCORES = 64, 64_000_000
"""A large catalogue is read anew for each chunk: better for many rows of it, with up to 256 MB of scores."""
_DIVERGED = "the model has diverged or is damaged: train it again, with a lower train.learning_rate."


@dataclass(frozen=True)
class RankedTargets:
    """Rank of each target of a part among all items, by user and then in the order of time.

    Attributes:
        users: user number of each target.
        items: item number of each target.
        ranks: 1 is the best.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    ranks: NDArray[np.int64]

    def table(self, part: Part) -> pl.DataFrame:
        """As a table with the columns part, user, item, rank."""
        columns = {"user": self.users, "item": self.items, "rank": self.ranks}
        table = pl.DataFrame({name: values.astype(np.int32) for name, values in columns.items()})
        return table.select(pl.lit(part).alias("part"), pl.all())


def target_ranks(scores: Float[Tensor, "B V"], targets: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
    """Rank of each row's target; items that tie with it count as better.

    So a model that scores everything alike is last, not first.

    Raises:
        DivergedError: a target's score is not a number.
    """
    wanted = scores.gather(1, targets[:, None])
    if scores.device.type == "cpu":  # numpy counts truth values eight times as fast as torch sums them
        ranks = torch.from_numpy(np.count_nonzero(scores.numpy() >= wanted.numpy(), axis=1))
    else:
        ranks = (scores >= wanted).sum(1)
    return _checked(ranks)


def _checked(ranks: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
    if bool((ranks == 0).any()):
        raise DivergedError(f"a score is not a number: {_DIVERGED}")
    return ranks


def rank_part(
    model: SeqRecModel, log: EventLog, part: Part, device: torch.device, unseen: bool = False
) -> RankedTargets:
    """Rank every target of the validation or test part; see `rank_events`."""
    return rank_events(model, log, log.targets(part), device, unseen)


@contextmanager
def judging(model: SeqRecModel) -> Iterator[Float[Tensor, "V Q"]]:
    """Within this context the model judges in float32 and without dropout; yields its item vectors."""
    was_training, trained_in = model.training, model.matmul_dtype
    model.eval()
    model.matmul_dtype = torch.float32
    try:
        with model.fixed_items() as candidates:
            yield candidates
    finally:
        model.train(was_training)
        model.matmul_dtype = trained_in


@torch.inference_mode()
def rank_events(
    model: SeqRecModel,
    log: EventLog,
    targets: NDArray[np.int64],
    device: torch.device,
    unseen: bool = False,
) -> RankedTargets:
    """Rank the items of the given events among all items, in float32.

    Targets that have no event before them cannot be ranked and are left out.

    Args:
        model: ranks.
        log: all events.
        targets: events in ascending order.
        device: where to compute.
        unseen: rank among the items that the history does not hold (of those before what the model reads,
            the newest 1,000), and the target; otherwise, the protocol, among all.

    Raises:
        DivergedError: a score or an item's vector is not a number.
    """
    with judging(model) as candidates:
        if not bool(candidates.isfinite().all()):
            raise DivergedError(f"an item's vector is not a number: {_DIVERGED}")
        return _rank_with(model, candidates, log, targets, device, unseen)


def _rank_with(
    model: SeqRecModel,
    candidates: Float[Tensor, "V Q"],
    log: EventLog,
    chosen: NDArray[np.int64],
    device: torch.device,
    unseen: bool,
) -> RankedTargets:
    parts = [0, len(candidates)] if model.bounds is None else model.bounds
    largest = max(stop - start for start, stop in pairwise(parts))  # so that all ranks cut alike
    batch_size = max(
        1,
        min(2048, _CHUNK_SCORES // largest),
        min(_FEWEST_ROWS, _MOST_SCORES // model.score_tables // largest),
    )
    events, users, items, ranks = [], [], [], []
    for windows in evaluation_batches(log, chosen, model.catalog.max_length, batch_size):
        batch = make_batch(log, windows).to(device)
        events.append(windows.starts + windows.lengths)
        targets = log.items[events[-1]].astype(np.int64)
        wanted = torch.from_numpy(targets).to(device)
        rank = _ranks if model.bounds is None else _ranks_together
        ranks.append(rank(model, candidates, batch, wanted, unseen).cpu().numpy())
        users.append(windows.users)
        items.append(targets)
    if not users:
        empty = np.zeros(0, dtype=np.int64)
        return RankedTargets(empty, empty, empty)
    all_users, all_items, all_ranks = (np.concatenate(parts) for parts in (users, items, ranks))
    order = np.argsort(np.concatenate(events))
    return RankedTargets(all_users[order], all_items[order], all_ranks[order])


def _ranks(
    model: SeqRecModel,
    candidates: Float[Tensor, "V Q"],
    batch: SeqBatch,
    targets: Int[Tensor, "B"],
    unseen: bool,
) -> Int[Tensor, "B"]:
    """Rank of each history's target; see `rank_events`."""
    scores = model.scores(batch, candidates)
    if unseen:
        own = targets[:, None]
        wanted = scores.gather(1, own)
        scores.scatter_(1, seen_at_end(batch), -torch.inf).scatter_(1, own, wanted)
    return target_ranks(scores, targets)


def _ranks_together(
    model: SeqRecModel,
    candidates: Float[Tensor, "P Q"],
    batch: SeqBatch,
    targets: Int[Tensor, "B"],
    unseen: bool,
) -> Int[Tensor, "B"]:
    """The same where tables are sharded: all ranks score the same histories, each against its own items.

    A target is compared with the score that its keeper computes, so that it is as good as itself.
    """
    here, scores = model.here, model.last_hidden(batch) @ candidates.T
    items = seen_at_end(batch)
    row, column = ((items > 0) & (items >= here.start) & (items < here.stop)).nonzero(as_tuple=True)
    seen = (row, items[row, column] - here.start)
    scores[seen] += model.seen_bias()
    own = ((targets >= here.start) & (targets < here.stop)).nonzero().squeeze(1)
    its_place = (own, targets[own] - here.start)
    wanted = scores.new_zeros(len(targets))
    wanted[own] = scores[its_place]
    if unseen:
        scores[seen] = -torch.inf
        scores[its_place] = wanted[own]
    if here.start == 0:
        scores[:, 0] = -torch.inf
    dist.all_reduce(wanted)
    ranks = (scores >= wanted[:, None]).sum(1)
    dist.all_reduce(ranks)
    return _checked(ranks)
