"""The main job as a stranger would do it, through the command line alone."""

import json
from pathlib import Path

import polars as pl
import pytest

from hm4sr.cli import main
from hm4sr.data.dataset import Dataset


def run(*arguments: object) -> int:
    """Call the command line in this process; returns its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated shop, prepared and encoded."""
    folder = tmp_path_factory.mktemp("shop")
    assert run("simulate", "--out", folder / "raw", "--users", 200, "--items", 80) == 0
    raw = folder / "raw"
    files = ("--interactions", raw / "interactions.csv", "--items", raw / "items.csv")
    assert run("prepare", *files, "--out", folder / "data") == 0
    assert run("features", folder / "data", "--text", "builtin", "--image", "builtin") == 0
    (folder / "hm4sr.toml").write_text(
        f'[data]\npath = "{folder / "data"}"\n[model]\nname = "hm4sr"\ndim = 16\n[train]\nepochs = 3\n'
    )
    return folder


def test_from_raw_tables_to_recommendations(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", shop / "hm4sr.toml", "--out", shop / "run") == 0
    report = json.loads((shop / "run" / "report.json").read_text())
    assert report["epochs"] == 3
    assert report["test"]["hit@20"] > 20 / 80 * 0.8  # at least near what a guess would reach
    assert set(report["valid"]) == {f"{m}@{k}" for m in ("ndcg", "mrr", "hit") for k in (5, 10, 20)}

    capsys.readouterr()
    assert run("evaluate", shop / "run", "-k", 10) == 0
    assert f"{report['test']['ndcg@10']:.4f}" in capsys.readouterr().out

    ranks = shop / "ranks.parquet"
    assert run("evaluate", shop / "run", "--ranks", ranks) == 0
    assert run("evaluate", shop / "run", "--ranks", ranks) == 2
    found = pl.read_parquet(ranks)
    assert (found["rank"] <= 10).mean() == pytest.approx(report["test"]["hit@10"])
    data = Dataset.open(shop / "data")
    last = data.items["item_id"].gather(data.events.items[data.events.starts[1:] - 1] - 1)
    targets = dict(zip(data.users["user_id"], last, strict=True))
    assert all(targets[user] == item for user, item in found.select("user_id", "item_id").rows())

    out = shop / "list.csv"
    users = pl.read_parquet(shop / "data" / "users.parquet")["user_id"]
    assert run("recommend", shop / "run", "--user", users[3], "-k", 7, "--out", out) == 0
    listed = pl.read_csv(out, schema_overrides={"item_id": pl.String})
    known = set(pl.read_parquet(shop / "data" / "items.parquet")["item_id"])
    assert len(listed) == 7
    assert set(listed["item_id"]) <= known


def test_modalities_are_a_matter_of_configuration(shop: Path) -> None:
    for features in ('["text"]', '["image"]', "[]"):
        options = ("--set", f"data.features={features}", "--set", "train.epochs=1", "--force")
        assert run("train", shop / "hm4sr.toml", *options, "--out", shop / "variant") == 0


def test_sasrec_needs_no_features(shop: Path) -> None:
    (shop / "sasrec.toml").write_text(f'[data]\npath = "{shop / "data"}"\n[model]\nname = "sasrec"\n')
    out = shop / "sasrec"
    assert run("train", shop / "sasrec.toml", "--set", "train.epochs=1", "--out", out) == 0
    assert json.loads((out / "data.json").read_text())["features"] == {}


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("model.dimm=8", "dimm"),
        ("train.epochs=soon", "epochs"),
        ("trian.epochs=3", "trian"),
        ("model.name=hm5sr", "hm4sr"),
        ('data.features=["sound"]', "sound"),
        ("data.path=/nowhere", "/nowhere"),
        ("train.monitor=ndcg@7", "ndcg@7"),
        ("model.heads=3", "heads"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    shop: Path, setting: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    out = shop / "mistake"
    assert run("train", shop / "hm4sr.toml", "--set", setting, "--out", out) == 2
    said = capsys.readouterr().err.strip()
    assert named in said
    assert len(said.splitlines()) == 1
    assert not out.exists()


def test_a_run_is_not_replaced_by_accident(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", shop / "hm4sr.toml", "--set", "train.epochs=1", "--out", shop / "kept") == 0
    before = (shop / "kept" / "model.safetensors").read_bytes()
    assert run("train", shop / "hm4sr.toml", "--set", "train.epochs=2", "--out", shop / "kept") == 2
    assert "--force" in capsys.readouterr().err
    assert (shop / "kept" / "model.safetensors").read_bytes() == before
