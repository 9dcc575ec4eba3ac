import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from PIL import Image
from shop_oracle import Histories, oracle_ndcg, read_histories

from hm4sr.cli.simulate import command
from hm4sr.data.drawing import PICTURE_TASTES
from hm4sr.data.simulate import GAP_SECONDS, KIND_NAMES, Shop, SimulateConfig, load_shop, simulate
from hm4sr.data.vocabulary import KINDS, SEASON_PEAKS, TEXT_TASTES
from hm4sr.errors import UserError

SMALL = SimulateConfig(users=80, items=120, picture_size=32, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "default"
    simulate(SimulateConfig(users=600, picture_size=32), path)
    return path


@pytest.fixture(scope="module")
def world(folder) -> tuple[SimulateConfig, Shop, Histories]:
    config, shop = load_shop(json.loads((folder / "truth.json").read_text(encoding="utf-8")))
    return config, shop, read_histories(pl.read_csv(folder / "interactions.csv"), 400)


@pytest.fixture(scope="module")
def everything(world) -> float:
    return oracle_ndcg(*world, hidden=[])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")}


def test_same_seed_same_bytes(tmp_path):
    for name in "ab":
        simulate(SMALL, tmp_path / name)
    simulate(SMALL.model_copy(update={"seed": 6}), tmp_path / "c")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_files_are_what_prepare_reads(folder):
    events = pl.read_csv(folder / "interactions.csv")
    items = pl.read_csv(folder / "items.csv")
    assert events.columns == ["user_id", "item_id", "timestamp"]
    assert items.columns == ["item_id", "title", "category", "brand", "image_path"]
    assert events["timestamp"].is_sorted()
    assert set(events["item_id"]) <= set(items["item_id"])
    assert events.select("user_id", "item_id").is_unique().all()
    assert events.group_by("user_id").len()["len"].min() >= 5
    for path in items["image_path"]:
        with Image.open(folder / path) as picture:
            assert picture.size == (32, 32)


def test_gaps_tell_what_an_event_is(folder):
    truth = pl.read_parquet(folder / "truth.parquet").with_columns(
        gap=pl.col("timestamp").diff().over("user_id"),
        moved=(
            pl.struct("text_taste", "picture_taste", "category").rle_id().over("user_id").diff() != 0
        ).over("user_id"),
    )
    later = truth.drop_nulls("gap")
    for kind, (least, most) in zip(KIND_NAMES, GAP_SECONDS, strict=True):
        gaps = later.filter(kind=kind)["gap"]
        assert least - 1 <= gaps.min() <= gaps.max() <= most
    assert not later.filter(pl.col("kind") != "jump")["moved"].any()
    assert later.filter(kind="jump")["moved"].mean() > 0.95


def test_titles_tell_the_text_taste_alone(folder, world):
    _, shop, _ = world
    items = pl.read_csv(folder / "items.csv")
    tastes = {word: row for row, (words, _) in enumerate(TEXT_TASTES.values()) for word in words}
    colours = {word for name in PICTURE_TASTES for word in name.split()}
    for title, taste in zip(items["title"], shop.text_taste, strict=True):
        words = re.findall(r"[\w-]+", title.lower())
        assert {tastes[word] for word in words if word in tastes} == {taste}
        assert not colours & set(words)
    table = np.zeros((len(TEXT_TASTES), len(PICTURE_TASTES)))
    np.add.at(table, (shop.text_taste, shop.picture_taste), 1)
    assert abs(np.corrcoef(shop.text_taste, shop.picture_taste)[0, 1]) < 0.15
    assert table.min() > 0


def test_vocabulary_is_unambiguous():
    words = [word for words, _ in TEXT_TASTES.values() for word in words]
    brands = [brand for _, brands in TEXT_TASTES.values() for brand in brands]
    kinds = {word for names in KINDS.values() for name in names for word in name.split()}
    assert len({*words, *brands}) == len(words) + len(brands)
    assert not kinds & set(words)


def test_pictures_tell_the_picture_taste(folder, world):
    """Mean colours of half of the pictures name the taste of the other half."""
    _, shop, _ = world
    paths = sorted((folder / "images").iterdir())
    pixels = np.stack([np.asarray(Image.open(path)).reshape(-1, 3) for path in paths]).astype(float)
    inside = (np.ptp(pixels, axis=2) > 12) | (pixels.max(axis=2) < 200)
    colour = (pixels * inside[..., None]).sum(1) / inside.sum(1)[:, None]
    half = len(paths) // 2
    centres = np.stack(
        [colour[:half][shop.picture_taste[:half] == t].mean(0) for t in range(len(PICTURE_TASTES))]
    )
    guess = np.linalg.norm(colour[half:, None] - centres, axis=2).argmin(axis=1)
    assert (guess == shop.picture_taste[half:]).mean() > 0.95


def test_what_sells_follows_the_season(world):
    _, shop, histories = world
    real = np.arange(histories.items.shape[1]) < histories.lengths[:, None]
    season = shop.season[histories.items[real]]
    day = (histories.times[real] // 86_400 - 18_628) % 365.25
    for number, peak in enumerate(SEASON_PEAKS):
        away = np.abs((day[season == number] - peak + 182) % 365 - 182)
        assert (away < 60).mean() > 0.7
    assert abs((season == 4).mean() - 0.2) < 0.15


@pytest.mark.parametrize(
    ("hidden", "at_most"),
    [
        (["text"], 0.6),
        (["picture"], 0.6),
        (["gaps"], 0.93),
        (["season"], 0.93),
        (["gaps", "season"], 0.82),
        (["text", "picture", "gaps", "season"], 0.25),
    ],
)
def test_every_source_matters_to_an_oracle(world, everything, hidden, at_most):
    """Who hides words, pictures, gaps or dates from the true model loses a share of its NDCG@10."""
    assert everything > 0.2
    assert oracle_ndcg(*world, hidden=hidden) < at_most * everything


def test_settings_are_checked():
    with pytest.raises(UserError, match="items"):
        SimulateConfig.parse({"items": 3}, "here")
    with pytest.raises(UserError, match="did you mean 'users'"):
        SimulateConfig.parse({"user": 3}, "here")
    with pytest.raises(UserError, match="impulse and jump"):
        SimulateConfig.parse({"impulse": 0.7, "jump": 0.7}, "here")


def test_command_refuses_a_folder_in_use(tmp_path):
    arguments = ["--out", str(tmp_path / "shop"), "--users", "20", "--items", "60"]
    runner = CliRunner()
    result = runner.invoke(command, arguments)
    assert result.exit_code == 0, result.output
    first = contents(tmp_path / "shop")
    result = runner.invoke(command, arguments)
    assert isinstance(result.exception, UserError)
    assert "--force" in str(result.exception)
    assert runner.invoke(command, [*arguments, "--force"]).exit_code == 0
    assert contents(tmp_path / "shop") == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    result = runner.invoke(command, ["--out", str(tmp_path / "mine"), "--force"])
    assert isinstance(result.exception, UserError)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_command_says_in_a_sentence_why_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    runner = CliRunner()
    for out in ("file", "file/below"):
        result = runner.invoke(command, ["--out", str(tmp_path / out), "--users", "5", "--items", "50"])
        assert isinstance(result.exception, UserError), out
    result = runner.invoke(command, ["--out", str(tmp_path / "new"), "--events", "500"])
    assert "--events" in str(result.exception)
    assert not (tmp_path / "new").exists()
