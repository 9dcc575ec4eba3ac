"""Several processes train one model: each learns its rows of every batch, and all take the same steps.

torchrun --nproc-per-node 2 -m hm4sr.cli train CONFIG

with joined():            every process
    train(...)            as in one process

Every process holds the whole model and cuts the same batches; of each it takes every size-th row. Losses are
parts of the whole batch's (see `nn.ranks`), so gradients are added up, in one flat tensor after the backward
pass. The first process alone reads and writes the run folder; what it reads is sent to the others.
"""

import importlib
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from hm4sr.data.batches import Windows
from hm4sr.data.dataset import EventLog, Part
from hm4sr.errors import UserError
from hm4sr.evaluation import ranking
from hm4sr.evaluation.ranking import RankedTargets
from hm4sr.models.base import SeqRecModel
from hm4sr.nn.ranks import ALONE, Ranks, Rows, counts, current, gather, together
from hm4sr.nn.shards import sharded_tables

logger = logging.getLogger(__name__)

_TIMEOUT = timedelta(minutes=10)
_FAILED = "hm4sr/failed"


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that `torchrun` started; a process that it did not start is alone, at no cost.

    An error in one process ends all of them: the first to fail raises it, the others end without a word.

    Raises:
        UserError: the processes do not meet, or another one was killed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield current()
        return
    # Its functions take the group of all processes as a default: were it imported once there is a group, that
    # would never end, its threads would run on while the interpreter ends, and abort it now and then.
    importlib.import_module("torch.distributed.nn")
    try:
        store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
        backend = "gloo"
        if torch.cuda.is_available():
            backend = "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(_local_rank() % torch.cuda.device_count())
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the {os.environ['WORLD_SIZE']} processes of WORLD_SIZE do not meet ({error}): "
            "start them with torchrun, or unset WORLD_SIZE for one process."
        ) from error
    try:
        with together(Ranks(rank, size)) as ranks:
            yield ranks
    except BaseException as error:
        if not _is_first(store):
            raise SystemExit(1) from error
        if _lost_another(error):
            raise UserError(
                "another process was killed, perhaps for want of memory: "
                "find out why, then continue with --resume."
            ) from error
        raise
    dist.destroy_process_group()


def _is_first(store: dist.Store) -> bool:
    """Whether no other process has failed before; one that has is why this one has lost it."""
    try:
        return int(store.add(_FAILED, 1)) == 1
    except (RuntimeError, OSError):  # the process that kept the store is gone
        return False


def _lost_another(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def local_device(name: str) -> str:
    """The device of this process: of several on one machine each takes the GPU of its own number.

    Raises:
        UserError: several processes would share one GPU.
    """
    if current().size == 1:
        return name
    if name.startswith("cuda:"):
        raise UserError(f'train.device = "{name}" is one GPU for all processes: set it to "cuda" or "auto".')
    if name not in ("cuda", "auto") or not torch.cuda.is_available():
        return name
    number, gpus = _local_rank(), torch.cuda.device_count()
    if number >= gpus:
        raise UserError(f"this machine has {gpus} GPUs and more processes: start as many as it has GPUs.")
    return f"cuda:{number}"


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))


@dataclass(frozen=True)
class Share:
    """What this process does in a step.

    Attributes:
        windows: its rows of the batch; None if the step is left to the first process.
        num_targets: targets of the whole batch.
        ranks: the processes that share the step.
    """

    windows: Windows | None
    num_targets: int
    ranks: Ranks


def share_of(windows: Windows, ranks: Ranks, sharded: bool = False) -> Share:
    """One process's share of a batch: every size-th row.

    A batch of fewer rows than processes is learned by the first one alone; but where item tables are
    sharded, those without a row take part too, for the others need rows that they keep.
    """
    num_targets = int(windows.targets.sum())
    if ranks.size == 1:
        return Share(windows, num_targets, ranks)
    if len(windows) < ranks.size and not sharded:
        return Share(None if ranks.rank else windows, num_targets, ALONE)
    rows: dict[Rows, list[int]] = {
        "targets": [int(windows.targets[rank :: ranks.size].sum()) for rank in range(ranks.size)],
        "events": [int(windows.lengths[rank :: ranks.size].sum()) for rank in range(ranks.size)],
        "histories": [len(windows.users[rank :: ranks.size]) for rank in range(ranks.size)],
    }
    own = windows.take(np.arange(ranks.rank, len(windows), ranks.size), windows.width)
    return Share(own, num_targets, replace(ranks, rows=rows))


