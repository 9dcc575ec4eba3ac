"""What the benchmarks share: build a model, time its steps and its ranking in this process."""

import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hm4sr.data.batches import TrainingBatches, Windows, make_batch, training_windows
from hm4sr.data.dataset import Dataset
from hm4sr.evaluation.ranking import rank_events
from hm4sr.models.base import SeqRecModel
from hm4sr.runtime import choose_device, choose_precision, keep_freed_memory, numpy_generator
from hm4sr.training.loop import build_model
from hm4sr.training.optimizer import Optimizer
from hm4sr.training.settings import Experiment


@dataclass
class Bench:
    """A model on a data set, ready to be timed."""

    dataset: Dataset
    model: SeqRecModel
    optimizer: Optimizer
    batches: TrainingBatches
    device: torch.device

    @classmethod
    def build(cls, settings: dict[str, Any], threads: int = 0, keep_memory: bool = True) -> "Bench":
        """From the nested settings of an experiment."""
        if threads:
            torch.set_num_threads(threads)
        if keep_memory:
            keep_freed_memory()
        experiment = Experiment.build(settings, "benchmark")
        train = experiment.train
        dataset, device = Dataset.open(experiment.data.path), choose_device(train.device)
        model = build_model(experiment, dataset, device)
        model.matmul_dtype = choose_precision(train.precision, device)
        sampled = train.loss == "sampled"
        model.negatives = train.negatives if sampled else 0
        optimizer = Optimizer(model, train.learning_rate, train.weight_decay, sampled, train.average_decay)
        parallel = model.parallel if train.parallel is None else train.parallel
        windows = training_windows(dataset.events, experiment.data.max_length, parallel)
        batches = TrainingBatches(dataset.events, windows, train.batch_targets)
        return cls(dataset, model, optimizer, batches, device)

    def step(self, windows: Windows) -> float:
        """Seconds of one training step."""
        started = time.perf_counter()
        terms = self.model.losses(make_batch(self.dataset.events, windows).to(self.device))
        self.optimizer.step(torch.stack(list(terms.values())).sum())
        self._wait()
        return time.perf_counter() - started

    def steps(self, warm_up: int, most: int | None = None) -> tuple[list[float], int]:
        """Seconds of each step of an epoch, or of its first `most`; and how many steps an epoch has."""
        self.model.train()
        groups = self.batches.epoch(numpy_generator(1, "batches", 1))
        for windows in groups[:warm_up]:
            self.step(windows)
        return [self.step(windows) for windows in groups[:most]], len(groups)

    def ranking(self, most: int | None = None) -> float:
        """Seconds to rank all test targets, or `most` of them drawn at random."""
        targets = self.dataset.events.targets("test")
        if most is not None and most < len(targets):
            targets = np.sort(np.random.default_rng(1).choice(targets, most, replace=False))
        started = time.perf_counter()
        rank_events(self.model, self.dataset.events, targets, self.device)
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak_mb() -> int:
    """Largest resident memory of this process so far, in MB of 2**20 bytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def summary(bench: Bench, seconds: list[float], num_steps: int, ranking: list[float]) -> dict[str, Any]:
    """The figures of one row."""
    return {
        "step_ms": statistics.median(seconds) * 1e3,
        "epoch_s": sum(seconds) / len(seconds) * num_steps,
        "ranking_s": statistics.median(ranking),
        "peak_mb": peak_mb(),
        "threads": torch.get_num_threads(),
        "precision": str(bench.model.matmul_dtype).removeprefix("torch."),
        "device": str(bench.device),
    }


def settings_of(path: Path, name: str, **sections: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with the given keys over the defaults."""
    return {
        "data": {"path": str(path), **sections.get("data", {})},
        "model": {"name": name, **sections.get("model", {})},
        "train": sections.get("train", {}),
    }
