"""A million items and ten million events: sampled softmax, sparse updates, full ranking of some users.

Prints seconds per step and epoch, ranking and peak memory. Run: `python -m benchmarks.large`.
"""

import argparse
import json
from pathlib import Path

from benchmarks.timing import Bench, settings_of, summary
from hm4sr.features.synthetic import LARGE, SyntheticConfig, synthesize


def main() -> None:
    """Make the data if they are not there; time some steps and the ranking of some users."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--model", default="hm4sr")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--ranked", type=int, default=2_000, help="users whose test target is ranked")
    parser.add_argument("--negatives", type=int, default=4_096)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    data = arguments.folder / "large"
    if not (data / "manifest.json").is_file():
        print(f"making {data}", flush=True)
        synthesize(SyntheticConfig.parse(LARGE, "benchmarks"), data)
    train = {"loss": "sampled", "negatives": arguments.negatives}
    bench = Bench.build(settings_of(data, arguments.model, train=train), arguments.threads)
    seconds, num_steps = bench.steps(10, arguments.steps)
    ranking = bench.ranking(arguments.ranked)
    result = summary(bench, seconds, num_steps, [ranking])
    users = bench.dataset.events.num_users
    print(json.dumps({**result, "steps": num_steps, "ranking_all_s": ranking / arguments.ranked * users}))


if __name__ == "__main__":
    main()