def describe_processes(batch_targets: int, most_targets: int) -> None:
    """Log how many processes there are, and whether batches are large enough for them.

    Args:
        batch_targets: of a batch.
        most_targets: of the row that has most.
    """
    size = current().size
    if size > 1:
        logger.info("%d processes, %d targets a step and process", size, batch_targets // size)
    if batch_targets < size * most_targets and size > 1:
        logger.warning(
            "train.batch_targets = %d is less than %d processes times %d targets of a history: "
            "batches of long histories are learned by the first process alone; raise it to share them.",
            batch_targets,
            size,
            most_targets,
        )


def own_noise(model: SeqRecModel, seed: int, epoch: int, windows: Windows | None) -> None:
    """Give this process draws of its own for a step: dropout must differ from that of the others.

    The first process goes on with its generator. The others' are seeded anew for each step, from what the
    step is, so that there is nothing to save for an exact resume.
    """
    rank = current().rank
    if rank and windows is not None:
        words = np.random.SeedSequence([seed, rank, epoch, zlib.crc32(windows.starts.tobytes())])
        model.rng.manual_seed(int(words.generate_state(1, np.uint64)[0] >> 1))


@torch.no_grad()
def sum_gradients(dense: Sequence[Tensor], sparse: Sequence[Tensor]) -> None:
    """Replace the gradient of each parameter by its sum over all processes.

    Args:
        dense: parameters whose gradients travel in one flat tensor.
        sparse: tables whose gradients name their rows; those rows alone travel.
    """
    if current().size == 1:
        return
    # A parameter that no process needed keeps no gradient, as in one process: Adam then leaves it alone.
    used = torch.tensor([parameter.grad is not None for parameter in dense], dtype=torch.uint8)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    moved = [parameter for parameter, use in zip(dense, used.tolist(), strict=True) if use]
    if moved:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in moved]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        for parameter, summed in zip(moved, torch.split(flat, [p.numel() for p in moved]), strict=True):
            parameter.grad = summed.view_as(parameter)
    for table in sparse:
        rows, values = table.new_zeros(0, dtype=torch.int64), table.new_zeros(0, *table.shape[1:])
        if table.grad is not None:
            mine = table.grad.coalesce()
            rows, values = mine.indices()[0], mine.values()
        (rows, values), _ = gather(rows, values)
        table.grad = None
        if len(rows):
            table.grad = torch.sparse_coo_tensor(rows[None], values, table.shape).coalesce()


def sum_losses(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Add up numbers by name over all processes; some may know none of the names."""
    names = from_first(list(sums))
    if not names:
        return {}
    zero = torch.zeros(())
    total = torch.stack([sums.get(name, zero).double().cpu() for name in names])
    if current().size > 1:
        dist.all_reduce(total)
    return dict(zip(names, total.tolist(), strict=True))


def rank_part_together(model: SeqRecModel, log: EventLog, part: Part, device: torch.device) -> RankedTargets:
    """Rank every target of the validation or test part; see `rank_events_together`."""
    return rank_events_together(model, log, log.targets(part), device)


def rank_events_together(
    model: SeqRecModel, log: EventLog, targets: NDArray[np.int64], device: torch.device
) -> RankedTargets:
    """`ranking.rank_events` with the targets shared out; every process gets the ranks of all of them.

    Where item tables are sharded, the items are shared out instead.

    Args:
        model: ranks in float32.
        log: all events.
        targets: events in ascending order.
        device: of this process.
    """
    ranks = current()
    if ranks.size == 1 or model.bounds is not None:
        return ranking.rank_events(model, log, targets, device)
    mine = np.array_split(targets, ranks.size)[ranks.rank]
    found = ranking.rank_events(model, log, mine, device)
    parts = (torch.from_numpy(part) for part in (found.users, found.items, found.ranks))
    everyone, _ = gather(*parts)
    return RankedTargets(*(part.numpy() for part in everyone))


def from_first(value: Any) -> Any:
    """What the first process gives, for all; anything that JSON can say."""
    if current().size == 1:
        return value
    words = json.dumps(value).encode() if current().rank == 0 else b""
    length = counts(len(words))[0]
    sent = torch.frombuffer(bytearray(words), dtype=torch.uint8) if words else torch.empty(0)
    if current().rank:
        sent = torch.empty(length, dtype=torch.uint8)
    dist.broadcast(sent, 0)
    return json.loads(sent.numpy().tobytes())


@torch.no_grad()
def spread_weights(model: SeqRecModel) -> None:
    """Give all processes the first one's weights and saved buffers, but for the rows that each keeps."""
    if current().size > 1:
        kept = sharded_tables(model)
        for tensor in (tensor for name, tensor in model.state_dict().items() if name not in kept):
            whole = tensor.contiguous()
            dist.broadcast(whole, 0)
            if whole is not tensor:
                tensor.copy_(whole)


def spread_buffers(model: SeqRecModel) -> None:
    """Give all processes the first one's saved buffers, such as clusters that were found at random."""
    if current().size == 1:
        return
    saved = model.state_dict()
    for name, buffer in model.named_buffers():
        if name in saved:
            dist.broadcast(buffer, 0)


def spread_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the first process, by name, for all of them, on the CPU."""
    if current().size == 1:
        return dict(tensors)
    shapes = {name: [list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in tensors.items()}
    received = {}
    for name, (shape, dtype) in from_first(shapes).items():
        empty = torch.empty(shape, dtype=getattr(torch, dtype))
        received[name] = tensors[name].cpu().contiguous() if current().rank == 0 else empty
        dist.broadcast(received[name], 0)
    return received
