"""Several processes give what one gives."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from feature_kit import make_bert, make_dataset, make_texts, make_vit, noise
from PIL import Image

from hm4sr.errors import UserError
from hm4sr.features.distributed import Worker
from hm4sr.features.extract import extract
from hm4sr.features.settings import FeatureConfig
from hm4sr.features.store import load_features
from hm4sr.features.work import make_work, split

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


@pytest.mark.slow
@needs_ray
def test_two_workers_give_the_same_vectors_as_one(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    names = [f"{row}.png" for row in range(30)]
    for row, name in enumerate(names):
        Image.fromarray(noise(40, 30, seed=row)).save(root / name)
    (root / "7.png").write_bytes(b"broken")
    settings = {
        "image": str(make_vit(tmp_path / "vit")),
        "image_batch": 1,
        "levels": True,
    }
    one = make_dataset(tmp_path / "one", make_texts(30), names)
    two = make_dataset(tmp_path / "two", make_texts(30), names)
    [a] = extract(one, FeatureConfig(**settings))
    [b] = extract(two, FeatureConfig(**settings, workers=2))
    assert (a.encoded, a.present, a.broken) == (b.encoded, b.present, b.broken)
    alone, together = load_features(one, "image"), load_features(two, "image")
    assert alone.vectors.equal(together.vectors)
    assert alone.levels is not None
    assert together.levels is not None
    assert alone.levels.equal(together.levels)
    wrong = FeatureConfig(text="builtin", workers=2, address="127.0.0.1:1", cache=tmp_path / "cache")
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        extract(two, wrong)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    dataset = make_dataset(tmp_path / "shop", make_texts(3))
    with pytest.raises(UserError, match=r"pip install 'hm4sr\[distributed\]'"):
        extract(dataset, FeatureConfig(text="builtin", workers=2))


def test_a_worker_does_its_unit_or_says_why_not(tmp_path: Path) -> None:
    config = FeatureConfig(text=str(make_bert(tmp_path / "bert")), image="builtin", text_batch=3)
    plain = config.model_dump(mode="json")
    texts = {bytes([row]): text for row, text in enumerate(make_texts(10))}
    work = make_work(config, "text")
    worker = Worker(plain, "text", work.card.key)
    for unit in split(texts, 6):
        error, parts = worker.run(unit)
        assert error is None
        for here, there in zip(work.run([unit]), parts, strict=True):
            assert here.keys == there.keys
            assert here.encoded is not None
            assert there.encoded is not None
            np.testing.assert_array_equal(here.encoded.vectors, there.encoded.vectors)
    error, parts = Worker(plain, "text", "another").run(texts)
    assert "is not the one here" in str(error)
    assert parts == []
    pictures = make_work(config, "image")
    error, parts = Worker(plain, "image", pictures.card.key).run({b"a": tmp_path / "nowhere.png"})
    assert "nowhere.png is not there" in str(error)
    error, _ = Worker({**plain, "text": str(tmp_path / "gone")}, "text", "key").run(texts)
    assert "no such folder" in str(error)
