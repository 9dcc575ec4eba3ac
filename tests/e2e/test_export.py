import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hm4sr.cli import main
from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.files import sha256
from hm4sr.manifest import read_manifest, write_manifest
from hm4sr.models import get_model, registered_models
from hm4sr.models.base import SeqRecModel
from hm4sr.models.hm4sr import HM4SR
from hm4sr.serving.recommender import Recommender
from hm4sr.training.run import Run, train_run
from hm4sr.training.settings import Experiment

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import DAY, ITEMS, START, USERS, add_features, make_dataset, make_run

pytest.importorskip("onnxruntime", reason="onnxruntime, of the extra `export`, is not installed")
pytest.importorskip("onnx", reason="onnx, of the extra `export`, is not installed")

from hm4sr.serving.export import export_onnx
from hm4sr.serving.onnx_recommender import OnnxRecommender

QUESTIONS = [
    {"histories": [("Käse", START), ("i9", START + DAY), ("007", START + 5 * DAY)]},
    {"histories": [[], ["i9", "nobody"], [("i9", START)] * 9], "k": 99, "filter_seen": False},
    {"histories": ["007", "Käse"], "categories": "odd", "exclude": ["7", "gone"], "at_time": START},
    {"histories": ["007", "Käse"], "include": ITEMS[:7], "without": "time"},
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    add_features(make_dataset(folder / "data"))
    for name in ("hm4sr", "hm4sr-plus", "sasrec"):
        make_run(folder / name, Dataset.open(folder / "data"), name)
        export_onnx(folder / name, folder / f"onnx-{name}")
    return folder


@pytest.fixture
def export(shop, monkeypatch, capsys):
    """Call `hm4sr export` in-process; returns code, output, errors."""
    monkeypatch.chdir(shop)

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["export", *map(str, arguments)])
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out, said.err

    return call


@pytest.mark.parametrize("name", ["hm4sr", "hm4sr-plus", "sasrec"])
def test_an_export_answers_as_the_model_does(shop, name):
    ours, theirs = Recommender.load(shop / name), OnnxRecommender.load(shop / f"onnx-{name}")
    questions = [*QUESTIONS, {"histories": [ours.history(user) for user in USERS], "k": 20}]
    for question in questions:
        one, two = (recommender.recommend(**question) for recommender in (ours, theirs))
        assert one.numbers.tolist() == two.numbers.tolist()
        assert one.scores == pytest.approx(two.scores, abs=1e-5)
        assert (one.sources, list(one.unknown), one.later) == (two.sources, list(two.unknown), two.later)
        assert one.table().drop("score").equals(two.table().drop("score"))
    assert (
        theirs.similar_items("7").table().drop("score").equals(ours.similar_items("7").table().drop("score"))
    )
    assert theirs.modalities == ours.modalities
    told = theirs.score(ITEMS, histories=QUESTIONS[0]["histories"])
    assert told == pytest.approx(ours.score(ITEMS, histories=QUESTIONS[0]["histories"]), abs=1e-5)


REFUSED = {
    "fearec": "does not run",
    "lrurec": "polar",
    "missrec": "no dot products",
    "tedrec": "does not run",
}
"""Models that docs/serving.md calls impossible to export, TedRec with histories as short as here."""
QUICK = {"difsr", "lrurec", "nova", "tisasrec"}
NEEDS_LEVELS = {"iisan"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in sorted({*registered_models()} - {"hm4sr", "hm4sr-plus", "sasrec"} - NEEDS_LEVELS)
    ],
)
def test_what_the_page_says_of_the_other_models(shop, tmp_path, name):
    settings = {key: 8 for key in ("dim", "inner") if key in get_model(name).Config.model_fields}
    experiment = Experiment.build(
        {
            "data": {"path": str(shop / "data"), "max_length": 6},
            "model": {"name": name, **settings},
            "train": {"epochs": 1, "device": "cpu", "threads": 1},
        },
        "test",
    )
    train_run(experiment, tmp_path / "run")
    # In a process of its own: shapes in signatures are enforced here, and a tracer gives tensors for numbers.
    command = [sys.executable, "-m", "hm4sr.cli", "export", str(tmp_path / "run"), "--out"]
    done = subprocess.run([*command, str(tmp_path / "export")], capture_output=True, text=True, check=False)
    if name in REFUSED:
        (sentence,) = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (2, "")
        assert REFUSED[name] in sentence
        assert "export again" not in sentence
        return
    assert done.returncode == 0, done.stderr
    ours, theirs = Recommender.load(tmp_path / "run"), OnnxRecommender.load(tmp_path / "export")
    histories = [ours.history(user) for user in USERS]
    one, two = (recommender.score(ITEMS, histories=histories) for recommender in (ours, theirs))
    assert one == pytest.approx(two, abs=1e-4)


def test_an_export_knows_what_is_added_for_items_of_the_history(shop, tmp_path):
    """Beyond what the model reads of a history, too."""
    run = Run.open(shop / "hm4sr-plus")
    weights = load_file(run.path / "model.safetensors")
    weights["seen.weight"].fill_(0.3)
    model = tmp_path / "run"
    shutil.copytree(run.path, model)
    save_file(weights, model / "model.safetensors")
    manifest = read_manifest(model / "manifest.json")
    files = {**manifest["files"], "model.safetensors": sha256(model / "model.safetensors")}
    write_manifest(model / "manifest.json", {**manifest, "files": files})
    export_onnx(model, tmp_path / "export", shop / "data")
    ours, theirs = Recommender.load(model, shop / "data"), OnnxRecommender.load(tmp_path / "export")
    assert theirs.served.ranker.seen_bias == ours.served.ranker.seen_bias == pytest.approx(3.0)
    question = {"histories": [ours.history(user) for user in USERS], "k": 8, "filter_seen": False}
    one, two = (recommender.recommend(**question) for recommender in (ours, theirs))
    assert one.numbers.tolist() == two.numbers.tolist()
    assert one.scores == pytest.approx(two.scores, abs=1e-5)


