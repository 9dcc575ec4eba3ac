"""What the measured curves say of sizes that this machine cannot hold: users and items by the million.

Reads scaling.json of `python -m benchmarks.scaling`. Run: `python -m benchmarks.estimate`; every assumption
is an option. A straight line is laid through the cost of a target against the number of items: its slope is
the softmax, what is left at none is everything else.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hm4sr.cli.output import print_table

STREAMS, DIM, FEATURE_WIDTHS, ADAM_COPIES = 3, 64, (768, 768), 4
"""HM4SR with text and pictures; of a table: the weights, two moments and the moving average."""


@dataclass(frozen=True)
class Assumptions:
    """What the estimate takes for granted.

    Attributes:
        users: of the catalogue to be trained.
        items: likewise.
        events: a user.
        negatives: items drawn a step of the sampled loss, for each GPU.
        gpu_tflops: peak of a GPU in bfloat16, in 10^12 operations a second.
        utilisation: share of the peak that matrix products reach.
        encoder_gain: how many times as fast as this machine a GPU does everything else.
        gpu_gb: memory of a GPU, in GB of 10^9 bytes.
        epochs: until the best one.
        gpus: that share a batch.
        scaling: share of their sum that several GPUs reach together.
    """

    users: float = 100e6
    items: float = 10e6
    events: float = 10
    negatives: float = 8_192
    gpu_tflops: float = 312
    utilisation: float = 0.4
    encoder_gain: float = 60
    gpu_gb: float = 80
    epochs: float = 10
    gpus: float = 8
    scaling: float = 0.8


def fit(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Microseconds of a target apart from the softmax, and of each item in it, by least squares.

    Raises:
        ValueError: there are fewer than two points of the axis "items".
    """
    points = [(row["value"], row["us_per_target"]) for row in rows if row["axis"] == "items"]
    if len(points) < 2:
        raise ValueError('needs two points of the axis "items" at least: run python -m benchmarks.scaling')
    values, costs = np.array(points, dtype=np.float64).T
    slope, rest = np.polyfit(values, costs, 1)
    return float(rest), float(slope)


def estimate(rest: float, slope: float, given: Assumptions) -> list[tuple[str, str]]:
    """Lines of the estimate, each a name and a figure.

    Args:
        rest: microseconds of a target on this machine apart from the softmax.
        slope: microseconds of a target and item in the softmax.
        given: the assumptions.
    """
    width = STREAMS * DIM
    operations = 6 * width  # of a target and an item: the logit and its two gradients, 2 each for a product
    here = operations / slope / 1e6
    sustained = given.gpu_tflops * given.utilisation
    targets = given.users * given.events
    encoder = targets * rest * 1e-6 / given.encoder_gain
    full = targets * given.items * operations / sustained / 1e12
    sampled = targets * given.negatives * operations / sustained / 1e12
    together = given.gpus * given.scaling
    ranking = given.users * given.items * 2 * width / sustained / 1e12
    tables = given.items * DIM * 4 * ADAM_COPIES
    features = given.items * sum(FEATURE_WIDTHS) * 2
    log = given.users * given.events * 16
    devices = math.ceil((tables + features) / (0.8e9 * given.gpu_gb))
    hours = 3600.0
    return [
        ("this machine, softmax, TFLOP/s", f"{here:.3f}"),
        ("this machine, all else, us a target", f"{rest:.1f}"),
        ("a GPU, matrix products, TFLOP/s", f"{sustained:.0f}"),
        ("targets an epoch", f"{targets:.3g}"),
        ("one GPU: all else, hours an epoch", f"{encoder / hours:.2f}"),
        ("one GPU: softmax over drawn items, hours an epoch", f"{sampled / hours:.2f}"),
        ("one GPU: softmax over all items, hours an epoch", f"{full / hours:.1f}"),
        (f"{given.gpus:g} GPUs, sampled, hours an epoch", f"{(encoder + sampled) / together / hours:.2f}"),
        (
            f"{given.gpus:g} GPUs, sampled, hours for {given.epochs:g} epochs",
            f"{(encoder + sampled) * given.epochs / together / hours:.1f}",
        ),
        ("one GPU: rank all users among all items, hours", f"{ranking / hours:.2f}"),
        ("item table with its moments and average, GB", f"{tables / 1e9:.1f}"),
        ("frozen features in float16, GB", f"{features / 1e9:.1f}"),
        ("events in the memory of a host, GB", f"{log / 1e9:.1f}"),
        (
            "GPUs that hold table and features",
            str(devices),
        ),
    ]


def main() -> None:
    """Read the curves, print the estimate and keep it beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench/scaling"))
    names = list(Assumptions.__dataclass_fields__)
    for name in names:
        default = getattr(Assumptions(), name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default)
    arguments = parser.parse_args()
    given = Assumptions(**{name: getattr(arguments, name) for name in names})
    rows = json.loads((arguments.folder / "scaling.json").read_text())
    lines = estimate(*fit(rows), given)
    assumed = ", ".join(f"{name} {getattr(given, name):g}" for name in names)
    print_table(["what", "figure"], [list(line) for line in lines], title="assumed: " + assumed)
    markdown = [f"| {name} | {figure} |" for name, figure in lines]
    text = "\n".join(["| what | figure |", "|---|---|", *markdown, "", f"Assumed: {assumed}."])
    (arguments.folder / "estimate.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
