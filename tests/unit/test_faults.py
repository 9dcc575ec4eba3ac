"""States of training: whatever fails while one is saved, the newest that is there is whole.

Every call that touches the disk fails in turn, before or after it did its work, by an error or by the death
of the process. Afterwards the newest state is the old one or the new one, and training goes on from it.
"""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.catalogs import histories, small_model
from hm4sr import files
from hm4sr.errors import UserError, WritingError
from hm4sr.training import checkpoint
from hm4sr.training.checkpoint import Progress, States, saved_states, snapshot
from hm4sr.training.optimizer import Optimizer
from hm4sr.training.stopping import StopSignals
from training_kit import digest_of

CALLS: list[tuple[Any, str]] = [
    (files.tempfile, "mkdtemp"),
    (files.tempfile, "mkstemp"),
    (files.os, "open"),
    (files.os, "fsync"),
    (Path, "write_text"),
    (Path, "chmod"),
    (Path, "rename"),
    (Path, "replace"),
    (checkpoint, "save_file"),
    (files.os, "unlink"),
    (files.os, "rmdir"),
]
"""What saving a state calls to change something on the disk."""


class Trainer:
    """A model that learns, with what its state is made of."""

    def __init__(self, folder: Path, seed: int = 1):
        self.model = small_model("sasrec", seed=seed).train()
        self.optimizer = Optimizer(self.model, 0.01, 0.0, sparse=False, average=0.9)
        self.progress = Progress()
        self.states = States(folder, 1e-9, self.model, self.optimizer, StopSignals(active=False))

    def step(self) -> None:
        terms = self.model.losses(histories([9, 5, 3], seed=self.progress.position.step))
        self.optimizer.step(torch.stack(list(terms.values())).sum())
        self.progress.position.step += 1

    def save(self) -> None:
        self.states.save(self.progress, snapshot(self.model))

    def digest(self) -> str:
        generator = {"generator": self.model.rng.get_state()}
        return digest_of({**snapshot(self.model), **self.optimizer.state(), **generator})


def loaded(folder: Path) -> str:
    """The state that training would go on from."""
    trainer = Trainer(folder, seed=2)
    trainer.progress, _ = trainer.states.load()
    return trainer.digest()


@contextmanager
def failing(number: int, fault: Callable[[str], None], after: bool) -> Iterator[list[str]]:
    """Within this context the call of that number (from 1) fails; yields the names of all calls."""
    called: list[str] = []

    def wrap(function: Any, name: str) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            called.append(name)
            wanted = len(called) == number
            if wanted and not after:
                fault(name)
            result = function(*arguments, **options)
            if wanted and after:
                fault(name)
            return result

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, wrap(getattr(owner, name), name))
        yield called


def refuse(name: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


def die(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def calls_of_a_save(folder: Path) -> list[str]:
    trainer = Trainer(folder)
    trainer.step()
    trainer.save()
    trainer.step()
    with failing(0, refuse, after=False) as called:
        trainer.save()
    return called


def with_faults(folder: Path, number: int, after: bool, fault: Callable[[str], None]) -> tuple[str, str]:
    """Save a state, then the next one with a fault; returns the hashes of both."""
    trainer = Trainer(folder)
    trainer.step()
    trainer.save()
    first = trainer.digest()
    trainer.step()
    second = trainer.digest()
    print(json.dumps([first, second]), flush=True)
    with failing(number, fault, after):
        trainer.save()
    return first, second


def test_an_error_in_any_call_leaves_a_whole_state_and_says_what_to_do(tmp_path: Path) -> None:
    calls = calls_of_a_save(tmp_path / "count")
    assert {"mkdtemp", "fsync", "rename", "replace", "save_file", "write_text", "unlink"} <= set(calls)
    kept, messages = [], []
    for number in range(1, len(calls) + 1):
        for after in (False, True):
            folder = tmp_path / f"{number}-{after}"
            trainer = Trainer(folder)
            trainer.step()
            trainer.save()
            first = trainer.digest()
            trainer.step()
            try:
                with failing(number, refuse, after):
                    trainer.save()
            except WritingError as error:
                messages.append(str(error))
            found = loaded(folder)
            assert found in (first, trainer.digest())
            kept.append(found == first)
            trainer.save()  # there is room again
            assert loaded(folder) == trainer.digest()
            assert len(saved_states(folder)) == 1
            assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert any(kept)
    assert not all(kept)
    assert len(messages) >= len(calls)
    for said in ("No space left on device", "make room", "the last state is whole"):
        assert all(said in message for message in messages)


def test_death_in_any_call_leaves_a_whole_state(tmp_path: Path) -> None:
    calls = calls_of_a_save(tmp_path / "count")
    faults = [(number, after) for number in range(1, len(calls) + 1) for after in (False, True)]
    assert len(faults) >= 50
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), json.dumps(faults)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2 * len(faults)
    kept, ended = [], []
    for (number, after), states, code in zip(faults, lines[::2], lines[1::2], strict=True):
        found = loaded(tmp_path / f"dead-{number}-{after}")
        # A save that needed fewer calls than the counted one ends well.
        assert found in states if code == -signal.SIGKILL else (code, found) == (0, states[1])
        kept.append(found == states[0])
        ended.append(code)
    assert ended.count(-signal.SIGKILL) >= 0.9 * len(faults)
    assert any(kept)
    assert not all(kept)


def die_in_turn(folder: Path, faults: list[tuple[int, bool]]) -> None:
    """Each fault in a forked process of its own, which is much quicker than a new interpreter."""
    for number, after in faults:
        child = os.fork()
        if child == 0:
            with_faults(folder / f"dead-{number}-{after}", number, after, die)
            os._exit(0)
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])), flush=True)


def test_a_damaged_state_is_passed_over_if_an_older_one_is_whole(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.step()
    trainer.save()
    first = trainer.digest()
    trainer.step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)  # killed before the old one went
        trainer.save()
    older, newer = saved_states(tmp_path)
    weights = newer / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert loaded(tmp_path) == first
    assert saved_states(tmp_path) == [older], "the damaged one would be in the way of the one to come"
    (older / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        loaded(tmp_path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    die_in_turn(Path(sys.argv[1]), json.loads(sys.argv[2]))
