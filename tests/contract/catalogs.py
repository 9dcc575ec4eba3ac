"""Small worlds and small models for tests."""

from typing import Any

import torch
from torch import Tensor

from hm4sr.models import get_model, registered_models
from hm4sr.models.base import SeqRecModel
from hm4sr.types import Catalog, Clock, ItemFeatures, SeqBatch

SPRING = 1_400_000_000  # where a float32 holds multiples of 128 s only
MAX_LENGTH = 12
NAMES = list(registered_models())
LENGTHS = [9, 1, 2, 5, 9, 3]

SMALL: dict[str, Any] = {"dim": 16, "inner": 32}
"""Settings that make a model quick, given to every model that has them."""

OPTIONS: dict[str, dict[str, Any]] = {}
"""Further settings of single models."""


def small_catalog(
    num_items: int = 40,
    modalities: tuple[str, ...] = ("image", "text"),
    num_categories: int = 5,
    missing: bool = True,
    width: int = 8,
    max_length: int = MAX_LENGTH,
    num_blocks: int = 4,
    seed: int = 0,
) -> Catalog:
    """Items with random unit vectors; every category occurs, and each modality lacks items of its own.

    An item's hidden states are its vector with noise of their own in every block of the encoder.
    """
    rng = torch.Generator().manual_seed(seed)
    features = {}
    for number, name in enumerate(modalities):
        present = torch.ones(num_items + 1, dtype=torch.bool)
        present[0] = False
        if missing:
            present[1 + number :: 7] = False
        vectors = torch.randn(num_items + 1, width + number, generator=rng)
        vectors = torch.nn.functional.normalize(vectors, dim=1) * present[:, None]
        levels = vectors[:, None] + 0.5 * torch.randn(
            num_items + 1, num_blocks, width + number, generator=rng
        )
        levels = levels * present[:, None, None]
        start = torch.randn(width + number, generator=rng)
        features[name] = ItemFeatures(vectors, present, levels, start)
    categories = None
    if num_categories:
        items = torch.arange(num_items + 1)
        second = torch.where(items % 3 == 0, (items + 1) % num_categories + 1, 0)
        categories = torch.stack([items % num_categories + 1, second], dim=1)
        categories[0] = 0
    return Catalog(
        num_items=num_items,
        features=features,
        categories=categories,
        num_categories=num_categories,
        clock=Clock(SPRING, SPRING + 90 * 86_400, 30 * 86_400),
        max_length=max_length,
    )


def small_model(name: str, catalog: Catalog | None = None, seed: int = 1, **settings: Any) -> SeqRecModel:
    """A quick model of that name; `settings` win over the tables above."""
    model = get_model(name)
    wanted = {key: value for key, value in SMALL.items() if key in model.Config.model_fields}
    values = {**wanted, **OPTIONS.get(name, {}), **settings}
    rng = torch.Generator().manual_seed(seed)
    built = model(model.Config.parse(values, name), catalog or small_catalog(), rng)
    if torch.empty(0).device.type != "meta":
        built.start_epoch(1)
    return built


def without_noise(name: str) -> dict[str, float]:
    """Settings of that model that switch all its dropout and noise off."""
    return {key: 0.0 for key in get_model(name).Config.model_fields if "dropout" in key or "noise" in key}


def histories(lengths: list[int], num_items: int = 40, parallel: bool = True, seed: int = 0) -> SeqBatch:
    """Random histories, a target after every event (or after the last one alone)."""
    rng = torch.Generator().manual_seed(seed)
    width = max(lengths)
    rows = torch.randint(1, num_items + 1, (len(lengths), width + 1), generator=rng)
    gaps = torch.randint(0, 20 * 86_400, (len(lengths), width), generator=rng)
    return batch_of(rows, SPRING + gaps.cumsum(1) // 4, torch.tensor(lengths), parallel)


def batch_of(rows: Tensor, times: Tensor, lengths: Tensor, parallel: bool = True) -> SeqBatch:
    """Left-aligned sequences; `rows` has one more column than `times`, the target of the last position."""
    position = torch.arange(times.shape[1])
    real = position < lengths[:, None]
    learned = real if parallel else position == lengths[:, None] - 1
    last = times.gather(1, lengths[:, None] - 1)
    return SeqBatch(
        items=torch.where(real, rows[:, :-1], 0),
        times=torch.where(real, times, last),
        lengths=lengths,
        targets=torch.where(learned, rows[:, 1:], 0),
        users=torch.arange(len(rows)),
    )


def rows_of(batch: SeqBatch, index: slice | list[int]) -> SeqBatch:
    """Some rows of a batch."""
    return SeqBatch(
        batch.items[index], batch.times[index], batch.lengths[index], batch.targets[index], batch.users[index]
    )


def prefix_of(batch: SeqBatch, length: int) -> SeqBatch:
    """The first `length` events of each row (all rows must be that long)."""
    return SeqBatch(
        batch.items[:, :length],
        batch.times[:, :length],
        torch.full_like(batch.lengths, length),
        batch.targets[:, :length],
        batch.users,
    )


def widened(batch: SeqBatch, columns: int) -> SeqBatch:
    """The same rows with further columns of padding."""

    def pad(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, torch.zeros(len(tensor), columns, dtype=tensor.dtype)], dim=1)

    last = batch.times[:, -1:].expand(-1, columns)
    return SeqBatch(
        pad(batch.items),
        torch.cat([batch.times, last], dim=1),
        batch.lengths,
        pad(batch.targets),
        batch.users,
    )


def training_batch(name: str, lengths: list[int] | None = None, seed: int = 0) -> SeqBatch:
    """Histories laid out as the model learns from them."""
    return histories(lengths or LENGTHS, parallel=get_model(name).parallel, seed=seed)


def total_loss(model: SeqRecModel, batch: SeqBatch) -> Tensor:
    """The sum of the terms."""
    return torch.stack(list(model.losses(batch).values())).sum()


def scores(model: SeqRecModel, batch: SeqBatch) -> Tensor:
    """Of all items after each history, without dropout."""
    model.eval()
    with torch.no_grad():
        return model.scores(batch, model.item_vectors())
