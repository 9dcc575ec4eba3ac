"""Time one epoch of training and one ranking of all users' targets; prints one line of JSON."""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.timing import Bench, settings_of, summary


def main() -> None:
    """One warm-up of 20 steps, then a whole epoch or its first --steps, then three rankings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="hm4sr")
    parser.add_argument("--features", help="comma-separated modalities; all if left out")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--steps", type=int, help="time so many steps; the epoch is their mean times its steps"
    )
    arguments = parser.parse_args()
    data: dict[str, Any] = {}
    if arguments.features is not None:
        data["features"] = [name for name in arguments.features.split(",") if name]
    train = {"precision": arguments.precision, "device": arguments.device}
    bench = Bench.build(
        settings_of(arguments.data, arguments.model, data=data, train=train), arguments.threads
    )
    seconds, num_steps = bench.steps(20, arguments.steps)
    print(json.dumps(summary(bench, seconds, num_steps, [bench.ranking() for _ in range(3)])))


if __name__ == "__main__":
    main()
