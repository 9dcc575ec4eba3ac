"""What each speed-up is worth: the training step as it is, and with one of them undone.

Every variant is a process of its own on the data of `make bench`: `python -m benchmarks.steps`. Processor
time is given beside wall time: on a busy machine it is the steadier of the two.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.__main__ import games_size, last_line
from benchmarks.timing import Bench, peak_mb, settings_of
from hm4sr.cli.output import print_table
from hm4sr.data import batches
from hm4sr.models import base, hm4sr
from hm4sr.nn.dropout import Dropout
from hm4sr.runtime import numpy_generator

HEADER = ["variant", "us/target", "times as is", "processor us/target", "times as is", "peak MB"]


def plain_softmax() -> None:
    """All logits at once, kept for the backward pass; products in bfloat16 as in the chunked loss."""

    def loss(hidden: Tensor, vectors: Tensor, targets: Tensor, dtype: torch.dtype, *_: Any) -> Tensor:
        logits = (hidden.to(dtype) @ vectors.to(dtype).T).float()
        return F.cross_entropy(logits, targets)

    base.softmax_loss = loss


def library_dropout() -> None:
    """A float drawn for every element."""
    Dropout.forward = lambda self, x: F.dropout(x, self.dropped / 256, self.training)  # type: ignore[method-assign]


def shape_of_its_own() -> None:
    """Each batch padded to its longest row, whatever that is."""
    batches.padded_lengths = lambda longest: list(range(1, longest + 1))


def two_calls() -> None:
    """Each view of the placeholder loss encoded in a call of its own."""
    whole = hm4sr.SequenceEncoder.forward

    def forward(self: Any, x: Tensor) -> Tensor:
        return torch.cat([whole(self, part) for part in x.chunk(2)])

    hm4sr.SequenceEncoder.forward = forward  # type: ignore[method-assign]


VARIANTS: dict[str, tuple[dict[str, Any], Callable[[], None] | None]] = {
    "as it is": ({}, None),
    "prefixes instead of all positions": ({"parallel": False}, None),
    "float32 instead of bfloat16": ({"precision": "float32"}, None),
    "plain instead of chunked softmax": ({}, plain_softmax),
    "library's dropout": ({}, library_dropout),
    "a shape for every length": ({}, shape_of_its_own),
    "encoder called for half a batch": ({}, two_calls),
    "library's memory settings": ({}, None),
    "compiled encoders": ({}, None),
}


def main() -> None:
    """Time all variants, or with --variant one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--variant", choices=VARIANTS)
    arguments = parser.parse_args()
    data = games_size(arguments.folder)
    if arguments.variant:
        print(json.dumps(measure(arguments.variant, data, arguments.steps, arguments.threads)))
        return
    rows = []
    for variant in VARIANTS:
        command = [sys.executable, "-m", "benchmarks.steps", "--variant", variant]
        options = ["--folder", str(arguments.folder), "--steps", str(arguments.steps)]
        rows.append(
            {"variant": variant, **last_line([*command, *options, "--threads", str(arguments.threads)])}
        )
        print(rows[-1], flush=True)
    (arguments.folder / "steps.json").write_text(json.dumps(rows, indent=2) + "\n")
    first = rows[0]
    table = [
        [
            row["variant"],
            f"{row['us']:.1f}",
            f"{row['us'] / first['us']:.2f}",
            f"{row['processor_us']:.1f}",
            f"{row['processor_us'] / first['processor_us']:.2f}",
            str(row["peak_mb"]),
        ]
        for row in rows
    ]
    print_table(HEADER, table, title="HM4SR, Amazon Games' size, one thing undone at a time")


def measure(variant: str, data: Path, steps: int, threads: int) -> dict[str, Any]:
    """Medians over steps of the time a target takes."""
    train, undo = VARIANTS[variant]
    if undo is not None:
        undo()
    bench = Bench.build(settings_of(data, "hm4sr", train=train), threads, keep_memory="memory" not in variant)
    if variant == "compiled encoders":
        for name, encoder in bench.model.encoders.items():  # type: ignore[union-attr, operator]
            bench.model.encoders[name] = torch.compile(encoder)  # type: ignore[index, operator]
    bench.model.train()
    groups = bench.batches.epoch(numpy_generator(1, "batches", 1))
    warm_up = max(10, steps // 2)
    wall, processor = [], []
    for number, windows in enumerate(groups[: warm_up + steps]):
        started = time.process_time()
        seconds = bench.step(windows)
        if number >= warm_up:
            count = int(windows.targets.sum())
            wall.append(seconds / count * 1e6)
            processor.append((time.process_time() - started) / count * 1e6)
    return {
        "us": statistics.median(wall),
        "processor_us": statistics.median(processor),
        "peak_mb": peak_mb(),
    }


if __name__ == "__main__":
    main()
