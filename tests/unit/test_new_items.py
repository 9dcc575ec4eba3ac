import hashlib
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.features.extract import FeatureConfig, extract
from hm4sr.manifest import read_manifest, write_manifest
from hm4sr.serving.recommender import Recommender

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import DAY, ITEMS, START, USERS, add_features, make_dataset, make_run


def ids(answer):
    return [item.item_id for item in answer.items]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs on vectors that were drawn, on vectors of the builtin encoders, and on IDs alone."""
    folder = tmp_path_factory.mktemp("new")
    drawn = make_dataset(folder / "drawn-data")
    add_features(drawn)
    make_run(folder / "drawn", drawn, "hm4sr")
    make_run(folder / "ids", make_dataset(folder / "ids-data"), "sasrec")
    pictures = [f"{number}.png" for number in range(len(ITEMS))]
    rng = np.random.default_rng(1)
    (folder / "pictures").mkdir()
    for name in [*pictures, "new.png"]:
        pixels = rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / "pictures" / name)
    made = make_dataset(folder / "made-data", pictures=pictures)
    extract(made, FeatureConfig(text="builtin", image="builtin", image_root=folder / "pictures"))
    make_run(folder / "made", Dataset.open(made.path), "hm4sr")
    return folder


@pytest.fixture
def drawn(folder):
    return Recommender.load(folder / "drawn")


@pytest.fixture
def made(folder):
    return Recommender.load(folder / "made")


def vectors(recommender, item):
    """The feature vectors of an item of the catalogue, as somebody would give them."""
    number = recommender.served.shelf.numbers[item]
    return {
        name: [features.vectors[number].numpy() if features.present[number] else None]
        for name, features in recommender.model.catalog.features.items()
    }


def block(recommender, item, name):
    row = recommender.served.shelf.numbers[item]
    return recommender.served.ranker.vectors[row, recommender.served.ranker.blocks[name]]


def test_a_new_item_is_recommended_through_its_modalities(drawn):
    drawn.add_items([{"item_id": "new", "title": "New"}], vectors=vectors(drawn, "i9"))
    for name in ("text", "image"):
        assert block(drawn, "new", name) == pytest.approx(block(drawn, "i9", name), abs=1e-6)
    answer = drawn.recommend("42", k=99, filter_seen=False)[0]
    assert sorted(ids(answer)) == sorted([*ITEMS, "new"])
    (line,) = (item for item in answer.items if item.item_id == "new")
    assert line.title == "New"
    (explained,) = drawn.explain("42", items=["new"])
    assert explained.items[0].shares["id"] == pytest.approx(0, abs=1e-3)


def test_the_id_term_of_a_new_item_is_that_of_the_average_item(drawn):
    before = drawn.recommend(USERS, k=99, filter_seen=False, without=["text", "image"])
    drawn.add_items([{"item_id": "new"}], vectors=vectors(drawn, "i9"))
    after = drawn.recommend(USERS, include=["new"], without=["text", "image"])
    for old, new in zip(before, after, strict=True):
        mean = np.mean([item.score for item in old.items])
        assert new.items[0].score == pytest.approx(mean, abs=1e-5)


def test_old_items_keep_their_scores_and_the_run_its_files(drawn, folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    before = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    old = drawn.score(ITEMS, USERS)
    drawn.add_items([{"item_id": "new"}], vectors=vectors(drawn, "i9"))
    assert drawn.score(ITEMS, USERS) == pytest.approx(old, abs=1e-5)
    assert files == [path for path in folder.rglob("*") if path.is_file()]
    assert before == [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    with pytest.raises(UserError, match="item 'new' is not among"):
        Recommender.load(folder / "drawn").score("new", "42")


def test_new_items_take_part_in_everything(drawn):
    given = {"text": np.ones((3, 5)), "image": [None, np.zeros(5), None]}
    table = pl.DataFrame({"item_id": ["n1", "n2", "n3"], "categories": [["fresh"], ["odd", "fresh"], []]})
    drawn.add_items(table, vectors=given)
    assert drawn.categories == ["even", "fresh", "odd"]
    fresh = drawn.recommend("42", k=99, categories="fresh")[0]
    assert set(ids(fresh)) == {"n1", "n2"}
    seen = drawn.recommend(histories=[("n1", START), ("i9", START + DAY)], k=99)[0]
    assert seen.unknown == ()
    assert "n1" not in ids(seen)
    other = drawn.recommend(histories=[("n2", START), ("i9", START + DAY)], k=99)[0]
    assert [item.score for item in other.items] != [item.score for item in seen.items]
    assert "n3" in ids(drawn.similar_items("n1", k=99)[0])
    popular = drawn.recommend(histories=[], k=99)[0]
    assert ids(popular)[-3:] == ["n1", "n2", "n3"]
    assert [item.score for item in popular.items[-3:]] == [0, 0, 0]
    drawn.add_items([{"item_id": "n4"}], vectors={"text": np.ones((1, 5))})
    assert set(ids(drawn.recommend("42", k=99, filter_seen=False)[0])) == {*ITEMS, "n1", "n2", "n3", "n4"}


def test_questions_asked_before_are_answered_after(drawn):
    asked = drawn.prepare("42", k=99, filter_seen=False)
    drawn.add_items([{"item_id": "new"}], vectors=vectors(drawn, "i9"))
    assert len(drawn.answer([asked])[0][0].items) == len(ITEMS)


def test_texts_and_pictures_are_encoded_as_those_of_the_data_set_were(made, folder):
    items = made.dataset.items
    row = ITEMS.index("i9")
    again = {"item_id": "again", "text": items["text"][row], "image": items["image"][row]}
    by_title = {"item_id": "by title", "title": "Title of", "categories": ["i9"], "brand": " "}
    by_text = {"item_id": "by text", "text": "Title of. i9."}
    made.add_items([again, by_title, by_text], image_root=folder / "pictures")
    for name in ("text", "image"):
        assert block(made, "again", name) == pytest.approx(block(made, "i9", name), abs=1e-6)
    assert block(made, "by title", "text") == pytest.approx(block(made, "by text", "text"), abs=1e-6)
    made.add_items([{"item_id": "seen", "image": "new.png"}], image_root=folder / "pictures")
    assert np.isfinite(block(made, "seen", "text")).all()


def test_an_encoder_that_is_another_one_is_refused(made, drawn, tmp_path):
    with pytest.raises(UserError, match="drawn, which cannot be used here"):
        drawn.add_items([{"item_id": "new", "text": "words"}], vectors={"image": np.zeros((1, 5))})
    with pytest.raises(UserError, match="cannot be used here"):
        made.add_items([{"item_id": "new", "text": "words"}], encoders={"text": str(tmp_path)})
    manifest = made.dataset.path / "features" / "text" / "manifest.json"
    whole = manifest.read_text()
    values = read_manifest(manifest)
    write_manifest(manifest, {**values, "key": f"0{values['key']}"})
    try:
        with pytest.raises(UserError, match="is not the one that made the text features"):
            made.add_items([{"item_id": "new", "text": "words"}])
    finally:
        manifest.write_text(whole)


MISTAKES = {
    "unknown column 'titel'": ([{"item_id": "new", "titel": "x"}], {}),
    "need a column item_id": ([{"title": "x"}], {}),
    "item_id of texts": ([{"item_id": 7}], {}),
    "row 1: item_id is empty": ([{"item_id": " "}], {}),
    "row 2: '7' is in the catalogue already": ([{"item_id": "new"}, {"item_id": "7"}], {}),
    "'new' occurs twice": ([{"item_id": "new"}, {"item_id": "new"}], {}),
    "categories is of type String": ([{"item_id": "new", "categories": "odd"}], {}),
    "title is of type Int64": ([{"item_id": "new", "title": 5}], {}),
    "no table": (["new"], {}),
    "one type in each column": ([{"item_id": "new"}, {"item_id": ["other"]}], {}),
    "'new' has none of image, text": ([{"item_id": "new"}], {}),
    "vectors of 'sound'": ([{"item_id": "new"}], {"vectors": {"sound": np.ones((1, 5))}}),
    "encoders of 'sound'": ([{"item_id": "new"}], {"encoders": {"sound": "builtin"}}),
    "2 rows for 1 items": ([{"item_id": "new"}], {"vectors": {"text": np.ones((2, 256))}}),
    "row 1: of shape (5,)": ([{"item_id": "new"}], {"vectors": {"text": np.ones((1, 5))}}),
    "not finite": ([{"item_id": "new"}], {"vectors": {"text": np.full((1, 256), np.nan)}}),
    "not numbers": ([{"item_id": "new"}], {"vectors": {"text": [["a"] * 256]}}),
    "there is no such file": ([{"item_id": "new", "image": "gone.png"}], {}),
}


@pytest.mark.parametrize("says", MISTAKES)
def test_mistakes_are_one_sentence_and_add_nothing(made, folder, says):
    items, options = MISTAKES[says]
    with pytest.raises(UserError) as error:
        made.add_items(items, **{"image_root": folder / "pictures", **options})
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(made.catalogue) == len(ITEMS)
    assert len(made.recommend("42", k=99, filter_seen=False)[0].items) == len(ITEMS)


def test_a_model_on_ids_alone_says_that_it_cannot(folder):
    recommender = Recommender.load(folder / "ids")
    with pytest.raises(UserError, match="sasrec was trained on item IDs alone"):
        recommender.add_items([{"item_id": "new", "text": "words"}])