def test_gaps_on_the_edges_of_the_interval_table_fall_into_the_same_rows(shop):
    """log2 of a power of two is whole; another rounding of it would be another row."""
    ours, theirs = Recommender.load(shop / "hm4sr"), OnnxRecommender.load(shop / "onnx-hm4sr")
    gaps = [2**power - 1 + more for power in range(1, 25) for more in (-1, 0, 1)]
    histories = [[("i9", START), ("7", START + gap), ("i8", START + 2 * gap)] for gap in gaps]
    one, two = (recommender.score(ITEMS, histories=histories) for recommender in (ours, theirs))
    assert one == pytest.approx(two, abs=1e-5)


WITHOUT_TORCH = """
import sys
import hm4sr
recommender = hm4sr.OnnxRecommender.load(sys.argv[1])
answer = recommender.recommend(histories=[("007", 1405296000), ("i9", 1405382400)], k=3)[0]
print([item.item_id for item in answer.items])
print("torch" in sys.modules)
"""


def test_an_export_needs_no_torch(shop):
    line = [sys.executable, "-c", WITHOUT_TORCH, str(shop / "onnx-hm4sr")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, torch_loaded = done.stdout.splitlines()
    history = [("007", 1405296000), ("i9", 1405382400)]
    expected = Recommender.load(shop / "hm4sr").recommend(histories=history, k=3)[0]
    assert found == str([item.item_id for item in expected.items])
    assert torch_loaded == "False"


def test_only_an_export_is_replaced_and_only_by_force(export, shop):
    code, out, err = export("sasrec", "--out", "again")
    assert (code, err) == (0, "")
    assert out.startswith("again written; 2,000 lists compared, 100.00% of them the same")
    assert "add --force" in export("sasrec", "--out", "again")[2]
    assert export("sasrec", "--out", "again", "--force")[0] == 0
    for place in ("data", "sasrec", "data/items.parquet"):
        before = sorted(path.name for path in (shop / "data").iterdir())
        code, out, err = export("sasrec", "--out", place, "--force")
        assert (code, out) == (2, "")
        assert "is no export" in err
        assert before == sorted(path.name for path in (shop / "data").iterdir())
    assert "is not a folder" in export("nowhere", "--out", "new")[2]
    assert not (shop / "new").exists()


def test_what_does_not_agree_or_cannot_be_exported_is_not_kept(export, shop, monkeypatch):
    def batch_decides(self, batch):
        return SeqRecModel.last_hidden(self, batch) * (-1.0 if int(batch.lengths[0]) != 6 else 1.0)

    monkeypatch.setattr(HM4SR, "last_hidden", batch_decides)
    code, _, err = export("hm4sr", "--out", "new")
    assert code == 2
    assert "lists of the export are those of the model, so it was not kept" in err
    monkeypatch.setattr(HM4SR, "last_hidden", lambda self, batch: torch.linalg.eigvals(batch.items * 1.0))
    code, _, err = export("hm4sr", "--out", "new")
    assert code == 2
    assert "the model hm4sr cannot be exported to ONNX" in err
    monkeypatch.setattr(
        HM4SR, "scores", lambda self, batch, candidates: -SeqRecModel.scores(self, batch, candidates)
    )
    assert "are no dot products" in export("hm4sr", "--out", "new")[2]
    assert not (shop / "new").exists()
    assert not list(shop.glob(".new*"))


def test_an_operation_without_counterpart_prints_no_graph_and_one_that_fails_is_told(
    shop, monkeypatch, capfd
):
    def transformed(self, batch):
        return torch.fft.rfft(SeqRecModel.last_hidden(self, batch)).real

    monkeypatch.setattr(HM4SR, "last_hidden", transformed)
    with pytest.raises(UserError, match="cannot be exported to ONNX"):
        export_onnx(shop / "hm4sr", shop / "new")
    told = capfd.readouterr()
    assert "graph(" not in told.out + told.err
    monkeypatch.undo()

    def fails(folder):
        raise UserError(f"{folder} cannot be read by this onnxruntime (no such index): export again.")

    monkeypatch.setattr("hm4sr.serving.export.OnnxRecommender.load", fails)
    with pytest.raises(UserError, match=r"the export of its model hm4sr does not run .*no such index"):
        export_onnx(shop / "hm4sr", shop / "new")
    assert not (shop / "new").exists()


def test_damaged_and_foreign_folders_are_told(shop, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(shop / "onnx-sasrec", folder)
    with pytest.raises(ValueError, match="is not an export"):
        OnnxRecommender.load(tmp_path)
    with pytest.raises(ValueError, match="is not an export"):
        OnnxRecommender.load(shop / "data")
    manifest = read_manifest(folder / "manifest.json")
    write_manifest(folder / "manifest.json", {**manifest, "version": 99})
    with pytest.raises(ValueError, match="another version"):
        OnnxRecommender.load(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    vectors = bytearray((folder / "items.safetensors").read_bytes())
    vectors[-1] ^= 1
    (folder / "items.safetensors").write_bytes(vectors)
    with pytest.raises(ValueError, match=r"items\.safetensors has changed"):
        OnnxRecommender.load(folder)


def test_an_export_knows_no_users(shop):
    with pytest.raises(ValueError, match=r"not among the 0 users of the export .* give a history instead"):
        OnnxRecommender.load(shop / "onnx-sasrec").recommend("42")
    assert np.isnan(OnnxRecommender.load(shop / "onnx-sasrec").score("7", histories=[[]])).all()
