"""State of a training run on disk: safetensors for tensors, JSON for the rest; always one whole state.

FOLDER/epoch-00003/               after three epochs
FOLDER/epoch-00003-step-0001200/  the same and 1,200 steps of the fourth
    model, optimizer, best, generators .safetensors; progress.json; environment.json; manifest.json
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hm4sr.errors import StoppedError, UserError
from hm4sr.files import atomic_directory, hash_files, read_json, remove_leftovers, write_json, writing
from hm4sr.manifest import NAME, read_manifest, verify_listed, write_manifest
from hm4sr.models.base import SeqRecModel
from hm4sr.nn.ranks import anywhere, current
from hm4sr.nn.shards import sharded_tables
from hm4sr.runtime import describe_machine
from hm4sr.training.optimizer import Optimizer
from hm4sr.training.parallel import from_first
from hm4sr.training.sharding import load_whole, save_whole
from hm4sr.training.stopping import StopSignals

logger = logging.getLogger(__name__)

_TENSORS = ["model.safetensors", "optimizer.safetensors", "best.safetensors", "generators.safetensors"]
_FILES = [*_TENSORS, "progress.json", "environment.json"]
_EPOCH_BUFFERS = "epoch."


@dataclass
class Position:
    """How far the epoch under way has come."""

    step: int = 0
    """Steps that were learned."""
    sums: dict[str, float] = field(default_factory=dict)
    """Each loss term times its targets, summed over these steps."""
    seconds: float = 0.0
    """Time they took."""


@dataclass
class Progress:
    """Where a training run stands."""

    epoch: int = 0
    """Finished epochs."""
    best_epoch: int = 0
    """Epoch (1..) of the best validation score; 0 before the first."""
    best_score: float = -1.0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """One row an epoch, as in metrics.jsonl."""
    position: Position = field(default_factory=Position)
    """Within the next epoch."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Progress":
        """From plain values, as `asdict` gives them."""
        return cls(**{**values, "position": Position(**values.get("position", {}))})

    def where(self) -> str:
        """In words."""
        if self.position.step:
            return f"after step {self.position.step:,} of epoch {self.epoch + 1}"
        return f"after epoch {self.epoch}" if self.epoch else "before the first step"


