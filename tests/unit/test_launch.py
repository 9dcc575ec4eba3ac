"""Runs in processes of their own; a shell script plays the part of `hm4sr train`."""

import fcntl
import importlib.util
import os
import threading
import time
from pathlib import Path

import pytest

from hm4sr import __version__
from hm4sr.errors import UserError
from hm4sr.experiments import launch
from hm4sr.experiments.distributed import run_there
from hm4sr.experiments.launch import Job, Training, run_jobs
from hm4sr.training.settings import Experiment

# Called as SCRIPT -m hm4sr.cli train CONFIG --out FOLDER [--resume].
SCRIPT = """#!/bin/sh
mkdir -p "$6" "$6/../seen"
echo "$@" > "$6/../seen/$(basename "$6")"
cp "$4" "$6/config.toml"
echo "$OMP_NUM_THREADS" > "$6/threads"
case "$6" in
  *fails) echo "hm4sr: the loss is not a number" >&2; exit 2;;
  *killed) echo "epoch 3: 12/100 step"; kill -9 $$;;
  *waits) echo $$ > "$6/pid"; while [ ! -e "$6/../go" ]; do sleep 0.05; done;;
esac
touch "$6/manifest.json"
"""


@pytest.fixture(autouse=True)
def script(tmp_path, monkeypatch) -> None:
    file = tmp_path / "train.sh"
    file.write_text(SCRIPT)
    file.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(file))


def job(folder: Path, name: str) -> Job:
    values = {"data": {"path": "data"}, "model": {"name": "sasrec", "dropout": 0.25}}
    return Job(Experiment.build(values, "test"), folder / name)


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not (file.exists() and file.stat().st_size):
        assert time.monotonic() < deadline, f"{file} did not appear"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_job_is_trained_with_its_settings(tmp_path):
    done: list[str] = []
    run_jobs([job(tmp_path, "a"), job(tmp_path, "b")], 1, lambda path: done.append(path.name))
    assert done == ["a", "b"]
    assert Experiment.load(tmp_path / "a" / "config.toml").model["dropout"] == 0.25
    run_jobs([], 1, lambda path: done.append("none"))
    assert done == ["a", "b"]


def test_several_run_side_by_side_with_a_share_of_the_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_cores", lambda: 7)
    done: list[str] = []

    def finished(path: Path) -> None:
        done.append(path.name)
        (tmp_path / "go").touch()  # only now may the first go on

    run_jobs([job(tmp_path, "waits"), job(tmp_path, "b")], 2, finished)
    assert done == ["b", "waits"]
    assert (tmp_path / "b" / "threads").read_text().strip() == "3"
    assert (tmp_path / "b.log").is_file()


def test_a_failure_is_named_and_stops_nobody_else(tmp_path):
    done: list[str] = []
    jobs = [job(tmp_path, "fails"), job(tmp_path, "b")]
    with pytest.raises(
        UserError, match=r"1 of 2 runs failed: fails \(the loss is not a number, see .*fails\.log\)"
    ):
        run_jobs(jobs, 2, lambda path: done.append(path.name))
    assert done == ["b"]
    with pytest.raises(UserError, match=r"fails \(exit code 2, see above\)"):
        run_jobs([job(tmp_path, "fails")], 1, lambda path: done.append(path.name))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_killed_is_not_explained_by_its_last_line(tmp_path, workers):
    with pytest.raises(UserError, match=r"killed \(killed by signal 9, as the system does where memory runs"):
        run_jobs([job(tmp_path, "killed")], workers, lambda path: None)


def test_an_interruption_ends_the_processes_and_starts_no_others(tmp_path, monkeypatch):
    real = launch.wait

    def interrupted(pending, **options):
        if (tmp_path / "waits" / "pid").exists():
            raise KeyboardInterrupt
        return real(pending, **options)

    monkeypatch.setattr(launch, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job(tmp_path, "waits"), job(tmp_path, "b")], 1, lambda path: None)
    assert not is_alive(int((tmp_path / "waits" / "pid").read_text()))
    assert not (tmp_path / "b").exists()
    # Called again, it does both.
    monkeypatch.setattr(launch, "wait", real)
    (tmp_path / "go").touch()
    done: list[str] = []
    run_jobs([job(tmp_path, "waits"), job(tmp_path, "b")], 1, lambda path: done.append(path.name))
    assert done == ["waits", "b"]


def test_what_has_whole_epochs_is_resumed(tmp_path):
    state = tmp_path / "a" / "resume" / "epoch-00001"
    state.mkdir(parents=True)
    (state / "manifest.json").touch()
    run_jobs([job(tmp_path, "a"), job(tmp_path, "b")], 1, lambda path: None)
    assert (tmp_path / "seen" / "a").read_text().strip().endswith("--resume")
    assert not (tmp_path / "seen" / "b").read_text().strip().endswith("--resume")


def test_an_error_of_the_caller_ends_the_processes_too(tmp_path):
    def broken(path: Path) -> None:
        wait_for(tmp_path / "waits" / "pid")
        raise OSError("no space is left")

    with pytest.raises(OSError, match="no space"):
        run_jobs([job(tmp_path, "waits"), job(tmp_path, "b")], 2, broken)
    assert not is_alive(int((tmp_path / "waits" / "pid").read_text()))


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(UserError, match=r"--address needs ray: .*'hm4sr\[distributed\]'"):
        run_jobs([job(tmp_path, "a")], 2, lambda path: None, "auto")


def test_a_machine_that_is_not_like_this_one_says_so(tmp_path):
    (tmp_path / ".locks").mkdir()
    here = str(Path.cwd())
    task = Training(job(tmp_path, "a"))
    assert "instead of 0.0.0: install the same" in str(run_there(task, 1, here, "0.0.0"))
    assert "nowhere is not there on" in str(run_there(task, 1, str(tmp_path / "nowhere"), __version__))
    apart = Training(job(tmp_path / "private", "a"))
    assert "all machines must share it" in str(run_there(apart, 1, here, __version__))
    assert run_there(task, 3, here, __version__) is None
    assert (tmp_path / "a" / "threads").read_text().strip() == "3"


def test_a_run_that_another_process_trains_is_waited_for(tmp_path, caplog):
    caplog.set_level("INFO", "hm4sr")
    (tmp_path / ".locks").mkdir()
    with (tmp_path / ".locks" / "a").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done: list[str] = []
        waiting = threading.Thread(
            target=run_jobs, args=([job(tmp_path, "a")], 1, lambda path: done.append(path.name))
        )
        waiting.start()
        deadline = time.monotonic() + 60
        while "being trained by another process" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "manifest.json").touch()  # the other one has finished it
    waiting.join(60)
    assert done == ["a"]
    assert not (tmp_path / "seen").exists(), "it is not trained again"


def test_an_orphan_keeps_its_lock(tmp_path):
    """A process whose parent was killed is waited for, not trained beside."""
    thread = threading.Thread(target=run_jobs, args=([job(tmp_path, "waits")], 1, lambda path: None))
    thread.start()
    wait_for(tmp_path / "waits" / "pid")
    descriptors = Path(f"/proc/{(tmp_path / 'waits' / 'pid').read_text().strip()}/fd")
    if descriptors.is_dir():
        held = {str(file.readlink()) for file in descriptors.iterdir() if file.is_symlink()}
        assert str(tmp_path / ".locks" / "waits") in held
    (tmp_path / "go").touch()
    thread.join(60)
    assert not thread.is_alive()
