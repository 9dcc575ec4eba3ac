"""Memory and time of the softmax over a large catalogue: chunked as it is, and plain.

Extra memory is the growth of the process while loss and gradients are computed, the gradients of the item
vectors included; each line is a process of its own. Run: `python -m benchmarks.softmax --items 200000`.
"""

import argparse
import json
import resource
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.__main__ import last_line
from hm4sr.cli.output import print_table
from hm4sr.nn.losses import softmax_loss
from hm4sr.runtime import keep_freed_memory

HEADER = ["loss", "products", "extra MB", "of it gradients MB", "ms"]


def main() -> None:
    """Measure every kind, or with --kind one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--targets", type=int, default=1_024)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--kind", nargs=2, metavar=("LOSS", "PRODUCTS"))
    arguments = parser.parse_args()
    if arguments.kind:
        print(json.dumps(measure(*arguments.kind, arguments)))
        return
    rows = []
    for kind in (("chunked", "bfloat16"), ("chunked", "float32"), ("plain", "float32")):
        sizes = [f"--{name}={getattr(arguments, name)}" for name in ("items", "targets", "width")]
        row = last_line([sys.executable, "-m", "benchmarks.softmax", "--kind", *kind, *sizes])
        rows.append([*kind, f"{row['extra']:.0f}", f"{row['gradients']:.0f}", f"{row['ms']:.0f}"])
    title = f"{arguments.targets:,} targets, {arguments.items:,} items of {arguments.width}"
    print_table(HEADER, rows, title=title)


def measure(loss: str, products: str, sizes: argparse.Namespace) -> dict[str, Any]:
    """Growth of the process in MB of 10^6 bytes, and milliseconds of the second call."""
    keep_freed_memory()
    rng = torch.Generator().manual_seed(1)
    hidden = torch.randn(sizes.targets, sizes.width, generator=rng).requires_grad_()
    vectors = torch.randn(sizes.items, sizes.width, generator=rng).mul_(0.1).requires_grad_()
    targets = torch.randint(1, sizes.items, (sizes.targets,), generator=rng)
    dtype = getattr(torch, products)
    small = (
        vectors[:1_000].detach().clone().requires_grad_()
    )  # nothing of the catalogue's size was freed before
    run(loss, hidden, small, targets % 1_000, dtype)  # what the libraries need for themselves
    hidden.grad = None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(loss, hidden, vectors, targets, dtype)
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6
    hidden.grad = vectors.grad = None
    started = time.perf_counter()
    run(loss, hidden, vectors, targets, dtype)
    gradients = (hidden.numel() + vectors.numel()) * 4 / 1e6
    return {"extra": extra, "gradients": gradients, "ms": (time.perf_counter() - started) * 1e3}


def run(
    loss: str, hidden: torch.Tensor, vectors: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype
) -> None:
    """One forward and backward pass."""
    if loss == "chunked":
        value = softmax_loss(hidden, vectors, targets, dtype)
    else:
        value = F.cross_entropy((hidden.to(dtype) @ vectors.to(dtype).T).float(), targets)
    torch.autograd.backward(value)


if __name__ == "__main__":
    main()
