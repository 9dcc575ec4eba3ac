"""State of a training run on disk: safetensors for tensors, JSON for the rest; always one whole state."""

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hm4sr.errors import UserError
from hm4sr.files import atomic_directory, hash_files, read_json, verify_files, write_json
from hm4sr.models.base import SeqRecModel
from hm4sr.training.optimizer import Optimizer

_NAMES = ["model.safetensors", "optimizer.safetensors", "best.safetensors", "generators.safetensors"]


@dataclass
class Progress:
    """Where a training run stands after a number of epochs."""

    epoch: int = 0
    """Finished epochs."""
    best_epoch: int = 0
    """Epoch (1..) of the best validation score; 0 before the first."""
    best_score: float = -1.0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """One row an epoch, as in metrics.jsonl."""


def save_state(
    folder: Path,
    progress: Progress,
    model: SeqRecModel,
    optimizer: Optimizer,
    best: dict[str, Tensor],
) -> None:
    """Write the state after an epoch beside the one before, then drop the older one."""
    path = folder / f"epoch-{progress.epoch:05d}"
    with atomic_directory(path) as temporary:
        save_file(snapshot(model), temporary / "model.safetensors")
        save_file(best, temporary / "best.safetensors")
        save_file(optimizer.state(), temporary / "optimizer.safetensors")
        save_file({"model": model.rng.get_state()}, temporary / "generators.safetensors")
        write_json(temporary / "progress.json", asdict(progress))
        write_json(temporary / "manifest.json", hash_files(temporary, [*_NAMES, "progress.json"]))
    for old in saved_states(folder)[:-1]:
        shutil.rmtree(old)


def saved_states(folder: Path) -> list[Path]:
    """Whole states, oldest first."""
    return sorted(path for path in folder.glob("epoch-*") if (path / "manifest.json").is_file())


def load_state(folder: Path, model: SeqRecModel, optimizer: Optimizer) -> tuple[Progress, dict[str, Tensor]]:
    """Put the newest state into a model and its optimiser; also the best weights so far.

    Raises:
        UserError: there is none, or it is damaged.
    """
    states = saved_states(folder)
    if not states:
        raise UserError(f"{folder} holds no finished epoch: start again without --resume.")
    path = states[-1]
    verify_files(path, read_json(path / "manifest.json"))
    try:
        model.load_state_dict(load_file(path / "model.safetensors"))
        optimizer.load_state(load_file(path / "optimizer.safetensors"))
        model.rng.set_state(load_file(path / "generators.safetensors")["model"])
        best = load_file(path / "best.safetensors")
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise UserError(f"{path} does not fit this experiment: start again without --resume.") from error
    return Progress(**read_json(path / "progress.json")), best


def snapshot(model: SeqRecModel) -> dict[str, Tensor]:
    """A copy of the model's weights on the CPU."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
