"""`hm4sr experiment` as a stranger would use it: shared runs, a kill, a report from copies."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_main_job import run

from hm4sr.features.synthetic import SyntheticConfig, synthesize
from hm4sr.files import sha256

PARTS = ("table1:SASRec,HM4SR", "ablation:full,-CP", "hyperparameters:K1 = 4", "studies:weights not averaged")
OPTIONS = [
    *(option for part in PARTS for option in ("--part", part)),
    *("--set", "model.dim=8", "--set", "train.epochs=2", "--set", "train.threads=1"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("experiments")
    sizes = {"users": 120, "items": 50, "events": 1_200, "feature_width": 8, "modalities": ("text",)}
    synthesize(SyntheticConfig.parse(sizes, "test"), place / "data" / "tiny")
    return place


@pytest.fixture
def at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Tables and figures, without what tells times."""
    found: Iterator[Path] = (
        file for file in folder.rglob("*") if file.suffix in (".csv", ".tex", ".md", ".svg", ".pdf")
    )
    return {str(file.relative_to(folder)): file.read_bytes() for file in found if file.stem != "costs"}


def started(*options: str) -> list[str]:
    return [sys.executable, "-m", "hm4sr.cli", "experiment", "all", "data/tiny", *OPTIONS, *options]


def test_killed_anywhere_it_ends_with_the_same_tables(at: Path) -> None:
    """Whole, and killed twice (within a run, and between runs): the same bytes, in processes of their own."""
    assert (
        subprocess.run(started("--out", "whole", "--runs", "a"), capture_output=True, check=False).returncode
        == 0
    )
    for wanted in ("*/resume/epoch-*/manifest.json", "*/manifest.json"):
        process = subprocess.Popen(
            started("--out", "killed", "--runs", "b"), stdout=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while not list(Path("b").glob(wanted)) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        started("--out", "killed", "--runs", "b"),
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in Path("a").iterdir() if path.is_dir() and path.name[0] != ".")
    assert len(names) == 4, "full, HM4SR and K1 = 4 are one run"
    assert sorted(path.name for path in Path("b").iterdir() if path.is_dir() and path.name[0] != ".") == names
    whole, killed = files(at / "whole"), files(at / "killed")
    assert whole == killed
    assert {"table1/results.csv", "ablation/ablation.svg", "ablation/ablation.pdf"} <= set(whole)
    assert (at / "killed" / "all.html").is_file()
    assert not list((at / "killed").rglob(".*"))


def test_the_report_says_what_was_not_run_and_what_does_not_apply(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--set", "model.dim=8", "--set", "train.epochs=2", "--set", "train.threads=1")
    assert run("experiment", "ablation", "data/tiny", "--part", "ablation:full", *options, "--runs", "c",
               "--out", "one", "--export", "public") == 0  # fmt: skip
    page = (at / "one" / "ablation.html").read_text()
    results = (at / "one" / "ablation" / "results.csv").read_text()
    assert "-Image is left out: the data set has no image features." in page
    assert "'-CP,not run" in results
    assert "-Image" not in results
    for outside in ("http://www.w3.org/", "https://"):  # name spaces aside, nothing from elsewhere
        page = page.replace('xmlns="http://www.w3.org/2000/svg"', "").replace(
            'xmlns:xlink="http://www.w3.org/1999/xlink"', ""
        )
        assert outside not in page
    assert str(at) not in page
    # From the copies alone: no training, no weights, and not even the data set.
    capsys.readouterr()
    again = (
        "experiment",
        "ablation",
        "tiny",
        "--no-train",
        "--reports",
        "public",
        "--runs",
        "nowhere",
        *options,
    )
    assert run(*again, "--out", "copies", "--report") == 0
    assert files(at / "copies") == files(at / "one")
    whole = (at / "copies" / "all.html").read_text()
    assert "1 of 7 lines have runs" in whole
    assert "1 of 14 lines have runs" in whole
    assert "The data set itself is needed for this" in whole


def test_mistakes_are_one_sentence(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"users": 60, "items": 30, "events": 400, "modalities": ()}
    synthesize(SyntheticConfig.parse(sizes, "test"), at / "data" / "bare")
    for arguments, named in {
        ("ablatoin", "data/tiny"): "did you mean 'ablation'",
        ("ablation", "data/nowhere"): "not a prepared data set",
        ("ablation", "data/bare"): "no features",
        ("ablation", "data/tiny", "--part", "ablation:-XY"): "no part '-XY'",
        ("ablation", "data/tiny", "--part", "-CP"): "NAME:LABEL",
        ("ablation", "data/tiny", "--set", "model.dimm=3"): "dimm",
        ("ablation", "data/tiny", "--set", "data.path=x"): "DATASET",
        ("ablation", "data/tiny", "--metric", "recall@5"): "ndcg@10",
        ("ablation", "data/tiny", "--seeds", "one"): "1,2,3",
        ("ablation", "nobody", "--no-train", "--reports", "data"): "nobody",
    }.items():
        capsys.readouterr()
        assert run("experiment", *arguments, "--out", "mistake", "--runs", "none") == 2, arguments
        said = capsys.readouterr().err.strip()
        assert named in said, arguments
        assert len(said.splitlines()) == 1
        assert not Path("mistake").exists()
        assert not Path("none").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_cluster_trains_what_this_machine_trains(at: Path) -> None:
    part = ("experiment", "ablation", "data/tiny", "--part", "ablation:full", *OPTIONS[2 * len(PARTS) :])
    assert run(*part, "--runs", "near", "--out", "near-report") == 0
    cluster = ("--workers", 2, "--address", "local")
    assert run(*part, *cluster, "--runs", "far", "--out", "far-report") == 0
    (near,), (far,) = Path("near").glob("*/model.safetensors"), Path("far").glob("*/model.safetensors")
    assert (far.parent.name, sha256(far)) == (near.parent.name, sha256(near))
    assert files(at / "far-report") == files(at / "near-report")
