"""A tiny data set with all that any model reads, and experiments on it; importable by scripts too."""

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import helpers_serving
from hm4sr.config import to_toml
from hm4sr.data.dataset import Dataset
from hm4sr.errors import StoppedError, UserError
from hm4sr.features.store import save_features
from hm4sr.files import sha256
from hm4sr.models import get_model
from hm4sr.models.base import SeqRecModel
from hm4sr.runtime import numpy_generator
from hm4sr.training.events import seen_events
from hm4sr.training.loop import _training_batches, build_model
from hm4sr.training.run import train_run
from hm4sr.training.settings import Experiment
from hm4sr.types import ItemFeatures

SETTINGS: dict[str, dict[str, Any]] = {
    "ticoserec": {"hybrid_after": 1},  # what is similar is found anew in every epoch
    "m3srec": {"pretrain_epochs": 1, "layers": 2},
    "missrec": {"layers": 2},
}
"""Settings that bring in what a model does once an epoch, or that it cannot do without."""


def make_dataset(path: Path) -> Dataset:
    """Twelve users and 20 items with text and image vectors, the hidden states of an encoder included."""
    dataset = helpers_serving.make_dataset(path)
    rng = torch.Generator().manual_seed(5)
    rows = len(helpers_serving.ITEMS) + 1
    for missing, name in ((2, "text"), (3, "image")):
        present = torch.ones(rows, dtype=torch.bool)
        present[[0, missing]] = False
        vectors = torch.randn(rows, 6, generator=rng) * present[:, None]
        levels = (torch.randn(rows, 4, 6, generator=rng) * present[:, None, None]).half()
        start = torch.randn(6, generator=rng)
        save_features(dataset, name, ItemFeatures(vectors, present, levels, start), {"encoder": "drawn"})
    return dataset


def experiment_on(path: Path, name: str = "hm4sr", seed: int = 3, **train: Any) -> Experiment:
    """About a dozen steps an epoch, in bytes that are the same on every start."""
    wanted = {"dim": 8, "inner": 16, "layers": 1, **SETTINGS.get(name, {})}
    model = {key: value for key, value in wanted.items() if key in get_model(name).Config.model_fields}
    settings = {"epochs": 3, "batch_targets": 8, "threads": 1, "device": "cpu", "learning_rate": 0.01}
    values = {
        "data": {"path": str(path), "max_length": 8},
        "model": {"name": name, **model},
        "train": {**settings, **train},
        "seed": seed,
    }
    return Experiment.build(values, "test")


def write_toml(experiment: Experiment, path: Path) -> Path:
    """The experiment as a file for the command line."""
    path.write_text(to_toml(experiment.resolved()), encoding="utf-8")
    return path


def weights_of(run: Path) -> str:
    """sha256 of a run's weights."""
    return sha256(run / "model.safetensors")


def digest_of(tensors: dict[str, torch.Tensor]) -> str:
    """One hash of named tensors."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return found.hexdigest()


class SignalAtStep:
    """Sends this process a signal while it is in the n-th call of a model's `losses`."""

    def __init__(self, patch: pytest.MonkeyPatch, step: int, number: int):
        self.calls, self._step, self._number = 0, step, number
        patch.setattr(SeqRecModel, "train", self._watching(SeqRecModel.train))

    def _watching(self, train: Any) -> Any:
        def patched(model: SeqRecModel, mode: bool = True) -> SeqRecModel:
            if mode and "losses" not in vars(model):
                object.__setattr__(model, "losses", self._counted(model.losses))
            return train(model, mode)

        return patched

    def _counted(self, losses: Any) -> Any:
        def counted(batch: Any) -> Any:
            self.calls += 1
            if self.calls == self._step:
                os.kill(os.getpid(), self._number)
            return losses(batch)

        return counted


def stop_at(
    step: int, experiment: Experiment, path: Path, resume: bool = False, number: int = signal.SIGTERM
) -> tuple[StoppedError, int]:
    """Train until a signal comes in that step of this start; returns the error and how many were begun."""
    with pytest.MonkeyPatch.context() as patch:
        watch = SignalAtStep(patch, step, number)
        with pytest.raises(StoppedError) as stopped:
            train_run(experiment, path, resume)
    return stopped.value, watch.calls


def steps_of_an_epoch(dataset: Dataset, experiment: Experiment) -> int:
    """Batches of the first epoch."""
    model = build_model(experiment, dataset, torch.device("cpu"))
    seen = seen_events(dataset, experiment.data)
    batches = _training_batches(experiment, dataset, seen, model)
    return len(batches.epoch(numpy_generator(experiment.seed, "batches", 1)))


def one_byte_otherwise(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """The same bytes with one changed, or cut off somewhere; and what was done, in words."""
    place = int(rng.integers(len(content)))
    if rng.random() < 0.2:
        return content[:place], f"cut off after {place} bytes"
    changed = bytearray(content)
    changed[place] ^= int(rng.integers(1, 256))
    return bytes(changed), f"byte {place} changed"


def files_of(*folders: Path) -> list[Path]:
    return sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())


def silent(files: list[Path], load: Callable[[], object], times: int, seed: int) -> list[str]:
    """Damage a file, load, mend it, and so on through all files; returns the damage that nobody noticed."""
    rng = np.random.default_rng(seed)
    unnoticed = []
    load()
    for number in range(times):
        file = files[number % len(files)]
        content = file.read_bytes()
        damaged, what = one_byte_otherwise(content, rng)
        file.write_bytes(damaged)
        try:
            load()
            unnoticed.append(f"{file.name}: {what}")
        except UserError:
            pass
        finally:
            file.write_bytes(content)
    load()
    return unnoticed
