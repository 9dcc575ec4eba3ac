"""A test's function in several processes that are joined as training processes are."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn  # before there is a group, which it would keep for good: training/parallel.py
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file, save_file
from torch import Tensor

from hm4sr.nn.ranks import Ranks, together

Result = dict[str, Tensor]


def in_processes(
    size: int, folder: Path, function: Callable[..., Result], *arguments: Any
) -> list[dict[str, Tensor]]:
    """Call a function of a module in `size` processes; what each of them returns, by rank."""
    multiprocessing.spawn(_run, (size, folder, function, arguments), nprocs=size)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(size)]


def _run(
    rank: int, size: int, folder: Path, function: Callable[..., Result], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder / 'meet'}", timedelta(seconds=60), world_size=size, rank=rank
    )
    with together(Ranks(rank, size)):
        result = function(*arguments)
    save_file({name: tensor.contiguous() for name, tensor in result.items()}, folder / f"{rank}.safetensors")
    dist.destroy_process_group()
    left = [name for task in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := task.read_text())]
    assert not left, f"threads of the group outlive it, and may abort this process at its end: {left}"
