"""Seconds of an epoch of every model, those that RecBole has beside RecBole's, all in one run.

Steps are timed and multiplied by their number. Data: what `make bench` makes (Amazon Games' size). IISAN
reads the hidden states of encoders, which made data have not: --iisan names a data set with them, and its row
is of that data set. Run: `python -m benchmarks.baselines`; writes baselines.json into --folder.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.__main__ import games_size, last_line, recbole_command
from hm4sr.cli.output import print_table
from hm4sr.models import registered_models

RECBOLE = {"gru4rec": "GRU4Rec", "sasrec": "SASRec", "fearec": "FEARec"}
TEXT_ALONE = ("unisrec", "tedrec")
HEADER = ["model", "ms/step", "s/epoch", "s/ranking", "peak MB", "RecBole's s/epoch", "times as fast"]


def main() -> None:
    """Time all models, or with --only some, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", nargs="*", help="names of models")
    parser.add_argument("--iisan", type=Path, help="a data set with hidden states of its encoders")
    arguments = parser.parse_args()
    data = games_size(arguments.folder)
    rows = []
    for name in arguments.only or registered_models():
        if name == "iisan" and arguments.iisan is None:
            print("iisan is left out: name a data set with --iisan", flush=True)
            continue
        row = {"model": name, **ours(name, arguments.iisan if name == "iisan" else data, arguments)}
        if name in RECBOLE:
            row["recbole"] = theirs(name, data, arguments)
        rows.append(row)
        print(rows[-1], flush=True)
    (arguments.folder / "baselines.json").write_text(json.dumps(rows, indent=2) + "\n")
    print_table(HEADER, [cells(row) for row in rows], title="HM4SR and its rivals")


def ours(name: str, data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Our model's figures, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.epoch", str(data), "--model", name, "--device", "cpu"]
    options = ["--threads", str(arguments.threads), "--steps", str(arguments.steps)]
    if name in TEXT_ALONE:
        options += ["--features", "text"]
    return {"data": data.name, **last_line([*command, *options])}


def theirs(name: str, data: Path, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """RecBole's figures on the same events; a few steps, they take seconds."""
    options = ["--threads", str(arguments.threads), "--model", RECBOLE[name], "--steps", "8"]
    command = recbole_command(arguments.folder, data, options)
    return last_line(command) if command else None


def cells(row: dict[str, Any]) -> list[str]:
    """One line of the table."""
    theirs = row.get("recbole")
    return [
        row["model"] + ("" if row["data"] == "games-size" else f" ({row['data']})"),
        f"{row['step_ms']:.0f}",
        f"{row['epoch_s']:.1f}",
        f"{row['ranking_s']:.2f}",
        str(row["peak_mb"]),
        f"{theirs['epoch_s']:.0f}" if theirs else "-",
        f"{theirs['epoch_s'] / row['epoch_s']:.0f}" if theirs else "-",
    ]


if __name__ == "__main__":
    main()
