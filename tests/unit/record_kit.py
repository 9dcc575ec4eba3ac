"""Finished runs written by hand: ranks, epochs and costs are given, so that figures can be told by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from hm4sr.evaluation.metrics import Metric
from hm4sr.experiments.comparison import Comparison
from hm4sr.experiments.records import SPEED, DatasetFacts, Record
from hm4sr.experiments.runs import Records
from hm4sr.manifest import write_manifest

Ranks = Sequence[int]
Epoch = tuple[float, float, float]
"""Seconds of training and of validation, and the validation NDCG@10."""


def rank_table(parts: Mapping[str, Ranks], users: Sequence[int] | None = None) -> pl.DataFrame:
    """Ranks of the targets of each part; target number n is item n + 1, of user n where none are given."""
    tables = []
    for part, ranks in parts.items():
        numbers = list(range(len(ranks)))
        columns = {"user": users or numbers, "item": [number + 1 for number in numbers], "rank": ranks}
        table = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Int32))
        tables.append(table.select(pl.lit(part).alias("part"), pl.all()))
    return pl.concat(tables)


def record(
    folder: Path,
    parts: Mapping[str, Ranks],
    seed: int = 1,
    users: Sequence[int] | None = None,
    model: str = "sasrec",
    features: Sequence[str] = (),
    epochs: Sequence[Epoch] = ((60.0, 30.0, 0.1),),
    speed: float | None = None,
    threads: int = 1,
    **report: Any,
) -> Record:
    """A run in a folder of its own."""
    folder.mkdir(parents=True)
    rank_table(parts, users).write_parquet(folder / "ranks.parquet")
    rows = [
        {"epoch": number, "train_seconds": train, "valid_seconds": valid, "valid": {"ndcg@10": score}}
        for number, (train, valid, score) in enumerate(epochs, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if speed is not None:
        write_manifest(folder / SPEED, {"seconds": speed, "threads": threads})
    config = {"seed": seed, "model": {"name": model}, "data": {"features": list(features)}}
    costs = {"parameters": 1_000, "seconds_per_epoch": 1.0, "peak_memory_mb": 100, "best_epoch": 1}
    environment = {"device": "cpu", "threads": threads}
    return Record(folder, config, {}, {**costs, **report}, environment, folder.name)


def records_of(folder: Path, tests: Mapping[str, Sequence[Ranks]], **options: Any) -> Records:
    """Systems by label, with the test ranks of seeds 1, 2, ...; on validation they rank alike."""
    return {
        label: {
            seed: record(
                folder / f"{label}-{seed}", {"valid": [1] * len(ranks), "test": ranks}, seed, **options
            )
            for seed, ranks in enumerate(seeds, start=1)
        }
        for label, seeds in tests.items()
    }


def facts_of(
    records: Records, size: Mapping[str, int] | None = None, targets: pl.DataFrame | None = None
) -> DatasetFacts:
    """A data set that has the targets of these runs; where nothing is said of them, they are all alike."""
    if targets is None:
        run = next(iter(next(iter(records.values())).values()))
        keys = run.ranks().filter(pl.col("part") == "test").select("user", "item")
        alike = [pl.lit(5, pl.Int32).alias(name) for name in ("history", "popularity")]
        targets = keys.with_columns(*alike, pl.lit(60, pl.Int64).alias("gap"))
    return DatasetFacts("shop", {}, dict(size or {"users": 8, "items": 9, "actions": 1_234}), targets)


def comparison_of(
    records: Records, *metrics: str, ours: str = "ours", facts: DatasetFacts | None = None
) -> Comparison:
    """The first metric is the primary one."""
    parsed = [Metric.parse(name) for name in metrics]
    return Comparison.of(records, facts or facts_of(records), parsed, parsed[0], ours)
