"""The whole way on data that the project makes itself: a shop, features, two models, a page to look at."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hm4sr.data.batches import history_windows, make_batch
from hm4sr.data.dataset import Dataset
from hm4sr.data.prepare import prepare
from hm4sr.data.simulate import SimulateConfig, simulate
from hm4sr.evaluation.metrics import summarise
from hm4sr.evaluation.popularity import rank_by_popularity
from hm4sr.experiments.page import Case, RunSummary, Shown, write_page
from hm4sr.features.extract import extract
from hm4sr.features.settings import FeatureConfig
from hm4sr.training.run import Run, train_run
from hm4sr.training.settings import Experiment

logger = logging.getLogger(__name__)

MODELS = {"sasrec": "SASRec", "hm4sr": "HM4SR"}
_CASES, _RECOMMENDED, _HISTORY = 8, 5, 6


def run_demo(folder: Path, seed: int = 0, epochs: int = 40) -> Path:
    """Simulate, prepare, extract, train, judge, recommend; returns the page.

    Finished steps are kept: called again after an interruption, it goes on where it stopped.

    Args:
        folder: everything is written below it.
        seed: of the shop and of the models.
        epochs: most epochs a model is trained.
    """
    shop, data = folder / "shop", folder / "data"
    if not (shop / "truth.json").is_file():
        logger.info("simulating a shop: %s", shop)
        simulate(SimulateConfig(seed=seed), shop)
    if not (data / "manifest.json").is_file():
        logger.info("preparing: %s", data)
        prepare(shop / "interactions.csv", shop / "items.csv", data)
    dataset = Dataset.open(data)
    for report in extract(dataset, FeatureConfig(text="builtin", image="builtin")):
        logger.info("%s: %s of %s items have a vector", report.modality, report.present, report.num_items)
    runs = {name: _train(name, data, folder / "runs" / name, seed, epochs) for name in MODELS}
    popular = summarise(rank_by_popularity(dataset.events, dataset.num_items, "test").ranks, (5, 10, 20))
    summaries = [
        RunSummary("Popularity", popular),
        *(_summary(MODELS[name], run) for name, run in runs.items()),
    ]
    page = folder / "report.html"
    write_page(page, "HM4SR on a simulated shop", summaries, show_cases(runs["hm4sr"], dataset, seed))
    return page


def _train(name: str, data: Path, out: Path, seed: int, epochs: int) -> Run:
    experiment = Experiment.build(
        {
            "data": {"path": str(data)},
            "model": {"name": name},
            "train": {"epochs": epochs, "patience": 6, "batch_targets": 512},
            "seed": seed,
        },
        "demo",
    )
    started = (out / "manifest.json").is_file() or any(out.glob("resume/epoch-*/manifest.json"))
    return train_run(experiment, out, resume=started, force=not started)


def _summary(name: str, run: Run) -> RunSummary:
    report = run.report
    return RunSummary(name, report["test"], run.metrics(), report["seconds_per_epoch"], report["parameters"])


def show_cases(run: Run, dataset: Dataset, seed: int) -> list[Case]:
    """Some users drawn at random among those whose target was ranked high and those where it was not."""
    log = dataset.events
    ranks = run.ranks()
    test = ranks.filter(ranks["part"] == "test")
    hit = test["rank"].to_numpy() <= _RECOMMENDED
    users = test["user"].to_numpy()
    rng = np.random.default_rng(seed)
    chosen = np.concatenate(
        [rng.permutation(users[hit])[: _CASES // 2], rng.permutation(users[~hit])[: _CASES - _CASES // 2]]
    ).astype(np.int64)
    targets = log.starts[chosen + 1] - 1
    best = _best_items(run, dataset, targets)
    shown = _Shelf(dataset)
    cases = []
    for user, target, items in zip(chosen, targets, best, strict=True):
        first = max(int(log.starts[user]), int(target) - _HISTORY)
        cases.append(
            Case(
                user=dataset.users["user_id"][int(user)],
                history=[shown(int(log.items[e]), int(log.times[e])) for e in range(first, int(target))],
                target=shown(int(log.items[target]), int(log.times[target])),
                recommended=[shown(int(item)) for item in items],
                earlier=first - int(log.starts[user]),
            )
        )
    return cases


@torch.inference_mode()
def _best_items(run: Run, dataset: Dataset, targets: NDArray[np.int64]) -> Sequence[Sequence[int]]:
    model = run.load_model(dataset)
    windows = history_windows(dataset.events, targets, model.catalog.max_length)
    scores = model.scores(make_batch(dataset.events, windows), model.fix_items())
    best: list[list[int]] = scores.topk(_RECOMMENDED, dim=1).indices.tolist()
    return best


class _Shelf:
    """Items by number, as the page shows them."""

    def __init__(self, dataset: Dataset):
        self.rows: list[dict[str, Any]] = dataset.items.to_dicts()
        root = dataset.manifest["rules"].get("image_root")
        self.root = Path(root) if root else None

    def __call__(self, item: int, time: int | None = None) -> Shown:
        row = self.rows[item - 1]
        picture = self.root / row["image"] if self.root and row["image"] else None
        return Shown(
            row["item_id"], row["title"] or row["item_id"], " / ".join(row["categories"]), time, picture
        )
