"""A prepared data set of a wanted size, with feature vectors, for measuring speed and memory.

Counts are exact and nothing in it would be removed by a 5-core filter. It has the outline of a real log:
lengths with a long tail, popular items, users who keep to a few categories, times that are whole days,
vectors around the centre of their category. It says nothing about which model is better;
`hm4sr.data.simulate` does.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field

from hm4sr.config import Config
from hm4sr.data.dataset import Dataset, save_dataset
from hm4sr.data.interactions import describe, leave_one_out
from hm4sr.errors import UserError
from hm4sr.features.store import save_features
from hm4sr.types import ItemFeatures

_CORE = 5
_FIRST_DAY, _DAYS = 10_957, 5_300  # 2000-01-01, about fourteen and a half years
_ROWS_AT_ONCE = 65_536
_ROUNDS = 2_000


class SyntheticConfig(Config):
    """Size of a synthetic data set; the defaults are those of the Amazon Games log."""

    users: int = Field(24_303, ge=1, le=10_000_000)
    """Number of users."""
    items: int = Field(10_672, ge=_CORE, le=1_000_000)
    """Number of items."""
    events: int = Field(231_780, ge=_CORE, le=100_000_000)
    """Number of events; at least five for each user and for each item."""
    categories: int = Field(190, ge=2)
    """Number of categories; every item has a broad and a fine one."""
    feature_width: int = Field(768, ge=1)
    """Width of the vectors (F)."""
    feature_dtype: Literal["float16", "float32"] = "float32"
    """Number format of the vectors."""
    modalities: tuple[str, ...] = ("text", "image")
    """Names of the modalities; empty for a data set on IDs alone."""
    seed: int = Field(0, ge=0)
    """Seed of the one random generator; the same seed gives the same bytes."""


LARGE: dict[str, Any] = {
    "users": 1_000_000,
    "items": 1_000_000,
    "events": 10_000_000,
    "feature_dtype": "float16",
    "feature_width": 128,
}
"""What the preset `large` changes in the defaults."""


def synthesize(config: SyntheticConfig, path: str | Path) -> Dataset:
    """Write a prepared data set and its features; an existing data set at `path` is replaced.

    Raises:
        UserError: so many events cannot be dealt to so many users and items, by count or after many attempts.
    """
    _check(config)
    generator = np.random.default_rng(config.seed)
    broad_count = max(1, config.categories // 12)
    fine_count = config.categories - broad_count
    fine = generator.permutation(np.arange(config.items) % fine_count)
    mean = config.events / config.users - _CORE
    # Few users with many events each are all of them heavy: a median far below the mean would leave nearly
    # everything to a handful, and an item to be dealt 40 times would not find 40 takers.
    median = max(min(1.5, mean / 2), mean / 4)
    lengths = _long_tailed(config.events, config.users, median, min(config.items // 4, 5_000), generator)
    mean = config.events / config.items - _CORE
    counts = _long_tailed(config.events, config.items, mean / 2, config.users // 10, generator)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    items = _deal(np.repeat(np.arange(config.users), lengths), counts, fine, generator)
    seconds = _days(starts, config.events, generator) * 86_400
    train_end, valid_end = leave_one_out(lengths)
    dataset = save_dataset(
        Path(path),
        pl.DataFrame(
            {
                "user": np.repeat(np.arange(config.users, dtype=np.int32), lengths),
                "item": (items + 1).astype(np.int32),
                "time": seconds,
            }
        ),
        pl.DataFrame(
            {
                "user_id": _names("u", config.users),
                "events": lengths,
                "train_end": train_end,
                "valid_end": valid_end,
            }
        ),
        _item_table(fine, broad_count),
        {**config.model_dump(mode="json"), "time_unit": "seconds"},
        {
            **describe(config.users, config.items, config.events, seconds),  # no pair twice
            "rows_read": config.events,
            "rows_removed": {},
            "items_with": {
                name: config.items * (name != "image")
                for name in ("title", "brand", "categories", "text", "image")
            },
            "time_unit": "seconds",
            "category_separator": None,
        },
    )
    for name in config.modalities:
        about = {"encoder": "synthetic", "seed": config.seed, "width": config.feature_width}
        save_features(dataset, name, _vectors(config, fine, fine_count, generator), about)
    return dataset


def _check(config: SyntheticConfig) -> None:
    least = _CORE * max(config.users, config.items)
    most = config.users * (config.items // 4)
    if not least <= config.events <= most:
        raise UserError(
            f"{config.events:,} events cannot be dealt to {config.users:,} users and {config.items:,} items: "
            f"give between {least:,} and {most:,} with --events."
        )


def _long_tailed(
    total: int, count: int, median: float, longest: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """`count` numbers of at least 5 that sum to `total`: 5 and a log-normal rounded down."""
    extra = total - _CORE * count
    normal = generator.standard_normal(count)
    longest = max(longest - _CORE, -(-extra // count))
    low, high = 0.0, 10.0
    for _ in range(50):
        sigma = (low + high) / 2
        drawn = np.minimum(median * np.exp(sigma * normal), longest).astype(np.int64)
        low, high = (sigma, high) if drawn.sum() <= extra else (low, sigma)
    drawn = np.minimum(median * np.exp(low * normal), longest).astype(np.int64)
    # What is left goes to those who have much already (or to anybody, when nobody may have more).
    while (left := extra - int(drawn.sum())) > 0:
        room = np.flatnonzero((drawn < longest) & (drawn > 2))
        room = room if len(room) else np.flatnonzero(drawn < longest)
        drawn[generator.permutation(room)[:left]] += 1
    return drawn + _CORE


def _deal(
    users: NDArray[np.int64],
    counts: NDArray[np.int64],
    fine: NDArray[np.int64],
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Deal items as often as `counts` says, mostly to users who like the category, never twice to one."""
    copies = np.repeat(np.arange(len(counts)), counts)
    copies = copies[np.argsort(fine[copies] + generator.random(len(copies)), kind="stable")]
    # A favourite is a place in the list of copies sorted by category: large categories have more friends.
    favourites = generator.random((int(users[-1]) + 1, 2))
    wish = favourites[users, generator.integers(0, 2, len(users))] + 0.01 * generator.standard_normal(
        len(users)
    )
    wanders = generator.random(len(users)) < 0.3
    wish[wanders] = generator.random(int(wanders.sum()))
    items = np.empty_like(copies)
    items[np.argsort(wish, kind="stable")] = copies
    for _ in range(_ROUNDS):
        if not len(twice := _repeated(users, items, len(counts))):
            return items
        others = generator.integers(0, len(items), len(twice))
        places = np.unique(np.concatenate([twice, others]))
        items[places] = items[generator.permutation(places)]
    raise UserError(
        f"{len(items):,} events could not be dealt to {int(users[-1]) + 1:,} users and {len(counts):,} items "
        "without anybody having an item twice: give fewer --events, or more of the others."
    )


