"""What a process holds of a large item table, with `train.shard_items` and without.

Run: `python -m benchmarks.sharding`. Builds SASRec on a catalogue of numbers alone, learns one step of random
histories and counts the bytes of the weights and of what the optimiser keeps beside them.
"""

import argparse
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn  # before there is a group, which it would keep for good: training/parallel.py
import torch.multiprocessing as multiprocessing

from hm4sr.cli.output import print_table
from hm4sr.models import get_model
from hm4sr.nn.ranks import Ranks, together
from hm4sr.training.optimizer import Optimizer
from hm4sr.types import Catalog, SeqBatch

_ROWS, _EVENTS = 4, 8


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    given = parser.parse_args()
    lines = []
    for size, shard in ((1, False), (2, False), (2, True)):
        with tempfile.TemporaryDirectory() as folder:
            arguments = (size, shard, given.items, given.dim, Path(folder))
            multiprocessing.spawn(_measure, arguments, nprocs=size)
            for rank in range(size):
                found = (Path(folder) / str(rank)).read_text(encoding="utf-8").split()
                lines.append([f"{size}", str(shard).lower(), f"{rank}", *found])
    print_table(
        ["processes", "shard_items", "process", "rows", "weights MB", "moments and average MB"], lines
    )


def _measure(rank: int, size: int, shard: bool, items: int, dim: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'meet'}", world_size=size, rank=rank)
    with together(Ranks(rank, size)) as ranks:
        kind = get_model("sasrec")
        rng = torch.Generator().manual_seed(1)
        model = kind(kind.Config.parse({"dim": dim}, "sasrec"), Catalog(items), rng)
        if shard:
            model.shard_items(ranks)
        optimizer = Optimizer(model, 1e-3, 0.0, sparse=False, average=0.998)
        optimizer.step(model.losses(_histories(items, rank))["main"])
        weights = sum(parameter.nbytes for parameter in model.parameters())
        beside = sum(tensor.nbytes for tensor in optimizer.state().values())
        rows = len(model.items.weight)
        (folder / str(rank)).write_text(f"{rows} {weights / 1e6:.1f} {beside / 1e6:.1f}", encoding="utf-8")
        dist.barrier()
    dist.destroy_process_group()


def _histories(items: int, rank: int) -> SeqBatch:
    drawn = torch.randint(1, items, (_ROWS, _EVENTS + 1), generator=torch.Generator().manual_seed(rank))
    times = torch.arange(_EVENTS).expand(_ROWS, -1)
    lengths = torch.full((_ROWS,), _EVENTS)
    return SeqBatch(drawn[:, :-1], times, lengths, drawn[:, 1:], torch.arange(_ROWS))


if __name__ == "__main__":
    main()
