"""The answer of the simulated shop is known: words, pictures and time each say what no other part does."""

from pathlib import Path

import pytest

from hm4sr.data.prepare import prepare
from hm4sr.data.simulate import SimulateConfig, simulate
from hm4sr.features.extract import extract
from hm4sr.features.settings import FeatureConfig
from hm4sr.training.loop import train
from hm4sr.training.settings import Experiment

VARIANTS: dict[str, dict[str, object]] = {
    "full": {},
    "without text": {"data": {"features": ["image"]}},
    "without pictures": {"data": {"features": ["text"]}},
    "without time": {"model": {"temporal_experts": 0}},
    "SASRec": {"model": {"name": "sasrec"}},
}


@pytest.mark.slow
def test_text_pictures_and_time_each_help(tmp_path: Path) -> None:
    simulate(SimulateConfig(seed=3), tmp_path / "shop")
    raw = tmp_path / "shop"
    dataset = prepare(raw / "interactions.csv", raw / "items.csv", tmp_path / "data")
    extract(dataset, FeatureConfig(text="builtin", image="builtin"))
    reached = {}
    for name, changes in VARIANTS.items():
        settings = {
            "data": {"path": str(tmp_path / "data"), **changes.get("data", {})},  # type: ignore[dict-item]
            "model": {"name": "hm4sr", **changes.get("model", {})},  # type: ignore[dict-item]
            "train": {"epochs": 22, "patience": 22, "batch_targets": 512},
        }
        trained = train(Experiment.build(settings, name), dataset)
        reached[name] = trained.report["test"]["ndcg@20"]
    # 1,492 users: the standard error of NDCG@20 is about .007, of a difference between two models less.
    for name in VARIANTS:
        if name != "full":
            assert reached["full"] > reached[name] + 0.01, reached
