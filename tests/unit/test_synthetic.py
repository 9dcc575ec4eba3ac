from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hm4sr.cli.simulate import command
from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.features.store import feature_names, load_features
from hm4sr.features.synthetic import SyntheticConfig, synthesize


@pytest.mark.parametrize(
    "config",
    [
        SyntheticConfig(feature_width=4),
        SyntheticConfig(users=300, items=100, events=4_000, categories=20, feature_width=16),
        SyntheticConfig(users=100, items=100, events=500, categories=2, feature_width=2),
        SyntheticConfig(users=40, items=200, events=2_000, modalities=()),
        SyntheticConfig(users=400, items=10_000, events=80_000, modalities=()),
        SyntheticConfig(users=20, items=400, events=2_000, modalities=()),
    ],
)
def test_counts_are_exact_and_survive_a_5_core(tmp_path, config):
    dataset = synthesize(config, tmp_path / "data")
    events = Dataset.open(dataset.path).events
    lengths, copies = np.diff(events.starts), np.bincount(events.items)[1:]
    assert (events.num_users, dataset.num_items, events.num_events) == (
        config.users,
        config.items,
        config.events,
    )
    assert min(lengths.min(), copies.min()) >= 5
    assert len(np.unique(events.users.astype(np.int64) * (config.items + 1) + events.items)) == config.events
    gaps = np.diff(events.times)[np.diff(events.users) == 0]
    assert gaps.min() >= 0
    assert not (events.times % 86_400).any()
    assert len(dataset.category_names) == config.categories


def test_what_cannot_be_dealt_is_a_sentence_and_no_endless_search(tmp_path, monkeypatch):
    monkeypatch.setattr("hm4sr.features.synthetic._ROUNDS", 0)
    with pytest.raises(UserError, match="without anybody having an item twice"):
        synthesize(SyntheticConfig(users=40, items=200, events=2_000, modalities=()), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_games_size_has_the_outline_of_games(tmp_path):
    dataset = synthesize(SyntheticConfig(modalities=()), tmp_path / "data")
    lengths = np.diff(dataset.events.starts)
    assert np.median(lengths) == 6
    assert 200 < lengths.max() < 2_000
    assert dataset.num_items == 10_672
    assert feature_names(dataset) == []


def test_vectors_tell_the_category(tmp_path):
    config = SyntheticConfig(users=300, items=200, events=4_000, categories=20, feature_dtype="float16")
    dataset = synthesize(config, tmp_path / "data")
    text, image = load_features(dataset, "text"), load_features(dataset, "image")
    assert text.vectors.shape == (201, 768)
    assert text.vectors.dtype == torch.float16
    assert not torch.equal(text.vectors, image.vectors)
    assert not text.present[0]
    assert text.present[1:].all()
    vectors = torch.nn.functional.normalize(text.vectors[1:].float())
    nearest = (vectors @ vectors.T).fill_diagonal_(-1).argmax(1)
    fine = torch.tensor([hash(kind) for kind in dataset.items["title"].str.slice(-3)])
    assert (fine[nearest] == fine).all()


def test_same_seed_same_data(tmp_path):
    config = SyntheticConfig(users=100, items=50, events=1_000, feature_width=4, categories=10)
    first, again = (synthesize(config, tmp_path / name) for name in "ab")
    assert first.hashes == again.hashes
    assert torch.equal(load_features(first, "image").vectors, load_features(again, "image").vectors)
    other = synthesize(config.model_copy(update={"seed": 1}), tmp_path / "c")
    assert other.hashes != first.hashes


def test_impossible_sizes_are_refused(tmp_path):
    with pytest.raises(UserError, match="give between 5,000 and 25,000"):
        synthesize(SyntheticConfig(users=1_000, items=100, events=30_000), tmp_path / "data")


def test_command_replaces_only_its_own(tmp_path):
    sizes = ["--users", "50", "--items", "50", "--events", "400", "--preset", "games-size"]
    arguments = [*sizes, "--out", str(tmp_path / "data")]
    runner = CliRunner()
    result = runner.invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert "400 actions" in result.output
    assert "not empty" in str(runner.invoke(command, arguments).exception)
    assert runner.invoke(command, [*arguments, "--force"]).exit_code == 0
    manifest = Path(tmp_path / "data" / "manifest.json")
    manifest.write_text(manifest.read_text().replace("feature_width", "image_root"))
    assert isinstance(runner.invoke(command, [*arguments, "--force"]).exception, UserError)
