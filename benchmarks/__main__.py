"""`make bench`: one table of training and ranking speed on data of Amazon Games' size.

Each row is a process of its own, so that peak memory is that row's. RecBole's SASRec runs beside ours on the
same events, in an environment of its own that is made at the first run (--no-recbole leaves it out). Times
are medians within one run; on a busy machine compare rows of one run, not runs. Timings of single parts:
`pytest benchmarks`; cost against size: `python -m benchmarks.scaling`; a million items:
`python -m benchmarks.large`.
"""

import argparse
import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch

from hm4sr.cli.output import print_table
from hm4sr.data.dataset import Dataset
from hm4sr.features.synthetic import SyntheticConfig, synthesize

HERE = Path(__file__).parent
ROWS = {
    "HM4SR": ["--model", "hm4sr"],
    "HM4SR, float32": ["--model", "hm4sr", "--precision", "float32"],
    "HM4SR, ID alone": ["--model", "hm4sr", "--features", ""],
    "SASRec": ["--model", "sasrec"],
    "SASRec, float32": ["--model", "sasrec", "--precision", "float32"],
}
RECBOLE = "RecBole SASRec"
HEADER = ["model", "ms/step", "s/epoch", "s/ranking", "peak MB", "epochs of RecBole's"]


def main() -> None:
    """Make the data if they are not there, time each row, print and keep the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="where data and results go")
    parser.add_argument("--threads", type=int, default=0, help="processor threads; 0 leaves it to torch")
    parser.add_argument("--only", help="time only the rows whose name contains this")
    parser.add_argument("--no-recbole", action="store_true", help="leave RecBole's SASRec out")
    arguments = parser.parse_args()
    data = games_size(arguments.folder)
    threads = ["--threads", str(arguments.threads)]
    commands: dict[str, list[str]] = {
        name: [sys.executable, "-m", "benchmarks.epoch", str(data), *threads, *options]
        for name, options in devices(ROWS).items()
    }
    if not arguments.no_recbole:
        recbole = recbole_command(arguments.folder, data, threads)
        commands |= {RECBOLE: recbole} if recbole else {}
    rows = []
    for name, command in commands.items():
        if arguments.only and arguments.only not in name:
            continue
        rows.append({"model": name, **last_line(command)})
        print(rows[-1], flush=True)
    (arguments.folder / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print_table(HEADER, cells(rows), title="24,303 users, 10,672 items, 231,780 events, 768-wide features")


def games_size(folder: Path) -> Path:
    """Data of Amazon Games' size within the folder, made if they are not there."""
    data = folder / "games-size"
    if not (data / "manifest.json").is_file():
        print(f"making {data}", flush=True)
        synthesize(SyntheticConfig.parse({}, "benchmarks"), data)
    return data


def devices(rows: dict[str, list[str]]) -> dict[str, list[str]]:
    """The rows on the processor, and the same on a GPU where there is one."""
    on_processor = {name: [*options, "--device", "cpu"] for name, options in rows.items()}
    if not torch.cuda.is_available():
        return on_processor
    on_gpu = {f"{name}, GPU": [*options, "--device", "cuda"] for name, options in rows.items()}
    return on_processor | on_gpu


def recbole_command(folder: Path, data: Path, options: Sequence[str]) -> list[str] | None:
    """The command that times RecBole's SASRec on the same events; None, and a line why, without it."""
    environment, events = folder / "recbole-env", folder / "recbole" / data.name
    python = environment / "bin" / "python"
    if not (environment / "ready").is_file():
        print(f"making {environment}", flush=True)
        venv.create(environment, with_pip=True, clear=True)
        wanted = [line.split("#")[0].strip() for line in (HERE / "recbole-requirements.txt").open()]
        others = [line for line in wanted if line and not line.startswith("recbole")]
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        steps = [
            [*pip, f"torch=={torch.__version__.split('+')[0]}"],
            [*pip, *others],
            [*pip, "--no-deps", *(line for line in wanted if line.startswith("recbole"))],
        ]
        for step in steps:
            if subprocess.run(step, check=False).returncode:
                print(f"{RECBOLE} is left out: {' '.join(step)} failed", flush=True)
                return None
        (environment / "ready").touch()
    events.mkdir(parents=True, exist_ok=True)
    log = Dataset.open(data).events
    columns = {"user_id:token": log.users, "item_id:token": log.items, "timestamp:float": log.times}
    pl.DataFrame(columns).write_csv(events / f"{data.name}.inter", separator="\t")
    script = str(HERE / "recbole_model.py")
    return [str(python), script, str(folder / "recbole"), data.name, *options]


def last_line(command: list[str]) -> dict[str, Any]:
    """Run a benchmark in a process of its own; its last line is its result."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def cells(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The table's rows; the last column is how many epochs fit into one of RecBole's."""
    base = next((row["epoch_s"] for row in rows if row["model"] == RECBOLE), None)
    return [
        [
            row["model"],
            f"{row['step_ms']:.1f}",
            f"{row['epoch_s']:.1f}",
            f"{row['ranking_s']:.2f}",
            str(row["peak_mb"]),
            f"{base / row['epoch_s']:.1f}" if base else "-",
        ]
        for row in rows
    ]


if __name__ == "__main__":
    main()
