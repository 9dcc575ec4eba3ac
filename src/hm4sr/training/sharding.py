"""Files of whole tensors, written and read by processes of which each keeps some rows of the largest ones.

The files are those of one process, whatever the number of processes. The first one writes and reads them, and
never holds more than its own rows and `_ROWS` of another's: the rows go through a file beside the one that is
written, which the library then reads from the disk.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hm4sr.nn.ranks import current
from hm4sr.training.parallel import from_first, spread_tensors

_ROWS = 65_536


def save_whole(
    tensors: Mapping[str, Tensor], path: Path | None, bounds: list[int] | None, is_part: Callable[[str], bool]
) -> None:
    """Write tensors, some of which are spread over the processes, into one file; all processes call it.

    Args:
        tensors: on the CPU; by the same names in all processes.
        path: the file; None in all processes but the first.
        bounds: process r keeps the rows bounds[r]..bounds[r + 1]; None where nothing is spread.
        is_part: whether the tensor of that name is this process's rows of a larger one.

    Raises:
        OSError: the file cannot be written.
    """
    if bounds is None:
        assert path is not None
        save_file(dict(tensors), path)
        return
    whole = {name: tensor for name, tensor in tensors.items() if not is_part(name)}
    with contextlib.ExitStack() as stack:
        for number, name in enumerate(sorted(tensors.keys() - whole.keys())):
            part = tensors[name].contiguous()
            if path is None:
                for rows in torch.split(part, _ROWS):
                    dist.send(rows, 0)
                continue
            beside = path.with_name(f"{path.name}.part-{number}")
            stack.callback(beside.unlink, missing_ok=True)
            with beside.open("wb") as file:
                _collect(part, bounds, file)
            if beside.stat().st_size:
                shape = (bounds[-1], *part.shape[1:])
                whole[name] = torch.from_numpy(np.memmap(beside, part.numpy().dtype, "c", shape=shape))
        if path is not None:
            save_file(whole, path)


def _collect(part: Tensor, bounds: list[int], file: BinaryIO) -> None:
    """Write the first process's rows and then those of the others, as they come."""
    for rows in torch.split(part, _ROWS):
        file.write(rows.numpy().tobytes())
    for rank, place in _pieces(bounds):
        if rank:
            piece = part.new_empty(place.stop - place.start, *part.shape[1:])
            dist.recv(piece, rank)
            file.write(piece.numpy().tobytes())


def _pieces(bounds: list[int]) -> Iterator[tuple[int, slice]]:
    """Every process's rows, at most `_ROWS` at a time."""
    for rank, (start, stop) in enumerate(pairwise(bounds)):
        for first in range(start, stop, _ROWS):
            yield rank, slice(first, min(first + _ROWS, stop))


def load_whole(
    path: Path | None, bounds: list[int] | None, is_part: Callable[[str], bool]
) -> dict[str, Tensor]:
    """Read what `save_whole` wrote, with any number of processes: each gets its own rows of what is spread.

    Args:
        path: the file; None in all processes but the first.
        bounds: as in `save_whole`.
        is_part: as in `save_whole`.

    Raises:
        SafetensorError: the file is none.
        ValueError: a tensor has another number of rows than the table.
    """
    if bounds is None:
        assert path is not None
        whole: dict[str, Tensor] = load_file(path)
        return whole
    with contextlib.ExitStack() as stack:
        file = None if path is None else stack.enter_context(safe_open(path, framework="pt"))
        names = from_first(None if file is None else list(file.keys()))
        shared = [name for name in names if not is_part(name)]
        found = spread_tensors({} if file is None else {name: file.get_tensor(name) for name in shared})
        for name in names:
            if name in found:
                continue
            tensor = None if file is None else file.get_slice(name)
            shape, dtype = from_first(
                None if tensor is None else [tensor.get_shape(), str(tensor[:0].dtype).removeprefix("torch.")]
            )
            if shape[0] != bounds[-1]:
                raise ValueError(f"{path}: {name} has {shape[0]} rows, not {bounds[-1]}")
            mine = []
            for rank, rows in _pieces(bounds):
                if tensor is not None:
                    piece = tensor[rows]
                    if rank:
                        dist.send(piece.contiguous(), rank)
                elif rank == current().rank:
                    piece = torch.empty(rows.stop - rows.start, *shape[1:], dtype=getattr(torch, dtype))
                    dist.recv(piece, 0)
                if rank == current().rank:
                    mine.append(piece)
            found[name] = torch.cat(mine) if mine else torch.empty(0, *shape[1:], dtype=getattr(torch, dtype))
    return found
