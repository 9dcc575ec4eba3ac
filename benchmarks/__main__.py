"""`make bench`: one table of training and ranking speed on data of Amazon Games' size.

Each row is a process of its own, so that peak memory is that row's. Times are medians within one run; on a
busy machine compare rows of one run, not runs.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from hm4sr.cli.output import print_table
from hm4sr.features.synthetic import SyntheticConfig, synthesize

ROWS = {
    "HM4SR": ["--model", "hm4sr"],
    "HM4SR, float32": ["--model", "hm4sr", "--precision", "float32"],
    "HM4SR, ID alone": ["--model", "hm4sr", "--features", ""],
    "SASRec": ["--model", "sasrec"],
    "SASRec, float32": ["--model", "sasrec", "--precision", "float32"],
}
HEADER = ["model", "ms/step", "s/epoch", "s/ranking", "peak MB"]


def main() -> None:
    """Make the data if they are not there, time each row, print and keep the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="where data and results go")
    parser.add_argument("--threads", type=int, default=0, help="processor threads; 0 leaves it to torch")
    parser.add_argument("--only", help="time only the rows whose name contains this")
    arguments = parser.parse_args()
    data = arguments.folder / "games-size"
    if not (data / "manifest.json").is_file():
        print(f"making {data}", flush=True)
        synthesize(SyntheticConfig.parse({}, "benchmarks"), data)
    rows = []
    for name, options in ROWS.items():
        if arguments.only and arguments.only not in name:
            continue
        command = [sys.executable, "-m", "benchmarks.epoch", str(data), "--threads", str(arguments.threads)]
        done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        rows.append({"model": name, **result})
        print(f"{name}: {result}", flush=True)
    (arguments.folder / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print_table(
        HEADER,
        [
            [
                row["model"],
                f"{row['step_ms']:.1f}",
                f"{row['epoch_s']:.1f}",
                f"{row['ranking_s']:.2f}",
                str(row["peak_mb"]),
            ]
            for row in rows
        ],
        title="24,303 users, 10,672 items, 231,780 events, 768-wide text and image features",
    )


if __name__ == "__main__":
    main()
