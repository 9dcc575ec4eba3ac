"""`torchrun ... -m hm4sr.cli train` in two processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hm4sr.config import to_toml
from hm4sr.data.dataset import Dataset
from hm4sr.nn.ranks import current
from hm4sr.training.loop import train
from hm4sr.training.run import Run, train_run
from hm4sr.training.settings import Experiment
from processes import in_processes
from unit.test_training import interrupt_after, make_dataset

TIMEOUT_SECONDS = 90


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("parallel") / "walks")


def experiment_on(path: Path, name: str = "hm4sr", model: dict[str, Any] | None = None, **changes: Any):
    still = {"dropout": 0.0, "attention_dropout": 0.0}
    weights = {"pcl_weight": 0.0} if name == "hm4sr" else {}  # the placeholders are drawn
    return Experiment.build(
        {
            "data": {"path": str(path), "max_length": 8},
            "model": {"name": name, "dim": 8, "inner": 16, **still, **weights, **(model or {})},
            "train": {
                "epochs": 2,
                "batch_targets": 64,
                "learning_rate": 0.01,
                "threads": 1,
                "device": "cpu",
                **changes,
            },
            "seed": 4,
        },
        "test",
    )


def torchrun(tmp_path: Path, experiment: Experiment, *options: str, before: str = "", after: str = "") -> Any:
    """Two processes of the command, with shell commands before it and words after it, which may read RANK."""
    config = tmp_path / "config.toml"
    config.write_text(to_toml(experiment.resolved()), encoding="utf-8")
    command = [sys.executable, "-m", "hm4sr.cli", "train", str(config), *options]
    words = " ".join(f"'{word}'" for word in command) + f" {after}"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*launch, "--no-python", "sh", "-c", f"{before} exec {words}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # with what it started
        raise
    return subprocess.CompletedProcess(launch, process.returncode, stdout, stderr)


def two_trainings(path: str, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Losses, ranks and number of learned targets of trainings with batches of several sizes."""
    found = {}
    for name in ("sasrec", "hm4sr"):
        for size in sizes:
            trained = train(experiment_on(Path(path), name, batch_targets=size), Dataset.open(Path(path)))
            losses = [list(row["losses"].values()) for row in trained.progress.metrics]
            found[f"{name} {size} losses"] = torch.tensor(losses)
            found[f"{name} {size} ranks"] = torch.from_numpy(trained.ranks["test"].ranks)
            found[f"{name} {size} users"] = torch.from_numpy(trained.ranks["test"].users)
    return found


def test_two_processes_learn_what_one_learns(dataset, tmp_path):
    sizes = (8, 64)  # of 8, many batches have one row, which the first process learns alone
    together = in_processes(2, tmp_path, two_trainings, str(dataset.path), sizes)
    alone = two_trainings(str(dataset.path), sizes)
    assert current().size == 1
    for key, expected in alone.items():
        assert torch.equal(together[0][key], together[1][key])
        if key.endswith("losses"):
            torch.testing.assert_close(together[0][key], expected, rtol=2e-3, atol=2e-3)
        elif key.endswith("users"):
            assert torch.equal(together[0][key], expected)
        else:  # a few items change places by rounding
            assert (together[0][key] != expected).float().mean() < 0.2


def test_one_process_writes_what_all_learned(dataset, tmp_path):
    experiment = experiment_on(dataset.path, model={"dropout": 0.3}, loss="sampled", negatives=20)
    done = torchrun(tmp_path, experiment, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder:") == 1
    assert done.stdout.count("epoch   1") == 1
    run = Run.open(tmp_path / "run")
    assert run.report["epochs"] == 2
    ranks = run.ranks()
    for part in ("valid", "test"):
        rows = ranks.filter(ranks["part"] == part)
        assert np.array_equal(rows["user"], np.arange(60))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list threads in /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path):
    """One that does may abort the process when the interpreter ends."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from pathlib import Path\n"
        "import torch\n"
        "import torch.distributed as dist\n"
        "from hm4sr.training.parallel import joined\n"
        "def threads():\n"
        "    found = [(task / 'comm').read_text() for task in Path('/proc/self/task').iterdir()]\n"
        "    return sum('gloo' in name for name in found)\n"
        "with joined() as ranks:\n"
        "    dist.all_reduce(torch.ones(1))\n"
        "    import torch.distributed.nn.functional\n"
        "    assert threads() > 0\n"
        "assert threads() == 0, threads()\n",
        encoding="utf-8",
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(script)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_several_processes_continue_what_one_began(dataset, tmp_path):
    experiment = experiment_on(dataset.path, epochs=3)
    whole = train_run(experiment, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_run(experiment, tmp_path / "run", on_epoch=interrupt_after(1))
    done = torchrun(tmp_path, experiment, "--out", str(tmp_path / "run"), "--resume")
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "run")
    assert run.metrics()[0]["losses"] == whole.metrics()[0]["losses"]
    again = torchrun(tmp_path, experiment, "--out", str(tmp_path / "run"), "--resume")
    assert again.returncode == 0, again.stderr
    assert "epoch   1" not in again.stdout, "a finished run is left as it is"
    for one, other in zip(run.metrics()[1:], whole.metrics()[1:], strict=True):
        assert one["losses"] == pytest.approx(other["losses"], rel=2e-3, abs=2e-3)


def test_a_mistake_that_all_make_is_told_once(tmp_path):
    done = torchrun(tmp_path, experiment_on(tmp_path / "nowhere"), "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert done.stderr.count("hm4sr: ") == 1
    assert "nowhere" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_mistake_of_one_process_ends_all_and_is_told_once(dataset, tmp_path):
    done = torchrun(
        tmp_path,
        experiment_on(dataset.path),
        "--out",
        str(tmp_path / "run"),
        after="--set seed=$((7 + RANK))",
    )
    assert done.returncode != 0
    assert done.stderr.count("hm4sr: ") == 1
    assert "process 1 has other settings than the first one" in done.stderr
    assert "Connection closed" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_when_one_process_is_killed_the_others_end_too(dataset, tmp_path):
    experiment = experiment_on(dataset.path, epochs=100_000, patience=100_000)
    # torchrun takes $$ for $.
    killing = "if [ $RANK = 1 ]; then (sleep 7; kill -9 $$$$) & fi;"
    done = torchrun(tmp_path, experiment, "--out", str(tmp_path / "run"), before=killing)
    assert done.returncode != 0
    assert done.stderr.count("hm4sr: ") <= 1  # none, where it is killed before the two have met
    assert "hm4sr/training" not in done.stderr, "a traceback"
