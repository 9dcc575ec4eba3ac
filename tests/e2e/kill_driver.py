"""Trains, is killed, trains on: a script, because processes are forked from it before any thread runs.

python kill_driver.py FOLDER KILLS SEED [MODEL] prints one JSON object: the hash of the weights of a run that
was never stopped, those of the runs that were killed, and where the kills hit.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import training_kit
from hm4sr.training.checkpoint import saved_states
from hm4sr.training.run import train_run


def started(work: Callable[[], object]) -> int:
    """Run something in a forked process; returns its id."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def finished(child: int) -> int:
    """Exit code of a child; minus the signal's number if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path, kills: int, seed: int, model: str = "hm4sr") -> None:
    """Kill each of the runs once, at a random moment, and resume it."""
    data = folder / "shop"
    assert finished(started(lambda: training_kit.make_dataset(data))) == 0

    def train(path: Path) -> Callable[[], object]:
        # A state after every step: much of the time is spent on saving, so that many kills hit that.
        experiment = training_kit.experiment_on(data, model, save_minutes=1e-9)
        return lambda: train_run(experiment, path, resume=True)

    began = time.monotonic()
    assert finished(started(train(folder / "whole"))) == 0
    length = time.monotonic() - began
    result = {"whole": training_kit.weights_of(folder / "whole"), "killed": [], "hit": []}
    rng = np.random.default_rng(seed)
    while len(result["killed"]) < kills:
        path = folder / f"run-{len(result['hit'])}"
        child = started(train(path))
        time.sleep(float(rng.uniform(0, length)))
        os.kill(child, signal.SIGKILL)
        code = finished(child)
        result["hit"].append(moment(path) if code == -signal.SIGKILL else "too late")
        if code != -signal.SIGKILL:
            continue
        assert finished(started(train(path))) == 0
        result["killed"].append(training_kit.weights_of(path))
    print(json.dumps(result))


def moment(path: Path) -> str:
    """What the process was doing when it was killed."""
    state = path / "resume"
    if not state.is_dir():
        return "before the first state" if not (path / "manifest.json").is_file() else "at the very end"
    if any(state.glob(".epoch-*")):
        return "while saving"
    if (path / "model.safetensors").is_file() or any(path.glob(".*.safetensors")):
        return "while writing the run folder"
    states = saved_states(state)
    return f"after {states[-1].name}" if states else "before the first state"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