def _repeated(users: NDArray[np.int64], items: NDArray[np.int64], num_items: int) -> NDArray[np.int64]:
    """Events whose user has had the item before."""
    pairs = users * num_items + items
    order = np.argsort(pairs, kind="stable")
    again: NDArray[np.int64] = order[1:][np.diff(pairs[order]) == 0]
    return again


def _days(starts: NDArray[np.int64], events: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Whole days since 1970 that never decrease within a user; several events a day are common."""
    gaps = np.where(generator.random(events) < 0.4, 0, np.exp(generator.normal(3.0, 1.5, events))).astype(
        np.int64
    )
    running = np.cumsum(gaps)
    lengths = np.diff(starts)
    since = running - np.repeat(running[starts[:-1]], lengths)
    arrival = generator.integers(0, _DAYS - 500, len(lengths))
    # Nobody outlives the log: the days after the arrival are squeezed into what is left of it.
    span = np.maximum(since[starts[1:] - 1], 1)
    shrink = np.minimum(1.0, (_DAYS - 1 - arrival) / span)
    days: NDArray[np.int64] = (since * np.repeat(shrink, lengths)).astype(np.int64)
    return days + np.repeat(arrival, lengths) + _FIRST_DAY


def _item_table(fine: NDArray[np.int64], broad_count: int) -> pl.DataFrame:
    numbers = pl.Series("number", np.arange(len(fine)))
    kind = pl.Series("kind", fine).cast(pl.String).str.zfill(3)
    broad = pl.Series("broad", fine % broad_count).cast(pl.String).str.zfill(2)
    frame = pl.DataFrame([numbers, kind, broad]).with_columns(number=pl.col("number").cast(pl.String))
    return frame.select(
        item_id=pl.concat_str(pl.lit("i"), pl.col("number").str.zfill(7)),
        title=pl.concat_str(pl.lit("Item "), "number", pl.lit(" of kind "), "kind"),
        brand=pl.concat_str(pl.lit("Brand "), "broad"),
        categories=pl.concat_list(
            pl.concat_str(pl.lit("Range "), "broad"), pl.concat_str(pl.lit("Kind "), "kind")
        ),
        text=pl.concat_str(pl.lit("Item "), "number", pl.lit(" of kind "), "kind"),
        image=pl.lit(None, dtype=pl.String),
    )


def _vectors(
    config: SyntheticConfig, fine: NDArray[np.int64], fine_count: int, generator: np.random.Generator
) -> ItemFeatures:
    """Unit-variance noise around the centre of the item's category; row 0 is zero."""
    shape = (config.items + 1, config.feature_width)
    vectors = torch.zeros(shape, dtype=getattr(torch, config.feature_dtype))
    centres = generator.standard_normal((fine_count, config.feature_width), dtype=np.float32)
    for first in range(0, config.items, _ROWS_AT_ONCE):
        rows = fine[first : first + _ROWS_AT_ONCE]
        noise = generator.standard_normal((len(rows), config.feature_width), dtype=np.float32)
        vectors[first + 1 : first + 1 + len(rows)] = torch.from_numpy((noise + centres[rows]) * 0.7)
    present = torch.ones(shape[0], dtype=torch.bool)
    present[0] = False
    return ItemFeatures(vectors, present)


def _names(letter: str, count: int) -> pl.Series:
    return pl.Series(np.arange(count)).cast(pl.String).str.zfill(7).str.replace("^", letter)
