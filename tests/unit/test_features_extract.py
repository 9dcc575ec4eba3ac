import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_kit import make_bert, make_dataset, make_texts, make_vit, noise, png_header
from PIL import Image

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.features import cache as cache_module
from hm4sr.features.builtin import BuiltinText
from hm4sr.features.cache import VectorCache
from hm4sr.features.extract import extract
from hm4sr.features.report import Coverage
from hm4sr.features.settings import FeatureConfig
from hm4sr.features.store import load_features, read_feature_manifest


def run(dataset: Dataset, **settings: Any) -> list[Coverage]:
    return extract(dataset, FeatureConfig(**settings))


def counts(report: Coverage) -> tuple[int, int, int, int]:
    return report.encoded, report.cached, report.present, report.missing


@pytest.fixture
def shop(tmp_path: Path) -> Dataset:
    """Six items: two share a picture, one picture is cut, one absent, one item has neither path nor text."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b", "cut"):
        Image.fromarray(noise(40, 30, seed=ord(name[0]))).save(folder / f"{name}.png")
    (folder / "copy.jpg").write_bytes((folder / "a.png").read_bytes())
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:300])
    texts = ["red soap", "blue soap", "red soap", None, "hair brush", "  "]
    return make_dataset(
        tmp_path / "shop", texts, ["a.png", "b.png", "copy.jpg", None, "cut.png", "absent.png"]
    )


def test_rows_masks_and_reports(shop: Dataset) -> None:
    text, image = run(shop, text="builtin", image="builtin")
    assert counts(text) == (3, 0, 4, 2)
    assert counts(image) == (2, 0, 3, 1)
    features = load_features(shop, "text")
    assert features.present.tolist() == [False, True, True, True, False, True, False]
    assert features.vectors.shape == (7, text.width)
    assert (features.vectors.norm(dim=1) > 0).tolist() == features.present.tolist()
    assert features.vectors[1].equal(features.vectors[3])
    pictures = load_features(shop, "image")
    assert pictures.present.tolist() == [False, True, True, True, False, False, False]
    assert pictures.vectors[1].equal(pictures.vectors[3])
    assert [(broken.item_id, broken.file) for broken in image.broken] == [
        ("i4", "cut.png"),
        ("i5", "absent.png"),
    ]


def test_the_manifest_tells_encoder_coverage_and_broken_files(shop: Dataset) -> None:
    run(shop, image="builtin", image_name="cover")
    manifest = read_feature_manifest(shop, "cover")
    assert {
        "encoder": "builtin",
        "modality": "image",
        "items": shop.hashes["items.parquet"],
    }.items() <= manifest.items()
    assert (manifest["present"], manifest["missing"], manifest["num_items"]) == (3, 1, 6)
    assert manifest["broken"][1] == {"item_id": "i5", "file": "absent.png", "reason": "there is no such file"}
    assert {"width", "seconds", "rate", "dtype", "key", "settings"} <= manifest.keys()
    assert json.dumps(manifest)


def test_the_second_run_encodes_nothing(shop: Dataset) -> None:
    run(shop, text="builtin", image="builtin")
    before = {name: load_features(shop, name).vectors.clone() for name in ("text", "image")}
    text, image = run(shop, text="builtin", image="builtin")
    assert (text.encoded, text.cached, image.encoded, image.cached) == (0, 3, 0, 2)
    assert all(load_features(shop, name).vectors.equal(vectors) for name, vectors in before.items())


def test_new_items_cost_only_themselves(tmp_path: Path) -> None:
    texts = make_texts(60)
    shared = tmp_path / "cache"
    first = make_dataset(tmp_path / "first", texts[:50])
    second = make_dataset(tmp_path / "second", texts[10:])
    assert counts(run(first, text="builtin", cache=shared)[0]) == (50, 0, 50, 0)
    assert counts(run(second, text="builtin", cache=shared)[0]) == (10, 40, 50, 0)
    assert load_features(first, "text").vectors[11].equal(load_features(second, "text").vectors[1])


def test_a_killed_run_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hm4sr.features.builtin.TEXT_CHUNK", 10)
    texts: list[str | None] = [*make_texts(40)]
    whole, killed = make_dataset(tmp_path / "whole", texts), make_dataset(tmp_path / "killed", texts)
    run(whole, text="builtin")
    encode = BuiltinText.encode

    def dies(self: BuiltinText, texts: list[str]) -> Any:
        for number, part in enumerate(encode(self, texts)):
            if number == 2:
                raise KeyboardInterrupt
            yield part

    with monkeypatch.context() as patch:
        patch.setattr(BuiltinText, "encode", dies)
        patch.setattr(cache_module, "SHARD_ROWS", 10)
        patch.setattr(VectorCache, "__exit__", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            run(killed, text="builtin")
    assert not (killed.path / "features" / "text").exists()
    assert counts(run(killed, text="builtin")[0]) == (20, 20, 40, 0)
    assert load_features(killed, "text").vectors.equal(load_features(whole, "text").vectors)


def test_a_damaged_cache_is_encoded_again(shop: Dataset) -> None:
    run(shop, text="builtin")
    before = load_features(shop, "text").vectors.clone()
    for shard in (shop.path / "features" / ".cache").rglob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-3])
    assert run(shop, text="builtin")[0].encoded == 3
    assert load_features(shop, "text").vectors.equal(before)


def test_half_precision_is_stored_and_cached_apart(shop: Dataset) -> None:
    run(shop, text="builtin")
    assert run(shop, text="builtin", dtype="float16", text_name="small")[0].encoded == 3
    whole, half = load_features(shop, "text").vectors, load_features(shop, "small").vectors
    assert str(half.dtype) == "torch.float16"
    np.testing.assert_allclose(half.float(), whole, atol=1e-3)


def test_levels_are_stored_cached_and_loaded(shop: Dataset, tmp_path: Path) -> None:
    bert = str(make_bert(tmp_path / "bert"))
    [first] = run(shop, text=bert, levels=True, precision="float32")
    features = load_features(shop, "text")
    assert features.levels is not None
    assert features.start is not None
    assert (features.levels.dtype, features.levels.shape) == (torch.float16, (7, 2, 32))
    assert (features.start.dtype, features.start.shape) == (torch.float32, (32,))
    assert (features.levels.abs().amax((1, 2)) > 0).tolist() == features.present.tolist()
    torch.testing.assert_close(features.levels[:, -1].float(), features.vectors, atol=5e-3, rtol=2e-3)
    assert counts(first) == (3, 0, 4, 2)
    assert counts(run(shop, text=bert, levels=True, precision="float32")[0]) == (0, 3, 4, 2)
    again = load_features(shop, "text")
    assert again.levels is not None
    assert again.levels.equal(features.levels)
    run(shop, text=bert, precision="float32")
    assert load_features(shop, "text").levels is None
    with pytest.raises(UserError, match="builtin has no layers"):
        run(shop, text="builtin", levels=True)


def test_a_damaged_level_is_noticed(shop: Dataset, tmp_path: Path) -> None:
    run(shop, text=str(make_bert(tmp_path / "bert")), levels=True)
    file = shop.path / "features" / "text" / "levels.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"levels.safetensors has changed"):
        load_features(shop, "text")


def test_pictures_of_all_sorts_neither_stop_a_run_nor_change(tmp_path: Path) -> None:
    """Truncated, CMYK, alpha, animated, 1 x 1, huge, wrong extension, not a picture at all."""
    root = tmp_path / "pictures"
    root.mkdir()
    plain = Image.fromarray(noise(40, 30))
    plain.convert("CMYK").save(root / "cmyk.jpg")
    Image.fromarray(noise(40, 30, 4)).save(root / "alpha.png")
    plain.save(root / "moving.gif", save_all=True, append_images=[plain.rotate(90)])
    Image.new("RGB", (1, 1), "red").save(root / "dot.png")
    Image.new("1", (3000, 2)).save(root / "thin.png")
    plain.save(root / "png.png")
    (root / "png.png").rename(root / "wrong.jpg")
    plain.save(root / "cut.jpg")
    (root / "cut.jpg").write_bytes((root / "cut.jpg").read_bytes()[:-200])
    (root / "page.jpg").write_bytes(b"<html>gone</html>")
    (root / "bomb.png").write_bytes(png_header(60_000, 60_000))
    whole = ["cmyk.jpg", "alpha.png", "moving.gif", "dot.png", "thin.png", "wrong.jpg"]
    broken = ["cut.jpg", "page.jpg", "bomb.png"]
    names = [*whole, *broken]
    dataset = make_dataset(tmp_path / "shop", ["a"] * len(names), names)
    before = {file.name: file.read_bytes() for file in root.iterdir()}
    [report] = run(dataset, image=str(make_vit(tmp_path / "vit")), image_batch=2, readers=3)
    assert {file.name: file.read_bytes() for file in root.iterdir()} == before
    assert [item.file for item in report.broken] == broken
    features = load_features(dataset, "image")
    assert features.present.tolist() == [False, *(name in whole for name in names)]
    assert features.vectors.isfinite().all()


def test_sources_are_not_touched(shop: Dataset) -> None:
    root = Path(shop.manifest["rules"]["image_root"])

    def state() -> dict[str, tuple[str, int]]:
        return {
            file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
            for file in root.iterdir()
        }

    before = state()
    run(shop, text="builtin", image="builtin")
    assert state() == before


def test_mistakes_are_one_sentence(shop: Dataset, tmp_path: Path) -> None:
    bare = make_dataset(tmp_path / "bare", [None, ""])
    cases: list[tuple[Dataset, dict[str, Any], str]] = [
        (shop, {}, "nothing to encode"),
        (shop, {"text": "builtin", "image": "builtin", "image_name": "text"}, "two different names"),
        (shop, {"text": "builtin", "text_name": "half"}, "--text-name half would clash"),
        (shop, {"image": "builtin", "image_name": "id"}, "--image-name id would clash"),
        (shop, {"image": "builtin", "image_name": "time"}, "--image-name time would clash"),
        (shop, {"image": "builtin", "image_root": tmp_path / "nowhere"}, "does not exist.*--image-root"),
        (shop, {"image": "builtin", "image_root": tmp_path}, "none of the 5 pictures.*no such file"),
        (bare, {"text": "builtin"}, "has no texts"),
        (bare, {"image": "builtin"}, "has no pictures"),
    ]
    for dataset, settings, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            run(dataset, **settings)
    assert not list(shop.path.glob("features/*"))


def test_a_name_that_is_not_a_folder_name_is_refused() -> None:
    with pytest.raises(UserError, match="text_name"):
        FeatureConfig.parse({"text": "builtin", "text_name": "../x"}, "features")
