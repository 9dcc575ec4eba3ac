"""Memory of what feeds training: `python -m benchmarks.loader DATASET` prints one line of JSON a mode.

Resident memory is read before the events are loaded, and after an epoch was drawn and its first 100 batches
were made. Training lets the C library keep freed memory for its steps; that is not counted here. `parallel`
is how HM4SR and SASRec are trained.
"""

import argparse
import json
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl


def main() -> None:
    """Measure both modes, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--mode", choices=["parallel", "prefixes"])
    arguments = parser.parse_args()
    if arguments.mode:
        print(json.dumps({"mode": arguments.mode} | measure(arguments.dataset, arguments.mode == "parallel")))
        return
    for mode in ("parallel", "prefixes"):
        command = [sys.executable, "-m", "benchmarks.loader", str(arguments.dataset), "--mode", mode]
        subprocess.run(command, check=True)


def measure(path: Path, parallel: bool) -> dict[str, float]:
    """Bytes an event, and seconds to load, to count the windows and to draw an epoch."""
    from hm4sr.data.batches import TrainingBatches, TrainingWindows, make_batch
    from hm4sr.data.dataset import Dataset

    dataset = Dataset.open(path, verify=False)
    pl.read_parquet(path / "events.parquet", n_rows=1)  # polars' own threads and buffers are not the loader's
    before, started = resident(), time.perf_counter()
    log = dataset.events
    loaded = time.perf_counter()
    batches = TrainingBatches(log, TrainingWindows(log, 50, parallel), 1024)
    counted = time.perf_counter()
    epoch = batches.epoch(np.random.default_rng(0))
    drawn = time.perf_counter()
    for windows in islice(epoch, 100):
        make_batch(log, windows)
    made = time.perf_counter()
    time.sleep(2)  # polars gives freed memory back after a while
    arrays = (log.items, log.times, log.starts, log.train_end, log.valid_end)
    return {
        "events": log.num_events,
        "windows": len(batches.windows),
        "log_bytes_an_event": round(sum(array.nbytes for array in arrays) / log.num_events, 2),
        "resident_bytes_an_event": round((resident() - before) / log.num_events, 2),
        "load_s": round(loaded - started, 2),
        "windows_s": round(counted - loaded, 2),
        "epoch_s": round(drawn - counted, 2),
        "batch_ms": round((made - drawn) * 10, 2),
    }


def resident() -> int:
    """Resident memory of this process in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
