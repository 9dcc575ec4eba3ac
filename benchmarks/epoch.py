"""Time one epoch of training and one ranking of all users' targets; prints one line of JSON."""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch

from hm4sr.data.batches import TrainingBatches, make_batch, training_windows
from hm4sr.data.dataset import Dataset
from hm4sr.evaluation.ranking import rank_part
from hm4sr.runtime import choose_device, choose_precision, keep_freed_memory, numpy_generator
from hm4sr.training.loop import build_model
from hm4sr.training.settings import Experiment


def main() -> None:
    """One warm-up of 20 steps, then a whole epoch, then three rankings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="hm4sr")
    parser.add_argument("--features", help="comma-separated modalities; all if left out")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    data: dict[str, object] = {"path": str(arguments.data)}
    if arguments.features is not None:
        data["features"] = [name for name in arguments.features.split(",") if name]
    experiment = Experiment.build(
        {"data": data, "model": {"name": arguments.model}, "train": {"precision": arguments.precision}},
        "benchmark",
    )
    dataset, device = Dataset.open(arguments.data), choose_device("auto")
    log = dataset.events
    model = build_model(experiment, dataset, device)
    model.matmul_dtype = choose_precision(experiment.train.precision, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    batches = TrainingBatches(log, training_windows(log, 50, model.parallel), 1024)

    def step(windows) -> float:  # type: ignore[no-untyped-def]
        started = time.perf_counter()
        terms = model.losses(make_batch(log, windows).to(device))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        return time.perf_counter() - started

    model.train()
    groups = batches.epoch(numpy_generator(1, "batches", 1))
    for windows in groups[:20]:
        step(windows)
    seconds = [step(windows) for windows in groups]
    ranking = []
    for _ in range(3):
        started = time.perf_counter()
        rank_part(model, log, "test", device)
        ranking.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {
        "step_ms": statistics.median(seconds) * 1e3,
        "epoch_s": sum(seconds),
        "ranking_s": statistics.median(ranking),
        "peak_mb": round(peak),
        "threads": torch.get_num_threads(),
        "precision": str(model.matmul_dtype).removeprefix("torch."),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
