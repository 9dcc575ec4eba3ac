"""Time single answers over a large catalogue: `python -m benchmarks.serving --items 200000`.

Times are the middle and the 99th percentile of single requests after histories of 50 events, one after the
other. On a busy machine read processor time, the middle one again: others do not count in it. The weights are
random: speed does not depend on them.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from hm4sr.cli.output import print_table
from hm4sr.data.dataset import Dataset
from hm4sr.features.synthetic import SyntheticConfig, synthesize
from hm4sr.serving.index import IndexConfig
from hm4sr.serving.recommender import Recommender
from hm4sr.training.loop import build_model
from hm4sr.training.settings import Experiment

EVENTS, K = 50, 10


def main() -> None:
    """Make the data if they are not there, then time each way of answering."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="where the data go")
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=64, help="of the frozen vectors")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--faiss", action="store_true", help="time an approximate index too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = arguments.folder / f"serving-{arguments.items}"
    if not (data / "manifest.json").is_file():
        sizes = {"users": 5_000, "items": arguments.items, "events": 5 * arguments.items + 50_000}
        synthesize(SyntheticConfig.parse({**sizes, "feature_width": arguments.width}, "benchmarks"), data)
    rows = [
        timings("hm4sr", data, arguments.requests, None),
        timings("sasrec", data, arguments.requests, None),
    ]
    if arguments.faiss:
        config = IndexConfig(kind="faiss", folder=data / "index")
        rows.append(timings("hm4sr", data, arguments.requests, config))
    print(json.dumps(rows))
    header = ["model", "start s", "p50 ms", "p99 ms", "cpu ms", "of it encoding", "in batches of 64"]
    table = [[str(row["name"]), *(f"{row[key]:.2f}" for key in header[1:])] for row in rows]
    print_table(header, table, title=f"{arguments.items:,} items, histories of {EVENTS}")


def timings(model: str, data: Path, requests: int, index: IndexConfig | None) -> dict[str, float | str]:
    """Seconds to start and milliseconds of an answer, alone and in a batch."""
    experiment = Experiment.build({"data": {"path": str(data)}, "model": {"name": model}}, "benchmark")
    dataset = Dataset.open(data, verify=False)
    built = build_model(experiment, dataset, torch.device("cpu"))
    started = time.perf_counter()
    recommender = Recommender(built, dataset, index=index)
    ready = time.perf_counter() - started
    rng = np.random.default_rng(1)
    ids = recommender.served.shelf.ids
    first = dataset.events.clock().first
    histories = [
        [(ids[item], first + 86_400 * day) for day, item in enumerate(rng.integers(0, len(ids), EVENTS))]
        for _ in range(requests)
    ]
    recommender.recommend(histories=histories[0], k=K)
    padded = [recommender.prepare(histories=one).requests.padded(np.array([0]), EVENTS) for one in histories]
    batches = [histories[at : at + 64] for at in range(0, requests - 63, 64)]
    alone, cpu = _milliseconds(lambda one: recommender.recommend(histories=one, k=K)[0], histories)
    _, encoding = _milliseconds(recommender.served.ranker.encode, padded)
    _, together = _milliseconds(lambda some: recommender.recommend(histories=some, k=K), batches)
    return {
        "name": f"{model}, {'exact' if index is None else index.kind}",
        "start s": ready,
        "p50 ms": float(np.percentile(alone, 50)),
        "p99 ms": float(np.percentile(alone, 99)),
        "cpu ms": float(np.median(cpu)),
        "of it encoding": float(np.median(encoding)),
        "in batches of 64": float(np.median(together)) / 64,
    }


def _milliseconds(call, values) -> tuple[list[float], list[float]]:  # type: ignore[no-untyped-def]
    """Time by the clock and of the processor, for each value."""
    wall, cpu = [], []
    for value in values:
        started, used = time.perf_counter(), time.process_time()
        call(value)
        wall.append((time.perf_counter() - started) * 1e3)
        cpu.append((time.process_time() - used) * 1e3)
    return wall, cpu


if __name__ == "__main__":
    main()
