"""Time and peak memory of `hm4sr prepare`, each run in a process of its own.

python -m benchmarks.prepare --events 10_000_000                    CSV and Parquet
python -m benchmarks.prepare --events 100_000_000 --kinds parquet   needs 16 GB and some time

On a busy machine the clock counts other people's work too; the processor time does not.
The interactions are drawn: popularity and activity fall off as in a shop, a few rows occur twice, the rows
are in no order, and ids are texts as long as those of a shop.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from hm4sr.cli.output import print_table


def main() -> None:
    """Make the raw tables if they are not there, prepare each kind of file, print and keep the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="where data and results go")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--kinds", default="parquet,csv", help="formats of the interactions")
    parser.add_argument("--rules", default="", help="further options of `hm4sr prepare`, divided by spaces")
    arguments = parser.parse_args()
    raw = arguments.folder / f"raw-{arguments.events}"
    raw.mkdir(parents=True, exist_ok=True)
    items = raw / "items.csv"
    rows = []
    for kind in arguments.kinds.split(","):
        log = raw / f"interactions.{kind}"
        if not (log.is_file() and items.is_file()):
            print(f"making {log}", flush=True)
            run(["-m", "benchmarks.prepare_data", str(raw), kind, str(arguments.events)])
        out = raw / f"prepared-{kind}"
        paths = ["--interactions", str(log), "--items", str(items), "--out", str(out), "--force"]
        seconds, processor, peak = run(["-m", "hm4sr.cli", "prepare", *paths, *arguments.rules.split()])
        statistics = json.loads((out / "manifest.json").read_text())["statistics"]
        rows.append(
            {"kind": kind, "read": statistics["rows_read"], "kept": statistics["actions"]}
            | {"seconds": round(seconds, 1), "cpu_seconds": round(processor, 1), "peak_mb": round(peak)}
        )
        print(rows[-1], flush=True)
    (arguments.folder / f"prepare-{arguments.events}.json").write_text(json.dumps(rows, indent=2) + "\n")
    header = ["file", "rows", "kept", "seconds", "CPU seconds", "peak MB"]
    print_table(header, [[str(value) for value in row.values()] for row in rows])


def run(arguments: list[str]) -> tuple[float, float, float]:
    """Seconds on the clock, seconds of processor time, and peak resident MB of a Python process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with code {process.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
