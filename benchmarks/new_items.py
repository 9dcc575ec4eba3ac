"""How well items are recommended that came after training: `python -m benchmarks.new_items`.

A twentieth of the simulated shop's items is kept out of the training data and added to the trained model.
Each of their true events is then ranked among all items, after the history before it, with the mean ID vector
that HM4SR gives new items and with zeros in its place. Chance is a hit@10 of 10 over the number of items.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from hm4sr.cli.output import print_table
from hm4sr.data.prepare import prepare
from hm4sr.data.simulate import SimulateConfig, simulate
from hm4sr.evaluation.metrics import summarise
from hm4sr.features.extract import FeatureConfig, extract
from hm4sr.serving.new_items import read_new_items_file
from hm4sr.serving.recommender import Recommender
from hm4sr.training.run import train_run
from hm4sr.training.settings import Experiment


def main() -> None:
    """Simulate, keep items out, train, add them, rank."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.new_items", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench/new-items"))
    parser.add_argument("--users", type=int, default=1_500)
    parser.add_argument("--items", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = arguments.folder
    shop = folder / "shop"
    if not shop.is_dir():
        simulate(SimulateConfig(users=arguments.users, items=arguments.items, seed=arguments.seed), shop)
    events, items = pl.read_csv(shop / "interactions.csv"), pl.read_csv(shop / "items.csv")
    rng = np.random.default_rng(arguments.seed)
    new = items["item_id"].sample(len(items) // 20, seed=int(rng.integers(2**31))).to_list()
    events.filter(~pl.col("item_id").is_in(new)).write_csv(folder / "old-events.csv")
    items.filter(~pl.col("item_id").is_in(new)).write_csv(shop / "old-items.csv")
    items.filter(pl.col("item_id").is_in(new)).write_csv(shop / "new-items.csv")
    dataset = prepare(folder / "old-events.csv", shop / "old-items.csv", folder / "data", force=True)
    extract(dataset, FeatureConfig(text="builtin", image="builtin"))
    experiment = Experiment.build(
        {
            "data": {"path": str(folder / "data")},
            "model": {"name": "hm4sr"},
            "train": {"epochs": arguments.epochs},
            "seed": arguments.seed,
        },
        "benchmark",
    )
    run = train_run(experiment, folder / "run", force=True)
    mean = Recommender.load(run.path)
    table, root = read_new_items_file(shop / "new-items.csv", dataset)
    mean.add_items(table, image_root=root)
    histories, wanted = held_out(events, set(new))
    rows = [row("mean ID vector", mean, histories, wanted, set(new))]
    zero = mean.served.ranker.vectors.copy()
    zero[-len(new) :, mean.served.ranker.blocks["id"]] = 0.0
    mean.served = replace(mean.served, ranker=replace(mean.served.ranker, vectors=zero))
    rows.append(row("zeros", mean, histories, wanted, set(new)))
    share = events["item_id"].is_in(new).mean()
    title = f"{len(wanted):,} events of {len(new)} new items among {len(items)}; {share:.1%} of all events"
    print_table(["ID part", "hit@10", "mrr@10", "mean rank", "new in lists"], rows, title)


def held_out(events: pl.DataFrame, new: set[str]) -> tuple[list[list[tuple[str, int]]], list[str]]:
    """Each event of a new item that has a past of old ones: that past, and the item."""
    histories, wanted = [], []
    for _, log in events.sort("timestamp", maintain_order=True).group_by("user_id"):
        past: list[tuple[str, int]] = []
        for item, second in zip(log["item_id"].to_list(), log["timestamp"].to_list(), strict=True):
            if item in new and past:
                histories.append(list(past))
                wanted.append(item)
            elif item not in new:
                past.append((item, second))
    return histories, wanted


def row(
    name: str,
    recommender: Recommender,
    histories: list[list[tuple[str, int]]],
    wanted: list[str],
    new: set[str],
) -> list[str]:
    """Rank the wanted items; and the share of new items in the lists of ten."""
    every = recommender.recommend(histories=histories, k=len(recommender.catalogue), filter_seen=False)
    numbers = np.array([recommender.served.shelf.numbers[item] for item in wanted])
    ranks = np.argmax(every.numbers == numbers[:, None], axis=1) + 1
    first = min(recommender.served.shelf.numbers[item] for item in new)
    found = summarise(ranks, [10])
    share = (every.numbers[:, :10] >= first).mean()
    return [name, f"{found['hit@10']:.3f}", f"{found['mrr@10']:.3f}", f"{ranks.mean():.0f}", f"{share:.1%}"]


if __name__ == "__main__":
    main()