class States:
    """The states of one training run: one after each epoch, some within long ones, one when it is stopped.

    Several processes save whole epochs alone: within one, each of them has loss sums of its own. The first
    one writes and reads; where item tables are sharded, the others call the same and send or get their rows.

    Args:
        folder: where they are kept; None keeps nothing, or leaves it to the first process.
        minutes: time between two states within an epoch.
        model: what is trained.
        optimizer: what trains it.
        stop: notes the signals to stop.
    """

    def __init__(
        self,
        folder: Path | None,
        minutes: float,
        model: SeqRecModel,
        optimizer: Optimizer,
        stop: StopSignals,
    ):
        self.folder, self.stop = folder, stop
        self._seconds = 60 * minutes
        self._model, self._optimizer = model, optimizer
        self._saved = time.monotonic()
        self._within = folder is not None and current().size == 1
        self._helps = model.bounds is not None and anywhere(folder is not None)
        self._sharded = sharded_tables(model)

    @property
    def kept(self) -> bool:
        """Whether this process has a part in saving and loading."""
        return self.folder is not None or self._helps

    def after_step(self, progress: Progress, best: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        """Save if it is time to, and stop if a signal has come.

        Raises:
            WritingError: the state cannot be written.
            StoppedError: a signal has come; the state is saved.
        """
        due = time.monotonic() - self._saved >= self._seconds
        if not self._within or not (due or self.stop.noted):
            return
        progress.position.sums = {name: float(total) for name, total in sums.items()}
        self.save(progress, best)
        with self.saved_if_stopped(progress, best):
            self.stop.check()

    @contextmanager
    def saved_if_stopped(self, progress: Progress, best: dict[str, Tensor]) -> Iterator[None]:
        """Save the state when what is done within this context is interrupted; it must not move weights.

        A second signal may come while averaged weights are put in place or taken away; nothing is saved then.
        """
        try:
            yield
        except KeyboardInterrupt as error:
            if not self._within or not self._optimizer.whole:  # the state before is whole
                raise
            self.save(progress, best)
            signum = error.signum if isinstance(error, StoppedError) else StoppedError().signum
            raise StoppedError(signum, progress.where()) from error

    def save(self, progress: Progress, best: dict[str, Tensor]) -> None:
        """Write a state beside the one before, then drop the older ones.

        Raises:
            WritingError: it cannot be written; the state before is still there.
        """
        path = None if self.folder is None else self._path(self.folder, progress)
        # One of the same name is the same: nothing here is left to chance.
        missing = path is not None and not (path / NAME).is_file()
        if self._helps:
            missing = from_first(missing)
        if path is None or self.folder is None:
            if missing:
                self._write_tensors(None, best)
            return
        if missing:
            kept = " (the last state is whole)" if saved_states(self.folder) else ""
            with writing(path, f"make room there or mend the rights{kept}"):
                self._write(path, progress, best)
        for old in saved_states(self.folder)[:-1]:
            shutil.rmtree(old, ignore_errors=True)
        self._saved = time.monotonic()

    def _path(self, folder: Path, progress: Progress) -> Path:
        step = progress.position.step
        return folder / f"epoch-{progress.epoch:05d}{f'-step-{step:09d}' if step else ''}"

    def _write(self, path: Path, progress: Progress, best: dict[str, Tensor]) -> None:
        model = self._model
        extra = {f"{_EPOCH_BUFFERS}{name}": model.get_buffer(name) for name in model.epoch_buffers}
        extra = {name: tensor.detach().cpu().contiguous() for name, tensor in extra.items()}
        with atomic_directory(path) as temporary:
            self._write_tensors(temporary, best)
            save_file({"model": model.rng.get_state(), **extra}, temporary / "generators.safetensors")
            write_json(temporary / "progress.json", asdict(progress))
            write_json(temporary / "environment.json", describe_machine(model.rng.device))
            write_manifest(temporary / NAME, {"files": hash_files(temporary, _FILES)})

    def _write_tensors(self, folder: Path | None, best: dict[str, Tensor]) -> None:
        """What other processes may have a part of; without a folder this process sends its part."""
        for name, tensors, is_part in (
            ("model", snapshot(self._model), self._is_part),
            ("best", best, self._is_part),
            ("optimizer", self._optimizer.state(), self._optimizer.has_rows),
        ):
            file = None if folder is None else folder / f"{name}.safetensors"
            save_whole(tensors, file, self._model.bounds, is_part)

    def _is_part(self, name: str) -> bool:
        return name in self._sharded

    def _read_tensors(self, folder: Path | None) -> dict[str, Tensor]:
        """Put what `_write_tensors` wrote into model and optimiser; the best weights are given back."""
        model = self._model

        def read(name: str, is_part: Callable[[str], bool]) -> dict[str, Tensor]:
            return load_whole(
                None if folder is None else folder / f"{name}.safetensors", model.bounds, is_part
            )

        model.load_state_dict(read("model", self._is_part))
        self._optimizer.load_state(read("optimizer", self._optimizer.has_rows))
        return read("best", self._is_part)

    def load(self) -> tuple[Progress, dict[str, Tensor]]:
        """Put the newest whole state into the model and its optimiser; also the best weights so far.

        Raises:
            UserError: there is none, it is damaged, or it is of another experiment.
        """
        if self.folder is None:  # the first process reads; where it stands is told later
            return Progress(), self._read_tensors(None)
        remove_leftovers(self.folder, ["epoch-*"])
        path = newest_whole(self.folder)
        for damaged in saved_states(self.folder)[saved_states(self.folder).index(path) + 1 :]:
            shutil.rmtree(damaged)
        model = self._model
        try:
            progress = Progress.of(read_json(path / "progress.json"))
            if progress.position.step:
                model.start_epoch(progress.epoch + 1)  # what it puts into buffers is overwritten below
            best = self._read_tensors(path)
            extra = load_file(path / "generators.safetensors")
            model.rng.set_state(extra["model"])
            if progress.position.step:
                for name in model.epoch_buffers:
                    model.get_buffer(name).copy_(extra[f"{_EPOCH_BUFFERS}{name}"])
        except (SafetensorError, RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} does not fit this experiment: start again without --resume.") from error
        if progress.position.step and current().size > 1:
            raise UserError(
                f"{path} was saved within an epoch, by one process: continue it with one, without torchrun."
            )
        _warn_of_another_machine(path, describe_machine(model.rng.device))
        return progress, best


def saved_states(folder: Path) -> list[Path]:
    """Whole states, oldest first."""
    return sorted(path for path in folder.glob("epoch-*") if (path / NAME).is_file())


def where_saved(folder: Path) -> str:
    """Where the newest state stands, in words; nothing where there is none."""
    states = saved_states(folder)
    return Progress.of(read_json(states[-1] / "progress.json")).where() if states else ""


def newest_whole(folder: Path) -> Path:
    """The newest state whose files are what was written.

    Training is the same to the last bit every time, so an older state costs time and changes no result.

    Raises:
        UserError: there is none; the message is about the newest.
    """
    states = saved_states(folder)
    if not states:
        raise UserError(f"{folder} holds no saved state: start again without --resume.")
    problems = []
    for path in reversed(states):
        try:
            manifest = read_manifest(path / NAME)
            verify_listed(path, manifest if "files" in manifest else {"files": manifest}, _TENSORS)
            return path
        except UserError as error:
            problems.append(error)
            logger.warning("left out: %s", error)
    raise problems[0]


def snapshot(model: SeqRecModel) -> dict[str, Tensor]:
    """A copy of the model's weights on the CPU."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}


def save_model(model: SeqRecModel, path: Path | None) -> None:
    """Write a model's weights; where its table is sharded, all processes call it, the first with a path."""
    sharded = sharded_tables(model)
    save_whole(snapshot(model), path, model.bounds, lambda name: name in sharded)


def _warn_of_another_machine(path: Path, here: dict[str, Any]) -> None:
    file = path / "environment.json"
    there = read_json(file) if file.is_file() else here
    changed = [
        f"{key} {there.get(key)} then, {here[key]} now"
        for key in ("torch", "processor", "instructions", "device", "threads")
        if there.get(key) != here[key]
    ]
    if changed:
        logger.warning(
            "resumed under other conditions (%s): the weights may differ in their last bits from those of a "
            "run that was never stopped",
            "; ".join(changed),
        )
