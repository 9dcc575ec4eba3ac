"""Comparing and searching as a stranger would, through the command line."""

import csv
import fcntl
import importlib.util
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
from hm4sr.files import sha256


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

    # Of one model there is no significance: none of an earlier comparison stays beside its tables.
    assert (folder / "third" / "significance.csv").exists()
    (folder / "third" / "mine.csv").write_text("kept")
    assert run("compare", configs[0], *options, "--no-train", "--out", folder / "third") == 0
    assert not (folder / "third" / "significance.csv").exists()
    assert (folder / "third" / "mine.csv").exists()


def test_mistakes_are_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = folder / "sasrec.toml", folder / "mistake"
    for arguments, named in {
        (): "--reports",
        (config, "--seeds", "one"): "1,2,3",
        (config, "--seeds", "3-1"): "3-1",
        (config, "--seeds", "1-99999999999"): "2^31",
        (config, "--seeds", "1-99999"): "10,000 seeds",
        (config, "--seeds", "4294967296"): "2^31",
        (config, "--runs", config): f"{config} is a file, not a folder: choose another --runs",
        (config, "--runs", config / "within"): f"{config} is a file",
        (config, "--export", config): "choose another --export",
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


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "{config}", "--runs", "{runs}"),
        ("tune", "{config}", "--space", "{space}"),
        ("experiment", "table1", "{data}", "--runs", "{runs}"),
        ("demo",),
    ],
)
def test_a_file_in_the_place_of_the_folder_is_found_before_any_work(
    arguments: tuple[str, ...], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, runs = tmp_path / "mine.txt", tmp_path / "runs"
    file.write_text("mine")
    places = {
        "config": folder / "sasrec.toml",
        "space": folder / "space.toml",
        "data": folder / "data",
        "runs": runs,
    }
    assert run(*(word.format(**places) for word in arguments), "--out", file) == 2
    assert capsys.readouterr().err == f"hm4sr: {file} is a file, not a folder: choose another --out.\n"
    assert file.read_text() == "mine"
    assert not runs.exists()


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


needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


@pytest.mark.slow
@needs_ray
def test_a_cluster_gives_what_one_process_gives(folder: Path) -> None:
    configs = (folder / "hm4sr.toml", folder / "sasrec.toml")
    settings = ("--set", "train.threads=1", "--seeds", "1,2")
    assert run("compare", *configs, *settings, "--runs", folder / "here", "--out", folder / "o") == 0
    cluster = ("--workers", 2, "--address", "local", "--runs", folder / "there")
    assert run("compare", *configs, *settings, *cluster, "--out", folder / "o") == 0
    names = sorted(path.parent.name for path in (folder / "here").glob("*/manifest.json"))
    assert len(names) == 4
    assert sorted(path.parent.name for path in (folder / "there").glob("*/manifest.json")) == names
    for name in names:
        for file in ("model.safetensors", "ranks.parquet"):
            assert sha256(folder / "here" / name / file) == sha256(folder / "there" / name / file)
    space = ("--space", folder / "space.toml", "--pruner", "none", "--sampler", "grid")
    options = (*space, "--set", "train.threads=1", "--trials", 2)
    assert run("tune", folder / "sasrec.toml", *options, "--out", folder / "alone") == 0
    assert run("tune", folder / "sasrec.toml", *options, *cluster[:4], "--out", folder / "beside") == 0
    rows = []
    for place in ("alone", "beside"):
        with (folder / place / "trials.csv").open() as stream:
            found = list(csv.DictReader(stream))
        rows.append({(row["model.dropout"], row["ndcg@20"], row["epochs"]) for row in found})
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2


@pytest.mark.slow
@needs_ray
def test_ctrl_c_ends_the_tasks_of_a_cluster_and_a_repeat_continues(folder: Path) -> None:
    runs = folder / "cut"
    command = [sys.executable, "-m", "hm4sr.cli", "compare", "sasrec.toml", "hm4sr.toml", "--runs", str(runs)]
    command += ["--set", "train.epochs=400", "--set", "train.patience=400", "--out", "late"]
    cluster = ["--workers", "2", "--address", "local"]
    process = subprocess.Popen([*command, *cluster], cwd=folder, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(runs.glob("*/resume/epoch-*/manifest.json"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    # The processes have stopped: their locks are free.
    locks = list((runs / ".locks").iterdir())
    assert len(locks) == 2
    for lock in locks:
        with lock.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    states = {path.parent.parent.name: int(path.name[-5:]) for path in runs.glob("*/resume/epoch-*")}
    assert len(states) == 2
    process = subprocess.Popen([*command, *cluster], cwd=folder, stdout=subprocess.DEVNULL)
    for name, epoch in states.items():
        log = runs / f"{name}.log"
        while f"resumed after epoch {epoch}" not in log.read_text():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
