"""Which pictures the service shows: the user's own, and those that were downloaded into the data set."""

from io import BytesIO
from types import SimpleNamespace

import polars as pl
from PIL import Image

from hm4sr.data.images import stem
from hm4sr.serving.http.pictures import Pictures

URL = "https://shop.example/two.png"


def dataset_with_pictures(path, root):
    (path / "images").mkdir(parents=True)
    Image.new("RGB", (40, 20), "red").save(root / "one.png")
    Image.new("RGB", (30, 60), "blue").save(path / "images" / f"{stem(URL)}.png")
    Image.new("RGB", (9, 9)).save(root.parent / "secret.png")
    items = pl.DataFrame(
        {
            "image": ["one.png", None, "../secret.png", None],
            "image_url": [None, URL, None, "https://shop.example/never-fetched.png"],
        }
    )
    return SimpleNamespace(path=path, items=items, manifest={"rules": {"image_root": str(root)}})


def test_own_and_downloaded_pictures_are_shown_and_nothing_beside_their_folders(tmp_path):
    root = tmp_path / "raw"
    root.mkdir()
    pictures = Pictures(dataset_with_pictures(tmp_path / "data", root))
    sizes = {number: Image.open(BytesIO(pictures.read(number))).size for number in (1, 2)}
    assert sizes == {1: (40, 20), 2: (30, 60)}
    assert pictures.read(3) is None
    assert [pictures.has(number) for number in (1, 2, 4, 5)] == [True, True, False, False]


def test_without_the_folder_of_the_pictures_the_service_has_none(tmp_path):
    root = tmp_path / "raw"
    root.mkdir()
    dataset = dataset_with_pictures(tmp_path / "data", root)
    dataset.manifest["rules"]["image_root"] = str(tmp_path / "moved")
    pictures = Pictures(dataset)
    assert not pictures.has(1)
    assert pictures.read(1) is None
