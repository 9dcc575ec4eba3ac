"""`hm4sr verify`: what is whole passes, what is not is named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hm4sr.cli import main
from hm4sr.evaluation.metrics import summarise
from hm4sr.evaluation.ranking import RankedTargets
from hm4sr.experiments.verify import _ranked_anew, verify
from hm4sr.features.store import load_features, save_features
from hm4sr.files import hash_files
from hm4sr.manifest import NAME, read_manifest, write_manifest
from hm4sr.training.run import train_run
from training_kit import experiment_on, make_dataset


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    make_dataset(folder / "shop")
    train_run(experiment_on(folder / "shop", epochs=1), folder / "run")
    return folder


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Path:
    shutil.copytree(place / "run", tmp_path / "run")
    return tmp_path / "run"


def seal(folder: Path) -> None:
    manifest = read_manifest(folder / NAME)
    write_manifest(folder / NAME, {**manifest, "files": hash_files(folder, list(manifest["files"]))})


def wrong(path: Path, data: Path | None = None) -> list[str]:
    return [check.subject for check in verify(path, data) if check.passed is False]


def code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["verify", *arguments])
    return int(str(ended.value.code))


def test_a_run_and_a_data_set_as_they_were_written_pass(place: Path) -> None:
    checks = {check.subject: check.passed for check in verify(place / "run")}
    assert set(checks.values()) == {True}
    assert {"model.safetensors", "data set", "test ranks by the stored weights"} <= set(checks)
    checks = {check.subject: check.passed for check in verify(place / "shop")}
    assert set(checks.values()) == {True}
    assert {"events.parquet", "features/text/vectors.safetensors"} <= set(checks)


def test_the_environment_of_a_run_is_recorded(place: Path) -> None:
    recorded = json.loads((place / "run" / "environment.json").read_text())
    names = {"hm4sr", "python", "torch", "numpy", "processor", "threads", "seed", "matrix_products"}
    assert names <= recorded.keys()


def test_a_changed_file_is_named_with_exit_code_1(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied / "ranks.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert code_of(str(copied)) == 1
    assert "differs: ranks.parquet: has changed since it was written" in capsys.readouterr().err


def test_an_invented_metric_is_found_though_its_hash_is_right(copied: Path) -> None:
    report = json.loads((copied / "report.json").read_text())
    report["test"]["ndcg@10"] += 1e-15 + report["test"]["ndcg@10"] * 1e-12
    (copied / "report.json").write_text(json.dumps(report))
    seal(copied)
    assert wrong(copied) == ["test metrics from ranks.parquet", "test metrics by the stored weights"]


def test_an_invented_rank_is_found_though_its_hash_is_right(copied: Path) -> None:
    ranks = pl.read_parquet(copied / "ranks.parquet")
    swapped = ranks.with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(777).otherwise("rank").alias("rank")
    )
    swapped.with_columns(pl.col("rank").cast(ranks.schema["rank"])).write_parquet(copied / "ranks.parquet")
    seal(copied)
    assert "valid ranks by the stored weights" in wrong(copied)


def test_a_data_set_that_is_gone_is_said_and_no_failure(copied: Path) -> None:
    about = json.loads((copied / "data.json").read_text())
    (copied / "data.json").write_text(json.dumps({**about, "path": str(copied / "gone")}))
    seal(copied)
    last = verify(copied)[-1]
    assert (last.subject, last.passed) == ("data set", None)
    assert wrong(copied) == []


def test_other_data_are_a_difference(copied: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other")
    features = load_features(other, "text")
    save_features(other, "text", replace(features, vectors=features.vectors * 2), {"encoder": "drawn"})
    assert wrong(copied, other.path) == ["data set and ranking"]


def test_what_is_no_folder_of_ours_is_exit_code_2(tmp_path: Path) -> None:
    assert code_of(str(tmp_path)) == 2


@pytest.mark.parametrize(
    ("kept", "found", "fine"),
    [
        ([7] * 2_000, [7] * 2_000, True),
        ([7] * 2_000, [8, 6] + [7] * 1_998, True),
        ([9_000] * 2_000, [9_010] + [9_000] * 1_999, True),
        ([7] * 2_000, [9] + [7] * 1_999, False),
        ([7] * 2_000, [8] * 3 + [7] * 1_997, False),
    ],
)
def test_near_ties_may_change_places_and_nothing_else(kept: list[int], found: list[int], fine: bool) -> None:
    who = np.arange(len(kept))
    table = RankedTargets(who, who + 1, np.array(kept)).table("test")
    report = {"test": summarise(np.array(kept), [10])}
    anew = RankedTargets(who, who + 1, np.array(found))
    checks = list(_ranked_anew("test", anew, table, report))
    assert [check.passed for check in checks] == [fine, fine]
