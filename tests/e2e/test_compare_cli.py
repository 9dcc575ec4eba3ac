"""Comparing and searching as a stranger would, through the command line."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_main_job import run

from hm4sr.features.synthetic import SyntheticConfig, synthesize


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, two configurations and a space."""
    place = tmp_path_factory.mktemp("compare")
    sizes = {"users": 120, "items": 50, "events": 1_200, "feature_width": 8}
    synthesize(SyntheticConfig.parse(sizes, "test"), place / "data")
    for name, settings in {"hm4sr": "dim = 8", "sasrec": "dim = 8\ndropout = 0.2"}.items():
        (place / f"{name}.toml").write_text(
            f'[data]\npath = "{place / "data"}"\n[model]\nname = "{name}"\n{settings}\n[train]\nepochs = 2\n'
        )
    (place / "space.toml").write_text('[search]\n"model.dropout" = [0.2, 0.5]\n')
    return place


def test_compare_trains_once_and_writes_every_form(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = (folder / "hm4sr.toml", folder / "sasrec.toml")
    options = ("--runs", folder / "runs", "--workers", 2, "--metric", "ndcg@5", "-k", 5, "-k", 10)
    assert run("compare", *configs, *options, "--out", folder / "first", "--export", folder / "public") == 0
    said = capsys.readouterr().out
    assert "2 of 2 runs are to be trained" in said
    assert "HM4SR over the best other" in said
    folders = sorted(path for path in (folder / "runs").iterdir() if path.is_dir() and path.name[0] != ".")
    assert [path.name[:-12] for path in folders] == ["data-hm4sr", "data-sasrec"]
    weights = [(path / "model.safetensors").stat().st_mtime_ns for path in folders]

    with (folder / "first" / "results.csv").open() as stream:
        rows = {row["Model"]: row for row in csv.DictReader(stream)}
    for path, model in zip(folders, ("HM4SR", "SASRec"), strict=True):
        report = json.loads((path / "report.json").read_text())
        for title, name in {"NDCG@5": "ndcg@5", "MRR@10": "mrr@10", "Hit@10": "hit@10"}.items():
            assert float(rows[model][title]) == pytest.approx(report["test"][name])
        assert int(rows[model]["Parameters"]) == report["parameters"]
        assert float(rows[model]["s / 1,000 rec."]) > 0
        assert int(rows[model]["peak MB"]) == report["peak_memory_mb"]

    # The second time nothing is trained, and from the published copies alone the same tables come out.
    assert run("compare", *configs, *options, "--no-train", "--out", folder / "second") == 0
    assert [(path / "model.safetensors").stat().st_mtime_ns for path in folders] == weights
    published = ("--reports", folder / "public", "--metric", "ndcg@5", "-k", 5, "-k", 10)
    assert run("compare", *published, "--out", folder / "third") == 0
    first = {file.name: file.read_text() for file in (folder / "first").iterdir()}
    assert {file.name: file.read_text() for file in (folder / "second").iterdir()} == first
    third = {file.name: file.read_text() for file in (folder / "third").iterdir()}
    assert set(third) == set(first)
    for name, text in first.items():  # the paper's order of models, HM4SR last
        assert sorted(third[name].splitlines()) == sorted(text.splitlines())


def test_mistakes_are_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = folder / "sasrec.toml", folder / "mistake"
    for arguments, named in {
        (): "--reports",
        (config, "--seeds", "one"): "1,2,3",
        (config, "--seeds", "3-1"): "3-1",
        (config, "--finalists", 2): "--final-seeds",
        (config, "--metric", "recall@5"): "ndcg@10",
        (config, "--ours", "MyModel"): "SASRec",
        (config, "--no-train", "--runs", folder / "nowhere"): "not trained",
        (config, folder / "absent.toml"): "absent.toml",
        ("--reports", folder / "data"): "no finished run",
        (config, "--set", "model.dimm=3"): "dimm",
    }.items():
        capsys.readouterr()
        assert run("compare", *arguments, "--out", out) == 2, arguments
        said = capsys.readouterr().err.strip()
        assert named in said, arguments
        assert len(said.splitlines()) == 1
        assert not out.exists()


def test_tune_ends_with_a_configuration_that_trains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--space", folder / "space.toml", "--trials", 3, "--out", folder / "search")
    assert run("tune", folder / "sasrec.toml", *options) == 0
    assert "2 of 2 points tried" in capsys.readouterr().out
    assert run("train", folder / "search" / "best.toml", "--out", folder / "best") == 0
    assert run("tune", folder / "sasrec.toml", *options, "--set", "model.dropuot=1") == 2
    assert "dropuot" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_a_repeat_continues(folder: Path) -> None:
    runs = folder / "interrupted"
    command = [sys.executable, "-m", "hm4sr.cli", "compare", "sasrec.toml", "hm4sr.toml", "--runs", str(runs)]
    command += ["--set", "train.epochs=6", "--set", "train.patience=6", "--out", "late"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, env=dict(os.environ))
    deadline = time.monotonic() + 300
    while not list(runs.glob("*hm4sr*/resume/epoch-*/manifest.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    (finished,) = runs.glob("*sasrec*/manifest.json")
    (state,) = runs.glob("*hm4sr*/resume/epoch-*")
    before = finished.stat().st_mtime_ns
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert f"resumed after epoch {int(state.name[-5:])}" in done.stdout
    assert "1 of 2 runs are to be trained" in done.stdout
    assert finished.stat().st_mtime_ns == before
