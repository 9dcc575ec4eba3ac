"""All targets by name.

A target makes its world in a folder once and is then given bytes. It lets a UserError of one sentence pass,
and PictureError where pictures are read; whatever else comes out of it is a finding. The first byte of an
input chooses among files or routes where a target has several.
"""

from collections.abc import Callable
from pathlib import Path

from fuzz.folders import dataset, export, manifest, run_folder, weights
from fuzz.raw import amazon, config, histories, lines, movielens, parquet, recbole, table, times
from fuzz.service import pictures, requests
from fuzz.target import Target

TARGETS: dict[str, Callable[[Path], Target]] = {
    "table": table,
    "parquet": parquet,
    "recbole": recbole,
    "amazon": amazon,
    "lines": lines,
    "times": times,
    "movielens": movielens,
    "histories": histories,
    "config": config,
    "manifest": manifest,
    "dataset": dataset,
    "run": run_folder,
    "export": export,
    "weights": weights,
    "pictures": pictures,
    "requests": requests,
}
