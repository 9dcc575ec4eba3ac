"""The multi-modal baselines on the simulated shop: its items' texts and pictures tell them something."""

import dataclasses

import pytest
import torch

from hm4sr.data.dataset import Dataset
from hm4sr.data.prepare import prepare
from hm4sr.data.simulate import SimulateConfig, simulate
from hm4sr.evaluation.metrics import summarise
from hm4sr.evaluation.popularity import rank_by_popularity
from hm4sr.features.extract import FeatureConfig, extract
from hm4sr.training import loop
from hm4sr.training.settings import Experiment
from hm4sr.types import Catalog


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("shop")
    simulate(SimulateConfig(seed=3), folder)
    dataset = prepare(folder / "interactions.csv", folder / "items.csv", folder / "data")
    extract(dataset, FeatureConfig(text="builtin", image="builtin"))
    return dataset


def exchanged(catalog: Catalog, shuffle: bool) -> Catalog:
    """The catalogue with its features as an encoder's only level, and in a random order of the items."""
    rows = torch.arange(catalog.num_rows)
    if shuffle:
        rows[1:] = torch.randperm(catalog.num_items, generator=torch.Generator().manual_seed(0)) + 1
    features = {
        name: dataclasses.replace(
            given,
            vectors=given.vectors[rows],
            present=given.present[rows],
            levels=given.vectors[rows][:, None],
            start=torch.zeros(given.vectors.shape[1]),
        )
        for name, given in catalog.features.items()
    }
    return dataclasses.replace(catalog, features=features)


def reached(shop: Dataset, name: str, shuffle: bool, monkeypatch: pytest.MonkeyPatch) -> float:
    build = loop.build_catalog
    with monkeypatch.context() as patch:
        patch.setattr(loop, "build_catalog", lambda *given: exchanged(build(*given), shuffle))
        settings = {
            "data": {"path": str(shop.path)},
            "model": {"name": name},
            "train": {"epochs": EPOCHS[name], "patience": 30, "batch_targets": 512},
        }
        trained = loop.train(Experiment.build(settings, name), shop)
    return float(trained.report["test"]["ndcg@20"])


EPOCHS = {"difsr": 22, "iisan": 10, "m3srec": 10, "missrec": 10, "tedrec": 22, "unisrec": 10}


MISLED = {"iisan", "m3srec", "missrec", "unisrec"}
"""Models whose candidates are made of texts and pictures."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EPOCHS))
def test_a_baseline_knows_more_than_what_sells_and_is_misled_by_the_texts_of_other_items(
    shop: Dataset, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    popular = summarise(rank_by_popularity(shop.events, shop.num_items, "test").ranks, [20])["ndcg@20"]
    own = reached(shop, name, False, monkeypatch)
    assert own > 1.5 * popular
    if name in MISLED:
        # 1,492 users: the standard error of NDCG@20 is about .007, of a difference between models less.
        assert own > reached(shop, name, True, monkeypatch) + 0.01
