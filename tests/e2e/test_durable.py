"""Nobody loses a night of training: kills, signals, full disks; and the same seed is the same number."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hm4sr.training.checkpoint import saved_states
from hm4sr.training.run import Run, train_run
from training_kit import experiment_on, make_dataset, weights_of, write_toml

DRIVER = Path(__file__).with_name("kill_driver.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("durable") / "shop").path


@pytest.fixture(scope="module")
def whole(shop: Path) -> str:
    """Hash of the weights of a run that nothing happened to."""
    train_run(experiment_on(shop), shop.parent / "whole")
    return weights_of(shop.parent / "whole")


def kill(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    command = [sys.executable, DRIVER, folder, str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    print(result["hit"])
    return result


def test_three_kills_change_nothing(tmp_path: Path) -> None:
    result = kill(tmp_path, 3, seed=1)
    assert result["killed"] == [result["whole"]] * 3


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    result = kill(tmp_path, 20, seed=2)
    assert result["killed"] == [result["whole"]] * 20
    assert "while saving" in result["hit"]


def command(config: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "hm4sr.cli", "train", str(config), "--out", str(out), *more]


def called(line: list[str], limit: int | None = None) -> tuple[int, str]:
    """Exit code and error output of the command line, where no file may grow beyond a limit."""

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        line, capture_output=True, text=True, check=False, env=ENVIRONMENT, preexec_fn=restrict
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(
    shop: Path, whole: str, tmp_path: Path, number: int, code: int
) -> None:
    config = write_toml(experiment_on(shop, save_minutes=1e-9), tmp_path / "config.toml")
    out = tmp_path / "run"
    process = subprocess.Popen(command(config, out), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while not saved_states(out / "resume") and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(number)
    _, told = process.communicate()
    assert process.returncode == code
    assert told.strip().startswith("hm4sr: stopped after")
    assert told.strip().endswith("and the state is saved: go on with the same command and --resume.")
    assert len(told.strip().splitlines()) == 1
    assert called(command(config, out, "--resume")) == (0, "")
    assert weights_of(out) == whole


def test_files_that_may_not_grow_are_one_sentence_and_the_run_goes_on_later(
    shop: Path, whole: str, tmp_path: Path
) -> None:
    config = write_toml(experiment_on(shop), tmp_path / "config.toml")
    code, told = called(command(config, tmp_path / "run"), limit=4_000)
    assert code == 2
    assert told.startswith(f"hm4sr: {tmp_path / 'run'}")
    assert "cannot be written (" in told
    assert "File too large" in told
    assert told.strip().endswith("mend the rights, and go on with the same command and --resume.")
    assert len(told.strip().splitlines()) == 1
    assert called(command(config, tmp_path / "run", "--resume")) == (0, "")
    assert weights_of(tmp_path / "run") == whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes, where mounting is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def remount(place: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", place], check=True)


def test_a_full_disk_is_one_sentence_and_the_last_state_is_whole(
    shop: Path, whole: str, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = experiment_on(shop, save_minutes=1e-9)
    out, ballast = small_disk / "run", small_disk / "ballast"

    def fill(row: dict[str, Any]) -> None:
        """Leave less room than a state needs."""
        state = saved_states(out / "resume")[-1]
        size = sum(file.stat().st_size for file in state.iterdir())
        usage = shutil.disk_usage(small_disk)
        ballast.write_bytes(b"\0" * max(0, usage.free - size // 2))

    from hm4sr.errors import WritingError

    with pytest.raises(WritingError, match=r"No space left on device.*make room.*--resume"):
        train_run(experiment, out, on_epoch=fill)
    assert not [path for path in (out / "resume").iterdir() if path.name.startswith(".")]
    kept = saved_states(out / "resume")[-1]
    with pytest.raises(WritingError, match="the last state is whole"):
        train_run(experiment, out, resume=True)
    assert saved_states(out / "resume") == [kept]
    ballast.unlink()
    train_run(experiment, out, resume=True)
    assert weights_of(out) == whole


def test_a_folder_that_cannot_be_written_is_one_sentence(
    shop: Path, tmp_path: Path, small_disk: Path
) -> None:
    config = write_toml(experiment_on(shop), tmp_path / "config.toml")
    remount(small_disk, "ro")
    code, told = called(command(config, small_disk / "run"))
    assert code == 2
    assert "cannot be written (Read-only file system)" in told
    assert "name another folder with --out" in told
    assert len(told.strip().splitlines()) == 1


FRESH = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from hm4sr.training.run import train_run
from training_kit import experiment_on, weights_of
for name in ("hm4sr", "sasrec"):
    out = Path({out!r}) / name
    train_run(experiment_on(Path({shop!r}), name), out)
    print(weights_of(out))
"""


def test_two_fresh_processes_train_the_same_bytes(shop: Path, whole: str, tmp_path: Path) -> None:
    found = []
    for number in (1, 2):
        out = tmp_path / str(number)
        out.mkdir()
        code = FRESH.format(tests=str(Path(__file__).parents[1]), out=str(out), shop=str(shop))
        environment = {**ENVIRONMENT, "PYTHONHASHSEED": str(number)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert found[0] == found[1]
    assert found[0][0] == whole
    assert found[0][0] != found[0][1]


def test_two_processes_cannot_train_into_one_folder(shop: Path, tmp_path: Path) -> None:
    def second(row: dict[str, Any]) -> None:
        code, told = called(command(config, tmp_path / "run", "--resume"))
        assert (code, "another process trains into" in told) == (2, True)

    config = write_toml(experiment_on(shop, epochs=1), tmp_path / "config.toml")
    train_run(experiment_on(shop, epochs=1), tmp_path / "run", on_epoch=second)
    assert Run.open(tmp_path / "run").report["epochs"] == 1
