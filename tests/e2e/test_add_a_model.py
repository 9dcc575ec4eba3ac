"""The example of docs/add-a-model.md, as it is printed there: it trains, and it learns."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hm4sr.data.dataset import Dataset
from hm4sr.features.synthetic import SyntheticConfig, synthesize
from hm4sr.models import base, get_model
from hm4sr.training.run import train_run
from hm4sr.training.settings import Experiment

PAGE = Path(__file__).parents[2] / "docs" / "add-a-model.md"


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return text


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The model of the page, known while the test runs."""
    file = tmp_path / "fading.py"
    file.write_text(block("python"))
    monkeypatch.setattr(base, "_MODELS", dict(base._MODELS))
    spec = importlib.util.spec_from_file_location("fading", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fading", module)
    spec.loader.exec_module(module)
    return "fading"


def test_the_model_of_the_page_trains_as_its_configuration_says(example: str, tmp_path: Path) -> None:
    dataset: Dataset = synthesize(SyntheticConfig(users=150, items=60, events=1_500), tmp_path / "data")
    config = tmp_path / "fading.toml"
    config.write_text(block("toml"))
    overrides = [f"data.path={dataset.path}", "train.epochs=3", "train.learning_rate=0.01"]
    run = train_run(Experiment.load(config, overrides), tmp_path / "run")
    assert run.report["model"] == example
    losses = [row["losses"]["main"] for row in run.metrics()]
    assert losses[-1] < losses[0]
    assert run.report["parameters"] == 61 * 64 + 1 + 64 * 64 + 64 + 2 * 64
    assert get_model(example).parallel
