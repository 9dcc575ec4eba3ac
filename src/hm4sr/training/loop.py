"""The training loop: epochs of steps, validation after each, the best epoch kept."""

import contextlib
import logging
import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hm4sr.data.batches import TrainingBatches, TrainingWindows
from hm4sr.data.dataset import Dataset, EventLog
from hm4sr.errors import DivergedError, UserError
from hm4sr.evaluation.metrics import summarise
from hm4sr.evaluation.ranking import RankedTargets
from hm4sr.models.base import SeqRecModel
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.ranks import current, together
from hm4sr.nn.shards import sharded_tables
from hm4sr.progress import track
from hm4sr.runtime import (
    choose_device,
    choose_precision,
    keep_freed_memory,
    numpy_generator,
    torch_generator,
)
from hm4sr.training.catalog import build_catalog
from hm4sr.training.checkpoint import Position, Progress, States, snapshot
from hm4sr.training.events import learned_events, seen_events
from hm4sr.training.feed import batches_on
from hm4sr.training.optimizer import Optimizer
from hm4sr.training.parallel import (
    describe_processes,
    from_first,
    local_device,
    own_noise,
    rank_events_together,
    rank_part_together,
    share_of,
    spread_buffers,
    spread_tensors,
    spread_weights,
    sum_losses,
)
from hm4sr.training.settings import Experiment
from hm4sr.training.stopping import StopSignals

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A trained model and what training it showed.

    Attributes:
        model: with the weights of the best epoch.
        progress: validation and losses of every epoch.
        ranks: rank of every target, for "valid" and "test".
        report: metrics, time and memory, as in report.json.
    """

    model: SeqRecModel
    progress: Progress
    ranks: dict[str, RankedTargets]
    report: dict[str, Any]


def build_model(
    experiment: Experiment, dataset: Dataset, device: torch.device, shard: bool = False
) -> SeqRecModel:
    """A fresh model with weights drawn from the experiment's seed.

    Args:
        experiment: all settings.
        dataset: prepared data.
        device: of the model.
        shard: keep this process's rows of the item table alone, where there are several processes.

    Raises:
        UserError: it cannot be built on these data, or not be trained as the experiment wants.
    """
    rng = torch_generator(experiment.seed, "model")
    model = experiment.model_class(experiment.model_settings(), build_catalog(dataset, experiment), rng)
    if experiment.train.parallel and not model.parallel:
        raise UserError(
            f"train.parallel = true is not exact for {model.name}, which sees later events: leave it out."
        )
    if shard and current().size > model.catalog.num_rows:
        raise UserError(
            f"{current().size} processes cannot share {model.catalog.num_rows} rows of items: "
            "leave train.shard_items out."
        )
    if shard and current().size > 1:  # before the device gets it
        model.shard_items(current())
    if device.type != "cpu":
        model.rng = torch_generator(experiment.seed, "model", str(device))
        for module in model.modules():
            if isinstance(module, Dropout):
                module.rng = model.rng
        counts = {
            name: found.to(device)
            for name in ("counts", "target_counts")
            if (found := getattr(model.catalog, name)) is not None
        }
        model.catalog = replace(model.catalog, **counts)
    return model.to(device)


def train(
    experiment: Experiment,
    dataset: Dataset,
    state_folder: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> TrainedModel:
    """Train until validation stops improving, then judge the best epoch once on the test part.

    Args:
        experiment: all settings.
        dataset: prepared data.
        state_folder: where states are kept, after each epoch and within long ones; None keeps nothing.
        resume: continue from that folder's state.
        on_epoch: called with each epoch's row of metrics.

    Raises:
        UserError: nothing to train on, or a state that does not fit.
        DivergedError: a loss is not a number.
        WritingError: a state cannot be written.
        StoppedError: Ctrl-C, SIGTERM or SIGHUP; the state is saved.
    """
    with StopSignals(active=state_folder is not None and current().size == 1) as stop:
        return _train(experiment, dataset, state_folder, resume, on_epoch, stop)


def _train(
    experiment: Experiment,
    dataset: Dataset,
    state_folder: Path | None,
    resume: bool,
    on_epoch: Callable[[dict[str, Any]], None] | None,
    stop: StopSignals,
) -> TrainedModel:
    settings = experiment.train
    if settings.threads:
        torch.set_num_threads(settings.threads)
    keep_freed_memory()
    device = choose_device(local_device(settings.device))
    model = build_model(experiment, dataset, device, settings.shard_items)
    model.matmul_dtype = choose_precision(settings.precision, device)
    seen = seen_events(dataset, experiment.data)
    batches = _training_batches(experiment, dataset, seen, model)
    sampled = settings.loss == "sampled"
    model.negatives = settings.negatives if sampled else 0
    optimizer = Optimizer(
        model, settings.learning_rate, settings.weight_decay, sampled, settings.average_decay
    )
    judged = _validation_targets(experiment, dataset)
    progress, best = Progress(), snapshot(model)
    states = States(state_folder, settings.save_minutes, model, optimizer, stop)
    if resume and states.kept:
        progress, best = states.load()
        logger.info("resumed %s", progress.where())
    progress = _start_alike(model, optimizer, progress)
    logger.info(
        "%s on %s: %s parameters, %s targets an epoch, %s, matrix products in %s",
        experiment.model["name"],
        dataset.name,
        f"{model.num_parameters():,}",
        f"{batches.num_targets:,}",
        device,
        str(model.matmul_dtype).removeprefix("torch."),
    )
    describe_processes(settings.batch_targets, batches.most_targets)
    for name, table in sharded_tables(model).items():
        here, whole = f"{len(table.weight):,}", f"{table.num_embeddings:,}"
        logger.info("%s: this process keeps %s of %s rows", name, here, whole)
    while progress.epoch < settings.epochs and progress.epoch - progress.best_epoch < settings.patience:
        losses = _train_epoch(
            model, optimizer, batches, experiment.seed, device, progress, best, states, settings.compile
        )
        trained = time.perf_counter()
        with states.saved_if_stopped(progress, best), optimizer.averaged(), stop.at_once():
            ranked = rank_events_together(model, seen, judged, device)
        valid = summarise(ranked.ranks, experiment.evaluate.ks)
        if not valid:
            raise UserError(f"{dataset.path} has no validation targets: prepare it with longer histories.")
        progress.epoch += 1
        row = {
            "epoch": progress.epoch,
            "losses": losses,
            "valid": valid,
            "train_seconds": round(progress.position.seconds, 3),
            "valid_seconds": round(time.perf_counter() - trained, 3),
        }
        progress.metrics.append(row)
        progress.position = Position()
        if valid[settings.monitor] > progress.best_score:
            progress.best_score, progress.best_epoch = valid[settings.monitor], progress.epoch
            with optimizer.averaged():
                best = snapshot(model)
        logger.info("%s", describe_epoch(row, settings.monitor, progress))
        states.save(progress, best)
        with states.saved_if_stopped(progress, best):
            stop.check()
        if on_epoch:
            on_epoch(row)
    model.load_state_dict(best)
    spread_weights(model)
    model.eval()
    with stop.at_once():
        ranks = {part: rank_part_together(model, seen, part, device) for part in ("valid", "test")}
    return TrainedModel(model, progress, ranks, _report(experiment, dataset, model, progress, ranks))


def _training_batches(
    experiment: Experiment, dataset: Dataset, seen: EventLog, model: SeqRecModel
) -> TrainingBatches:
    parallel = experiment.train.parallel
    log = learned_events(seen, experiment.data)
    windows = TrainingWindows(
        log,
        experiment.data.max_length,
        model.parallel if parallel is None else parallel,
        experiment.data.window_context,
    )
    if not len(windows):
        raise UserError(f"{dataset.path} has no training targets: prepare it with longer histories.")
    return TrainingBatches(log, windows, experiment.train.batch_targets)


def _start_alike(model: SeqRecModel, optimizer: Optimizer, progress: Progress) -> Progress:
    """Put all processes where the first one stands, which alone reads the state of an interrupted run."""
    if current().size == 1:
        return progress
    spread_weights(model)
    if model.bounds is None:  # else each has its own rows' moments, from the state or from the same start
        moments = spread_tensors(optimizer.state())
        if current().rank:
            optimizer.load_state(moments)
    return Progress.of(from_first(asdict(progress)))


def _validation_targets(experiment: Experiment, dataset: Dataset) -> NDArray[np.int64]:
    """The validation targets that are ranked after each epoch: all, or those of some users."""
    targets = dataset.events.targets("valid")
    owners = dataset.events.users_of(targets)
    users, wanted = np.unique(owners), experiment.train.validation_users
    if not wanted or wanted >= len(users):
        return targets
    chosen = numpy_generator(experiment.seed, "validation").choice(users, wanted, replace=False)
    return targets[np.isin(owners, chosen)]


def _train_epoch(
    model: SeqRecModel,
    optimizer: Optimizer,
    batches: TrainingBatches,
    seed: int,
    device: torch.device,
    progress: Progress,
    best: dict[str, Tensor],
    states: States,
    compiled: bool = False,
) -> dict[str, float]:
    """Learn every target once, or those that are left; returns the mean of each loss term over all.

    Args:
        model: learns.
        optimizer: moves its weights.
        batches: of this epoch and all others.
        seed: of the order of the batches.
        device: where the model is.
        progress: where training stands; its position within the epoch is moved on.
        best: the best weights so far, which belong to a state.
        states: where states are saved within the epoch.
        compiled: whether the losses are compiled.
    """
    epoch, position = progress.epoch + 1, progress.position
    started = time.perf_counter() - position.seconds
    if not position.step:
        model.start_epoch(epoch)
        spread_buffers(model)
    model.train()
    losses = torch.compile(model.losses, dynamic=True) if compiled else model.losses
    sums = {name: torch.tensor(total, device=device) for name, total in position.sums.items()}
    groups = batches.epoch(numpy_generator(seed, "batches", epoch))[position.step :]
    ranks, sharded = current(), model.bounds is not None
    steps = batches_on(device, batches.log, (share_of(windows, ranks, sharded) for windows in groups))
    for share, batch in track(steps, f"epoch {epoch}", len(groups), "step"):
        own_noise(model, seed, epoch, share.windows)
        with together(share.ranks):
            terms = {} if batch is None else losses(batch)
        optimizer.step(torch.stack(list(terms.values())).sum() if terms else None)
        for name, term in terms.items():
            weighted = term.detach() * share.num_targets
            sums[name] = sums.get(name, torch.zeros((), device=device)) + weighted
        position.step, position.seconds = position.step + 1, time.perf_counter() - started
        states.after_step(progress, best, sums)
    position.sums = {name: float(total) for name, total in sums.items()}
    means = {name: total / batches.num_targets for name, total in sum_losses(sums).items()}
    if not all(math.isfinite(mean) for mean in means.values()):
        raise DivergedError(
            f"the loss is not a number in epoch {epoch}: lower train.learning_rate and start again."
        )
    return means


def describe_epoch(row: dict[str, Any], monitor: str, progress: Progress) -> str:
    """One line about an epoch."""
    losses = " ".join(f"{name} {value:.4f}" for name, value in row["losses"].items())
    best = (
        "best"
        if progress.best_epoch == row["epoch"]
        else f"best {progress.best_score:.4f} at {progress.best_epoch}"
    )
    return (
        f"epoch {row['epoch']:3d}  {losses}  valid {monitor} {row['valid'][monitor]:.4f} ({best})  "
        f"{row['train_seconds']:.1f} s + {row['valid_seconds']:.1f} s"
    )


def _report(
    experiment: Experiment,
    dataset: Dataset,
    model: SeqRecModel,
    progress: Progress,
    ranks: dict[str, RankedTargets],
) -> dict[str, Any]:
    seconds = sorted(row["train_seconds"] for row in progress.metrics)
    valid_seconds = sorted(row["valid_seconds"] for row in progress.metrics)
    return {
        "model": experiment.model["name"],
        "dataset": dataset.name,
        "seed": experiment.seed,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "seconds_per_epoch": seconds[len(seconds) // 2],
        "seconds_per_validation": valid_seconds[len(valid_seconds) // 2],
        "peak_memory_mb": round(_peak_memory_mb()),
        "parameters": model.num_parameters(),
        **{part: summarise(ranked.ranks, experiment.evaluate.ks) for part, ranked in ranks.items()},
    }


def _peak_memory_mb() -> float:
    """Largest resident memory of this process so far.

    Linux lets a child begin with its parent's peak in getrusage; VmHWM counts from the start of the program.
    """
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
