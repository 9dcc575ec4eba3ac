"""Damaged exports and damaged recommendations for all users: none loads silently."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime, of the extra `export`, is not installed")
pytest.importorskip("onnx", reason="onnx, of the extra `export`, is not installed")

import numpy as np
import polars as pl
from safetensors.numpy import save

from hm4sr.errors import UserError
from hm4sr.experiments.verify import verify
from hm4sr.files import hash_files
from hm4sr.manifest import NAME, read_manifest, write_manifest
from hm4sr.serving.batch import BatchConfig, read_recommendations, recommend_all
from hm4sr.serving.export import export_onnx
from hm4sr.serving.onnx_recommender import FILES, OnnxRecommender
from hm4sr.serving.recommender import Recommender
from hm4sr.serving.source import Source
from hm4sr.training.run import train_run
from training_kit import experiment_on, files_of, make_dataset, silent

CONFIG = BatchConfig(k=4, part_users=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its export, and what it recommends to its twelve users, whole between two tests."""
    folder = tmp_path_factory.mktemp("answers")
    make_dataset(folder / "shop")
    train_run(experiment_on(folder / "shop", epochs=1), folder / "run")
    export_onnx(folder / "run", folder / "export")
    recommend_all(Source(str(folder / "run")), CONFIG, folder / "answers")
    return folder


def verified(path: Path) -> None:
    """`hm4sr verify`, as a loader."""
    failed = [check for check in verify(path) if check.passed is False]
    if failed:
        raise UserError(f"{failed[0].subject}: {failed[0].result}")


def test_of_300_damaged_exports_none_loads(place: Path) -> None:
    files = files_of(place / "export")
    assert {file.name for file in files} == {*FILES, NAME}
    assert silent(files, lambda: OnnxRecommender.load(place / "export"), 300, seed=4) == []


def test_of_300_damaged_recommendations_none_loads(place: Path) -> None:
    files = files_of(place / "answers")
    assert {file.name for file in files} == {*(f"part-{part:05d}.parquet" for part in range(4)), NAME}
    assert silent(files, lambda: read_recommendations(place / "answers"), 300, seed=5) == []


def vectors(shape: tuple[int, ...], dtype: type = np.float32) -> bytes:
    return save({"vectors": np.ones(shape, dtype=dtype)})


STRANGE = {
    "no encoder": ("encoder.onnx", b"no protobuf"),
    "an empty encoder": ("encoder.onnx", b""),
    "vectors of other items": ("items.safetensors", vectors((7, 24))),
    "wider vectors": ("items.safetensors", vectors((21, 25))),
    "flat vectors": ("items.safetensors", vectors((21,))),
    "whole numbers": ("items.safetensors", vectors((21, 24), np.int32)),
    "no vectors": ("items.safetensors", save({"others": np.ones(3, dtype=np.float32)})),
    "no table": ("items.parquet", b"PAR1PAR1"),
    "no blocks": (NAME, {"blocks": None}),
    "a block of words": (NAME, {"blocks": {"id": ["a", "b"]}}),
    "a block beyond": (NAME, {"blocks": {"id": [0, 99]}}),
    "a weight that is none": (NAME, {"seen_bias": float("nan")}),
    "no length": (NAME, {"max_length": None}),
    "other times": (NAME, {"invented": {"first": 3}}),
}
"""Exports whose hashes are right and that no run gave."""


@pytest.mark.parametrize("what", STRANGE)
def test_an_export_that_no_run_gave_is_one_sentence(place: Path, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "export"
    shutil.copytree(place / "export", folder)
    name, content = STRANGE[what]
    manifest = read_manifest(folder / NAME)
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
        manifest["files"] = hash_files(folder, FILES)
    else:
        manifest |= content
    write_manifest(folder / NAME, manifest)
    with pytest.raises(UserError, match=r"is damaged|cannot be read|is not a readable") as told:
        OnnxRecommender.load(folder)
    assert str(told.value).endswith(".")


@pytest.mark.parametrize("folder", ["export", "answers"])
def test_verify_names_each_of_200_damages(place: Path, folder: str) -> None:
    assert silent(files_of(place / folder), lambda: verified(place / folder), 200, seed=6) == []


def test_damaged_parts_are_made_anew_and_a_damaged_manifest_is_refused(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers"
    shutil.copytree(place / "answers", out)
    whole = {file.name: file.read_bytes() for file in files_of(out)}
    for name in whole:
        damaged = bytearray(whole[name])
        damaged[len(damaged) // 2] ^= 1
        (out / name).write_bytes(damaged)
        if name == NAME:
            with pytest.raises(UserError):
                recommend_all(Source(str(place / "run")), CONFIG, out)
            assert (out / NAME).read_bytes() == bytes(damaged), "what is not known is not written over"
            (out / NAME).write_bytes(whole[NAME])
        else:
            done = recommend_all(Source(str(place / "run")), CONFIG, out)
            assert (done.parts, done.kept) == (4, 3)
            assert {file.name: file.read_bytes() for file in files_of(out)} == whole


def test_the_table_of_all_parts(place: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(place / "run")
    users = recommender.dataset.users["user_id"].to_list()
    told = read_recommendations(place / "answers")
    expected = recommender.recommend(users, k=4).table()
    assert told.drop("score").equals(expected.drop("score"))
    assert told["score"].to_list() == pytest.approx(expected["score"].to_list(), abs=1e-5)


def test_what_is_no_table_of_recommendations_is_one_sentence(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers"
    with pytest.raises(UserError, match="holds no recommendations"):
        read_recommendations(tmp_path)
    with pytest.raises(UserError, match="is not a folder of recommendations"):
        read_recommendations(place / "export")
    shutil.copytree(place / "answers", out)
    manifest = read_manifest(out / NAME)
    write_manifest(out / NAME, {**manifest, "finished": False})
    with pytest.raises(UserError, match="is not finished"):
        read_recommendations(out)
    write_manifest(out / NAME, {**manifest, "files": {}})
    with pytest.raises(UserError, match="holds no parts"):
        read_recommendations(out)
    (out / NAME).write_text(json.dumps({**manifest, "files": {"../../x": "0"}}))
    with pytest.raises(UserError, match="outside of the folder"):
        read_recommendations(out)
    pl.DataFrame({"x": [1]}).write_parquet(out / "part-00000.parquet")
    write_manifest(out / NAME, manifest)
    with pytest.raises(UserError, match=r"part-00000\.parquet has changed"):
        read_recommendations(out)
